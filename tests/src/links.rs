//! Questions about network interfaces, answered by `ip -j` and `ethtool`.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command::Cmd;
use crate::netns::Netns;

/// The packet counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
}

impl Packets {
    /// Both directions together.
    pub fn total(self) -> u64 {
        self.received + self.sent
    }
}

/// Whether the interface exists.
pub fn exists(netns: &Netns, interface: &str) -> Result<bool> {
    let output = Cmd::host("ip").args(["-n", netns.name(), "link", "show", "dev", interface]).output()?;
    Ok(output.status.success())
}

/// The MAC address.
pub fn mac(netns: &Netns, interface: &str) -> Result<String> {
    text(&details(netns, interface)?, "/address", interface)
}

/// The MTU.
pub fn mtu(netns: &Netns, interface: &str) -> Result<u64> {
    number(&details(netns, interface)?, "/mtu", interface)
}

/// How many packets the kernel has counted on the interface.
pub fn packets(netns: &Netns, interface: &str) -> Result<Packets> {
    let link = details(netns, interface)?;
    Ok(Packets {
        received: number(&link, "/stats64/rx/packets", interface)?,
        sent: number(&link, "/stats64/tx/packets", interface)?,
    })
}

/// Turns checksum and segmentation offloads off, so that a capture shows the packets as a wire would: complete
/// checksums, no aggregates.
pub fn make_packets_plain(netns: &Netns, interface: &str) -> Result<()> {
    netns.command("ethtool").args(["-K", interface]).words("tx off tso off gso off gro off").run()?;
    Ok(())
}

/// Runs `ip -j …` in the namespace and parses the answer; no answer at all is an empty list.
pub fn ip_json(netns: &Netns, line: &str) -> Result<Value> {
    let text = netns.command("ip").args(["-j", "-d", "-s"]).words(line).run()?;
    if text.trim().is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).with_context(|| format!("parse the JSON of `ip -j {line}`"))
}

fn details(netns: &Netns, interface: &str) -> Result<Value> {
    let links = ip_json(netns, &format!("link show dev {interface}"))?;
    links.get(0).cloned().with_context(|| format!("{} has no interface {interface}", netns.name()))
}

fn text(link: &Value, pointer: &str, interface: &str) -> Result<String> {
    let value = link.pointer(pointer).and_then(Value::as_str);
    value.map(str::to_owned).with_context(|| format!("`ip -j link` says nothing at {pointer} of {interface}"))
}

fn number(link: &Value, pointer: &str, interface: &str) -> Result<u64> {
    let value = link.pointer(pointer).and_then(Value::as_u64);
    value.with_context(|| format!("`ip -j link` says nothing at {pointer} of {interface}"))
}
