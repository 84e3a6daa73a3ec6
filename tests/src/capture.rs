//! Captures: tcpdump writes, tshark reads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::background::{Background, Lifetime};
use crate::command::Cmd;
use crate::netns::Netns;
use crate::wait::wait_for;

const DEADLINE: Duration = Duration::from_secs(10);

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Background,
    file: PathBuf,
}

impl Capture {
    /// Captures what matches `filter` (pcap syntax; empty for everything) on `interface`, into `file`.
    pub fn start(netns: &Netns, interface: &str, filter: &str, file: &Path) -> Result<Self> {
        let command = netns
            .command("tcpdump")
            .args(["-i", interface, "-n", "-U", "--immediate-mode", "-B", "16384", "-Z", "root", "-w"])
            .arg(file)
            .words(filter);
        let mut process = Background::start(&command, &file.with_extension("log"), Lifetime::WithHarness)?;
        let mut ended = false;
        wait_for(&format!("tcpdump to listen on {interface}"), DEADLINE, || {
            ended = process.try_status()?.is_some();
            Ok(ended || process.log().contains("listening on"))
        })?;
        anyhow::ensure!(!ended, "tcpdump ended at once: {}", process.log().trim());
        Ok(Self { process, file: file.to_owned() })
    }

    /// Ends the capture.
    pub fn stop(mut self) -> Result<Pcap> {
        self.process.stop(Signal::SIGINT, DEADLINE).context("end the capture")?;
        Ok(Pcap { file: self.file })
    }
}

/// A finished capture, read by tshark with UDP port 8472 as VXLAN and 8285 as bare IP packets.
#[derive(Debug)]
pub struct Pcap {
    file: PathBuf,
}

impl Pcap {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// One row per packet that matches `filter` (tshark syntax; empty for all), one column per field.
    ///
    /// Fields that occur outside and inside a tunnel (`ip.src`) hold both values, outer first, with a comma between.
    pub fn rows(&self, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut command =
            self.tshark(filter).words("-T fields -E separator=/t -E occurrence=a -E aggregator=,");
        for field in fields {
            command = command.args(["-e", field]);
        }
        let text = command.run()?;
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// How many packets match `filter`.
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.rows(filter, &["frame.number"])?.len())
    }

    /// The packets that have a wrong IP, TCP, UDP or ICMP checksum in any layer: number, protocols, addresses, ports.
    ///
    /// Packets captured where they were made have checksums that the device would have completed: see
    /// [`crate::topology::Builder::plain_packets`]. A TCP checksum of 0xffff is not counted: it is how Linux writes 0
    /// in software (`CSUM_MANGLED_0` in `skb_checksum_help`), once in 65536 packets; it sums up right, but tshark
    /// wants the other zero.
    pub fn bad_checksums(&self) -> Result<Vec<Vec<String>>> {
        let bad =
            ["ip", "udp", "icmp", "icmpv6"].map(|layer| format!("{layer}.checksum.status == 0")).join(" || ");
        let bad = format!("{bad} || (tcp.checksum.status == 0 && tcp.checksum != 0xffff)");
        let fields = [
            "frame.number",
            "frame.protocols",
            "ip.src",
            "ip.dst",
            "ipv6.src",
            "ipv6.dst",
            "ip.ttl",
            "ip.checksum",
            "ip.checksum.status",
            "tcp.flags",
            "tcp.checksum",
            "tcp.checksum.status",
            "udp.checksum.status",
        ];
        self.rows(&bad, &fields)
    }

    /// What tshark says about every packet that matches, in full: for error messages.
    pub fn details(&self, filter: &str) -> Result<String> {
        self.tshark(filter).arg("-V").run()
    }

    fn tshark(&self, filter: &str) -> Cmd {
        let command = Cmd::host("tshark")
            .arg("-n")
            .arg("-r")
            .arg(&self.file)
            .words("-d udp.port==8472,vxlan -d udp.port==8285,ip");
        let command = ["ip", "tcp", "udp"]
            .iter()
            .fold(command, |command, layer| command.arg("-o").arg(format!("{layer}.check_checksum:TRUE")));
        if filter.is_empty() { command } else { command.arg("-Y").arg(filter) }
    }
}
