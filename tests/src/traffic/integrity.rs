//! Every byte of a transfer, by hash.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Destination, wait_for_listener, wait_for_socket};
use crate::background::Background;
use crate::command::Cmd;
use crate::pod::Pod;
use crate::wait::wait_for;

const PORT: u16 = 5301;
const DEADLINE: Duration = Duration::from_mins(1);
/// So few fit the receiver's socket buffer; nobody sends a lost one again.
const DATAGRAMS: u64 = 10;

/// Sends `bytes` random bytes over TCP and compares what arrives with what was sent. Works in files below `dir`.
pub fn tcp_intact<'pod>(
    client: &'pod Pod,
    server: impl Into<Destination<'pod>>,
    bytes: u64,
    dir: &Path,
) -> Result<()> {
    let Destination { pod: server, address } = server.into();
    let (files, socket) = (Files::random(bytes, dir)?, SocketAddr::new(address, PORT));
    let receive =
        server.netns().command("socat").arg("-u").arg(format!("{},reuseaddr", listen("TCP", address)));
    let mut receiving = Background::start_unnamed(&receive.arg(files.create()))?;
    wait_for_listener(server.netns(), socket, &mut receiving)?;
    let send = client.netns().command("socat").arg("-u").arg(files.open()).arg(format!("TCP:{socket}"));
    let mut sending = Background::start_unnamed(&send)?;
    ensure!(sending.wait(DEADLINE)?.success(), "socat could not send: {}", sending.log());
    ensure!(receiving.wait(DEADLINE)?.success(), "socat could not receive: {}", receiving.log());
    files.compare()
}

/// Sends a few datagrams with `payload` random bytes each and compares what arrives with what was sent; they must
/// arrive all and in order. Works in files below `dir`.
pub fn udp_intact<'pod>(
    client: &'pod Pod,
    server: impl Into<Destination<'pod>>,
    payload: u64,
    dir: &Path,
) -> Result<()> {
    let Destination { pod: server, address } = server.into();
    let (files, socket) = (Files::random(DATAGRAMS * payload, dir)?, SocketAddr::new(address, PORT));
    let block = payload.to_string();
    let receive = server.netns().command("socat").args(["-u", "-b", &block, &listen("UDP", address)]);
    let mut receiving = Background::start_unnamed(&receive.arg(files.create()))?;
    wait_for_socket(server.netns(), socket, "-Huln", &mut receiving)?;
    let send = client.netns().command("socat").args(["-u", "-b", &block]).arg(files.open());
    let mut sending = Background::start_unnamed(&send.arg(format!("UDP-SENDTO:{socket}")))?;
    ensure!(sending.wait(DEADLINE)?.success(), "socat could not send: {}", sending.log());
    wait_for(&format!("{DATAGRAMS} datagrams of {payload} bytes at {socket}"), DEADLINE, || {
        Ok(fs::metadata(&files.arrived).is_ok_and(|file| file.len() == DATAGRAMS * payload))
    })?;
    files.compare()
}

/// The socat address of a server.
fn listen(protocol: &str, address: IpAddr) -> String {
    let kind = if protocol == "UDP" { "RECV" } else { "LISTEN" };
    match address {
        IpAddr::V4(address) => format!("{protocol}4-{kind}:{PORT},bind={address}"),
        IpAddr::V6(address) => format!("{protocol}6-{kind}:{PORT},bind=[{address}]"),
    }
}

/// What is sent and what arrived.
struct Files {
    sent: PathBuf,
    arrived: PathBuf,
}

impl Files {
    fn random(bytes: u64, dir: &Path) -> Result<Self> {
        let files = Self { sent: dir.join("sent"), arrived: dir.join("arrived") };
        let mut random = File::open("/dev/urandom").context("open /dev/urandom")?.take(bytes);
        let sent = &files.sent;
        let mut file = File::create(sent).with_context(|| format!("create {}", sent.display()))?;
        std::io::copy(&mut random, &mut file).context("write random bytes")?;
        // What an earlier transfer left must not count as arrived.
        if files.arrived.exists() {
            fs::remove_file(&files.arrived).context("remove what arrived earlier")?;
        }
        Ok(files)
    }

    fn open(&self) -> String {
        format!("OPEN:{}", self.sent.display())
    }

    fn create(&self) -> String {
        format!("CREATE:{}", self.arrived.display())
    }

    fn compare(&self) -> Result<()> {
        let hash = |path: &Path| -> Result<String> {
            let line = Cmd::host("sha256sum").arg(path).run()?;
            Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
        };
        let (before, after) = (hash(&self.sent)?, hash(&self.arrived)?);
        ensure!(before == after, "what arrived is not what was sent: {before} became {after}");
        Ok(())
    }
}
