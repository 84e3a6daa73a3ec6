//! A verdict as one line.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use nix::net::if_::if_indextoname;
use ovl_common::wire::{ETHERTYPE_ARP, ICMP, ICMPV6, TCP, UDP};
use ovl_common::{Action, Event, Program, Reason};
use serde::Serialize;

use super::packet::{Ip, Packet};

/// Everything there is to say about a verdict; what does not apply is left out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) struct Line {
    time: String,
    program: &'static str,
    outcome: &'static str,
    reason: &'static str,
    meaning: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
    protocol: String,
    length: u32,
    interface: String,
    ifindex: u32,
    mark: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<IpAddr>,
}

const UNKNOWN: &str = "unknown";

impl Line {
    /// The line about a verdict that was given just now.
    pub(super) fn new(event: &Event, packet: &Packet) -> Self {
        let program = Program::ALL.get(usize::from(event.program)).copied();
        let reason = Reason::ALL.get(usize::from(event.reason)).copied();
        let action = Action::ALL.get(usize::from(event.action)).copied();
        Self {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            program: program.map_or(UNKNOWN, Program::name),
            outcome: action.map_or(UNKNOWN, Action::name),
            reason: reason.map_or(UNKNOWN, Reason::name),
            meaning: reason.map_or(UNKNOWN, Reason::meaning),
            source: packet.ip.map(|ip| ip.source),
            source_port: packet.ports.map(|(source, _)| source),
            destination: packet.ip.map(|ip| ip.destination),
            destination_port: packet.ports.map(|(_, destination)| destination),
            protocol: protocol(packet),
            length: event.length,
            interface: interface(event.ifindex),
            ifindex: event.ifindex,
            mark: event.mark,
            node: packet.node,
        }
    }

    /// One JSON object.
    pub(super) fn json(&self) -> Result<String> {
        serde_json::to_string(self).context("cannot write a verdict as JSON")
    }

    /// Columns for a person; the last are there where they apply.
    pub(super) fn text(&self) -> String {
        let from = end(self.source, self.source_port);
        let to = end(self.destination, self.destination_port);
        let node = self.node.map(|node| format!("  node {node}")).unwrap_or_default();
        let mark = if self.mark == 0 { String::new() } else { format!("  mark {:#x}", self.mark) };
        format!(
            "{:<13}  {:<10}  {:<7}  {:<16}  {from:>21} > {to:<21}  {:<6}  {:>5} bytes  {}{node}{mark}",
            self.time.get(11..).unwrap_or(&self.time),
            self.program,
            self.outcome,
            self.reason,
            self.protocol,
            self.length,
            self.interface,
        )
    }
}

fn end(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "-".to_owned(),
    }
}

fn protocol(packet: &Packet) -> String {
    match packet.ip {
        Some(Ip { protocol: TCP, .. }) => "tcp".to_owned(),
        Some(Ip { protocol: UDP, .. }) => "udp".to_owned(),
        Some(Ip { protocol: ICMP, .. }) => "icmp".to_owned(),
        Some(Ip { protocol: ICMPV6, .. }) => "icmp6".to_owned(),
        Some(Ip { protocol, .. }) => format!("ip/{protocol}"),
        None if packet.ethertype == ETHERTYPE_ARP => "arp".to_owned(),
        None => format!("{:#06x}", u16::from_be_bytes(packet.ethertype)),
    }
}

fn interface(ifindex: u32) -> String {
    let name = if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    // nix takes an interface that is gone for one without a name.
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("if{ifindex}"))
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::{event, packet};
    use super::*;

    fn line(packet: &Packet) -> Line {
        Line { time: "2026-02-03T12:34:56.789Z".to_owned(), ..Line::new(&event(), packet) }
    }

    #[test]
    fn a_line_lines_up() {
        assert_eq!(
            line(&packet()).text(),
            "12:34:56.789Z  from_pod    send     forwarded                10.42.3.2:4000 > 10.42.7.2:5000         udp       \
             142 bytes  if4294967295  node 192.0.2.12  mark 0x2000"
        );
        let arp = Packet { ethertype: ETHERTYPE_ARP, ..Packet::default() };
        let text = line(&arp).text();
        assert!(text.contains(" - > - ") && text.contains(" arp "), "{text}");
        let longest = Reason::ALL.into_iter().map(|reason| reason.name().len()).max();
        assert_eq!(longest, Some(16), "the column is as wide as the longest reason");
    }

    #[test]
    fn json_leaves_out_what_is_not_there() {
        let json = line(&packet()).json().expect("plain data");
        for part in [
            r#""outcome":"send""#,
            r#""source":"10.42.3.2","source_port":4000,"destination":"10.42.7.2","destination_port":5000"#,
            r#""node":"192.0.2.12""#,
            r#""mark":8192"#,
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
        let json = line(&Packet::default()).json().expect("plain data");
        assert!(!json.contains("source") && !json.contains("node\""), "{json}");
    }
}
