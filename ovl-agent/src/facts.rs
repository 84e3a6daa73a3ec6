//! What an agent says about itself, as one plain value: the status document is this as JSON, the tables that
//! `ovl-agent status` prints and the metrics are written from it, so that their numbers agree.
//!
//! Times are ages in whole seconds by the monotonic clock, but for the end of the lease, which the store keeps by the
//! wall clock. Members that a document of another version lacks are read as empty.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{bpf, tables};

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Version of the agent.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Whether the first full sync is done.
    pub ready: bool,
    /// Where the node is.
    pub node: NodeFacts,
    /// The overlay's IPv4 range.
    pub network: Option<Ipv4Net>,
    /// The overlay's IPv6 range.
    pub ipv6_network: Option<Ipv6Net>,
    /// What the node holds.
    pub lease: LeaseFacts,
    /// Name of the backend.
    pub backend: String,
    /// MTU of the pods, bytes.
    pub mtu: u32,
    /// Who moves the packets: `ebpf` or `kernel`.
    pub mode: String,
    /// Why it is that mode.
    pub mode_reason: String,
    /// When packets may take the fast path: the value of `--fast-path`, or `off`.
    pub fast_path: String,
    /// What the programs go by; `None` where there are none.
    pub ebpf: Option<EbpfFacts>,
    /// What and where the store is.
    pub store: String,
    /// What the store said when it last did not answer; `None` while it does.
    pub store_error: Option<String>,
    /// Whether it answers, and since when.
    pub store_health: StoreHealth,
    /// The firewall rules; `None` where none are wanted.
    pub firewall: Option<FirewallFacts>,
    /// The passes over the tables.
    pub passes: PassFacts,
    /// The tables, in the order in which they are made.
    pub tables: Vec<TableFacts>,
    /// The other nodes, in order of their subnets.
    pub peers: Vec<PeerFacts>,
    /// What of the store could not be read or programmed.
    pub rejected: Vec<RejectedFacts>,
    /// The counters of the programs, or of the udp backend's workers, that are not zero.
    pub counters: Vec<CounterFacts>,
    /// The first of `errors`.
    pub last_error: Option<String>,
    /// What the last pass could not put right, a sentence each.
    pub errors: Vec<String>,
}

/// This node's place on the underlay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    /// Its host name.
    pub name: String,
    /// Name of the underlay interface.
    pub interface: String,
    /// The interface's addresses that tunnels start at.
    pub addresses: Vec<IpAddr>,
    /// The address that peers send to.
    pub public_ip: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// The lease of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseFacts {
    /// The subnet.
    pub subnet: Option<Ipv4Net>,
    /// The IPv6 subnet.
    pub ipv6_subnet: Option<Ipv6Net>,
    /// When it ends unless renewed (RFC 3339, UTC); `None` where it does not end: a reservation, a Node's podCIDR.
    pub expires: Option<String>,
    /// The same in seconds from now; negative when it is over.
    pub expires_in_seconds: Option<i64>,
    /// How often the lease was lost or taken over since the agent started.
    pub losses: u64,
}

/// What the programs go by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EbpfFacts {
    /// Folder of the BPF file system in which maps, programs and attachments outlive the agent; `None` where they end
    /// with it.
    pub pinned_in: Option<String>,
    /// Most flows that there is room for.
    pub max_flows: u32,
    /// Seconds after which a flow asks netfilter again: what was asked for, or less where conntrack forgets sooner.
    pub verify_interval_seconds: f64,
    /// What becomes of packets from the wrong sender: the value of `--source-check`.
    pub source_check: String,
    /// The bit of packets' marks that says that netfilter has accepted them.
    pub fast_path_mark: u32,
    /// Whether XDP strips tunnels: `native`, `skb` or `off`.
    pub xdp: String,
    /// Why so.
    pub xdp_reason: String,
}

/// How the store does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreHealth {
    /// Whether it answers.
    pub up: bool,
    /// Seconds since that began.
    pub since_seconds: u64,
    /// Seconds since it last answered anything; `None` if it never did.
    pub last_answer_seconds: Option<u64>,
    /// How often it stopped answering since the agent started.
    pub outages: u64,
}

/// The firewall rules of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirewallFacts {
    /// `iptables` or `nftables`.
    pub mode: String,
    /// Whether all rules were in place, in order, when last looked at or written.
    pub stands: bool,
    /// How often rules that had been in place were written again.
    pub repaired: u64,
    /// Seconds since the last time; `None` if never.
    pub last_repair_seconds: Option<u64>,
}

/// The passes over all tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PassFacts {
    /// How many there were.
    pub total: u64,
    /// How many left something undone.
    pub failed: u64,
    /// How long they took together, seconds.
    pub seconds: f64,
    /// How long the last one took, seconds.
    pub last_seconds: f64,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableFacts {
    /// What its rows are: `route`, `neighbour`.
    pub name: String,
    /// How many rows it is known to have: those last listed, and what was written and removed since.
    pub rows: u64,
    /// Rows written since the agent started.
    pub written: u64,
    /// Rows removed since the agent started.
    pub removed: u64,
    /// Of both, those that nothing but a change from outside made necessary: rows that were in place and went away or
    /// changed, and rows that appeared though nobody wanted them.
    pub repaired: u64,
    /// Seconds since the last repair; `None` if there was none.
    pub last_repair_seconds: Option<u64>,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerFacts {
    /// Its subnet.
    pub subnet: Option<Ipv4Net>,
    /// Its IPv4 address on the underlay.
    pub public_ip: Option<Ipv4Addr>,
    /// The address that packets for its subnet are sent to, of either family; `None` where they are not.
    pub sent_to: Option<IpAddr>,
    /// How they are sent; `None` where they are not.
    pub path: Option<Path>,
    /// Its IPv6 subnet.
    pub ipv6_subnet: Option<Ipv6Net>,
    /// Its IPv6 address on the underlay.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The address that packets for its IPv6 subnet are sent to, of either family; `None` where they are not.
    pub ipv6_sent_to: Option<IpAddr>,
    /// How they are sent; `None` where they are not.
    pub ipv6_path: Option<Path>,
    /// Name of its backend.
    pub backend: String,
    /// Seconds since its lease appeared or last changed.
    pub changed_seconds: Option<u64>,
}

/// How packets for a peer are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// Encapsulated.
    Tunnel,
    /// Routed as they are.
    Direct,
}

impl Path {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Direct => "direct",
        }
    }
}

/// Something in the store that is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RejectedFacts {
    /// Its key.
    pub item: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A counter of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CounterFacts {
    /// Name of the program.
    pub program: String,
    /// Name of the reason.
    pub reason: String,
    /// What the reason means.
    pub meaning: String,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
}

impl From<&tables::Report> for TableFacts {
    fn from(report: &tables::Report) -> Self {
        let tables::Report { name, rows, history } = *report;
        Self {
            name: name.to_owned(),
            rows: rows as u64,
            written: history.written,
            removed: history.removed,
            repaired: history.drifted,
            last_repair_seconds: history.last_drift.map(|at| at.elapsed().as_secs()),
        }
    }
}

impl From<bpf::Counter> for CounterFacts {
    fn from(counter: bpf::Counter) -> Self {
        let bpf::Counter { program, reason, meaning, packets, bytes } = counter;
        Self { program: program.into(), reason: reason.into(), meaning: meaning.into(), packets, bytes }
    }
}

#[cfg(test)]
mod example;

#[cfg(test)]
pub(crate) use example::example;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_says_it_all() {
        let text = serde_json::to_string(&example()).expect("plain data");
        assert_eq!(serde_json::from_str::<Facts>(&text).expect("just written"), example());
    }

    #[test]
    fn a_document_of_another_version_is_read_as_far_as_it_goes() {
        let text = r#"{"ready":true,"lease":{"subnet":"10.42.3.0/24"},"peers":[{"subnet":"10.42.7.0/24",
            "public_ip":"192.0.2.12","backend":"vxlan"}],"something_new":{"a":[1]}}"#;
        let facts: Facts = serde_json::from_str(text).expect("readable");
        assert!(facts.ready && facts.peers.len() == 1 && facts.lease.ipv6_subnet.is_none());
    }

    /// What the demo, the tests and other people's scripts read.
    #[test]
    fn the_names_of_its_members_stay() {
        let document = serde_json::to_value(example()).expect("plain data");
        let table = [
            ("/ready", "true"),
            ("/node/interface", "\"eth0\""),
            ("/node/public_ip", "\"192.0.2.11\""),
            ("/lease/subnet", "\"10.42.3.0/24\""),
            ("/lease/expires", "\"2030-01-02T03:04:05Z\""),
            ("/backend", "\"vxlan\""),
            ("/mtu", "1430"),
            ("/mode", "\"ebpf\""),
            ("/mode_reason", "\"programs loaded, attached by tcx\""),
            ("/fast_path", "\"always\""),
            ("/ebpf/pinned_in", "\"/sys/fs/bpf/ovl/10_42_0_0_16-4026531840/abi-ABI\""),
            ("/ebpf/max_flows", "262144"),
            ("/ebpf/verify_interval_seconds", "10.0"),
            ("/ebpf/source_check", "\"loose\""),
            ("/ebpf/fast_path_mark", "8192"),
            ("/ebpf/xdp", "\"off\""),
            ("/ebpf/xdp_reason", "\"--xdp off\""),
            ("/store", "\"etcd http://192.0.2.1:2379\""),
            ("/store_error", "null"),
            ("/peers/0/subnet", "\"10.42.7.0/24\""),
            ("/peers/0/public_ip", "\"192.0.2.7\""),
            ("/peers/0/ipv6_path", "\"direct\""),
            ("/peers/0/backend", "\"vxlan\""),
            ("/rejected/0/item", "\"10.43.0.0-24\""),
            ("/counters/0/packets", "123456"),
            ("/last_error", "null"),
        ];
        for (pointer, value) in table {
            assert_eq!(
                document.pointer(pointer).map(ToString::to_string),
                Some(value.replace("ABI", &ovl_common::ABI.to_string())),
                "{pointer}"
            );
        }
    }
}
