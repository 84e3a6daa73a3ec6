//! The BPF half of the node: what the programs have to know, and where they run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use ipnet::{IpNet, Ipv4Net};
use nix::time::{ClockId, clock_gettime};
use ovl_common::{ABI, Config, IPV4_BITS, IpKey, Port, Prefix, Program, Remote};

use crate::backend::Tunnel;
use crate::bpf::{
    Attachment, AttachmentTable, Counter, DataPlane, Hook, LoadError, ObjectSource, PortTable, RemoteTable,
    StateTable, counters, prune_learned,
};
use crate::cli;
use crate::family::Family;
use crate::netlink::Interface;
use crate::node::{Node, Underlay};
use crate::reconcile::{Known, Outcome, delete, put_missing};
use crate::sysctl;
use crate::table::Table as _;

/// How long the programs act without hearing from the agent. Whoever finds them acting later is looking at a bug.
const DEADLINE: Duration = Duration::from_secs(5);

/// The fast path of this node.
pub struct FastPath {
    plane: DataPlane,
    attachments: AttachmentTable,
    policy: cli::FastPath,
    carry_tcp: bool,
    known: KnownRows,
    /// Where programs belong, as of the last pass.
    wanted_hooks: BTreeMap<Hook, Attachment>,
}

/// What is known of the tables since they were last listed.
#[derive(Default)]
struct KnownRows {
    ports: Known<u32, Port>,
    remotes: Known<Prefix, Remote>,
    hooks: Known<Hook, Attachment>,
}

impl FastPath {
    /// Loads the programs. Nothing is attached before the first [`FastPath::make`].
    pub fn load(
        attachments: AttachmentTable,
        source: &ObjectSource,
        policy: cli::FastPath,
    ) -> Result<Self, LoadError> {
        let plane = DataPlane::load(source)?;
        Ok(Self {
            plane,
            attachments,
            policy,
            carry_tcp: true,
            known: KnownRows::default(),
            wanted_hooks: BTreeMap::new(),
        })
    }

    /// Attaches the program on the underlay, which shows whether attaching works here at all.
    pub async fn attach_underlay(&mut self, underlay: &Underlay) -> Result<()> {
        ensure!(
            underlay.ethernet,
            "attaching from_wire to {0} failed: packets of {0} have no Ethernet header, which the programs need; choose \
             another --iface, or --mode kernel",
            underlay.name
        );
        let hooks = hooks(underlay, &BTreeMap::new());
        let mut attaching = self.attachments.with(&mut self.plane.programs);
        for (hook, attachment) in &hooks {
            attaching.put(hook, attachment).await?;
        }
        Ok(())
    }

    /// `tcx` or `clsact`.
    pub fn attached_by(&self) -> &'static str {
        self.attachments.kind()
    }

    /// Every counter that is not zero.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        counters(&self.plane.stats)
    }

    /// Makes everything as it should be: configuration, ports, leases, and last the attachments that use them; then away
    /// with what is too much, the other way round.
    pub async fn make(
        &mut self,
        node: &Node,
        tunnel: Tunnel,
        remotes: &BTreeMap<Prefix, Remote>,
        pods: &BTreeMap<u32, PodPort>,
        outcome: &mut Outcome,
    ) {
        if self.policy != cli::FastPath::Off {
            self.carry_tcp = sysctl::make_conntrack_liberal(self.carry_tcp);
        }
        let config = BTreeMap::from([((), self.config(node, tunnel))]);
        let mut state = StateTable { map: &mut self.plane.state, deadline: deadline() };
        put_missing(&mut state, &mut Known::default(), &config, outcome).await;
        self.wanted_hooks = hooks(&node.underlay, pods);
        let ports = pods.iter().map(|(ifindex, pod)| (*ifindex, pod.port)).collect();
        let known = &mut self.known;
        let mut port_table = PortTable(&mut self.plane.ports);
        let mut remote_table = RemoteTable(&mut self.plane.leases);
        let mut attaching = self.attachments.with(&mut self.plane.programs);
        let ports = put_missing(&mut port_table, &mut known.ports, &ports, outcome).await.unwanted;
        let remotes = put_missing(&mut remote_table, &mut known.remotes, remotes, outcome).await.unwanted;
        let hooks = put_missing(&mut attaching, &mut known.hooks, &self.wanted_hooks, outcome).await.unwanted;

        delete(&mut attaching, &mut known.hooks, &hooks, outcome).await;
        delete(&mut remote_table, &mut known.remotes, &remotes, outcome).await;
        delete(&mut port_table, &mut known.ports, &ports, outcome).await;
        // Last: a program that still runs learns again.
        self.forget_absent_pods(pods, outcome);
    }

    /// Puts the programs back where they were taken off since the last pass.
    pub async fn mend_hooks(&mut self, outcome: &mut Outcome) {
        let before = self.carry_tcp;
        if self.policy != cli::FastPath::Off {
            self.carry_tcp = sysctl::make_conntrack_liberal(self.carry_tcp);
        }
        if self.carry_tcp != before {
            let mut state = StateTable { map: &mut self.plane.state, deadline: deadline() };
            if let Err(error) = state.carry_tcp(self.carry_tcp) {
                outcome.errors.push(format!("{error:#}"));
            }
        }
        self.known.hooks.doubt();
        let mut attaching = self.attachments.with(&mut self.plane.programs);
        put_missing(&mut attaching, &mut self.known.hooks, &self.wanted_hooks, outcome).await;
    }

    /// Has the next pass list maps and attachments anew.
    pub fn doubt(&mut self) {
        self.known.ports.doubt();
        self.known.remotes.doubt();
        self.known.hooks.doubt();
    }

    /// Tells the programs that the agent is alive.
    pub fn extend_deadline(&mut self) -> Result<()> {
        StateTable { map: &mut self.plane.state, deadline: deadline() }.extend()
    }

    /// Takes every program off: from then on the kernel path carries everything.
    pub async fn detach(&mut self) {
        self.attachments.detach_all().await;
    }

    fn forget_absent_pods(&mut self, pods: &BTreeMap<u32, PodPort>, outcome: &mut Outcome) {
        let ports: BTreeSet<u32> = pods.keys().copied().collect();
        match prune_learned(&mut self.plane.endpoints, &mut self.plane.pod_macs, &ports) {
            Ok(pruned) => outcome.deleted += pruned,
            Err(error) => outcome.errors.push(format!("{error:#}")),
        }
    }

    fn config(&self, node: &Node, tunnel: Tunnel) -> Config {
        let (source_port_min, source_port_max) = sysctl::source_ports();
        let policy = match self.policy {
            cli::FastPath::Off => ovl_common::FastPath::Off,
            cli::FastPath::Always => ovl_common::FastPath::Always,
        };
        // The programs carry IPv4. A node without it gives them a subnet of one address that no pod has.
        let address = match node.underlay.addresses.v4 {
            Some(IpAddr::V4(address)) => address,
            Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
        };
        let subnet = match node.subnet(Family::V4) {
            Some(IpNet::V4(subnet)) => subnet,
            Some(IpNet::V6(_)) | None => Ipv4Net::from(Ipv4Addr::UNSPECIFIED),
        };
        Config {
            abi: ABI,
            fast_path: policy as u32,
            deadline: 0,
            underlay: node.underlay.ifindex,
            encapsulation: tunnel.encapsulation as u32,
            vni: tunnel.vni,
            tunnel_mtu: tunnel.mtu,
            underlay_mtu: node.underlay.mtu,
            source_port_min,
            source_port_max,
            tunnel_port: tunnel.port.to_be_bytes(),
            vtep_mac: tunnel.mac,
            underlay_address: address.into(),
            local_subnet: IpKey::from(subnet.addr()),
            local_bits: IPV4_BITS + u32::from(subnet.prefix_len()),
            outer_ttl: sysctl::default_ttl(),
            carry_tcp: u8::from(self.carry_tcp),
            reserved: [0; 2],
        }
    }
}

/// A pod's host-side interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Its name.
    pub interface: String,
    /// What the programs know of it.
    pub port: Port,
}

/// The pods' interfaces: the ports of `bridge` that lead into another network namespace.
///
/// A port whose other end is in this very namespace is no pod, and the kernel would drop what is delivered to it.
pub fn pod_ports(interfaces: &BTreeMap<u32, Interface>, bridge: &str) -> BTreeMap<u32, PodPort> {
    let Some(bridge) = interfaces.values().find(|interface| interface.name == bridge) else {
        return BTreeMap::new();
    };
    let ports = interfaces.values().filter(|interface| {
        interface.bridge == Some(bridge.ifindex) && interface.veth && interface.peer_elsewhere
    });
    ports
        .map(|interface| {
            let port = Port { gateway: bridge.mac, reserved: [0; 2] };
            (interface.ifindex, PodPort { interface: interface.name.clone(), port })
        })
        .collect()
}

fn hooks(underlay: &Underlay, pods: &BTreeMap<u32, PodPort>) -> BTreeMap<Hook, Attachment> {
    let wire = Hook { ifindex: underlay.ifindex, program: Program::FromWire };
    let mut hooks = BTreeMap::from([(wire, Attachment { interface: underlay.name.clone() })]);
    for (ifindex, pod) in pods {
        for program in [Program::FromPod, Program::ToPod] {
            let attachment = Attachment { interface: pod.interface.clone() };
            hooks.insert(Hook { ifindex: *ifindex, program }, attachment);
        }
    }
    hooks
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_coarse_ns`.
fn deadline() -> u64 {
    // A clock that cannot be read means a deadline in the past: the kernel path.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from((now + DEADLINE).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::node;
    use ovl_common::Mac;

    fn interface(
        ifindex: u32,
        name: &str,
        bridge: Option<u32>,
        veth: bool,
        peer_elsewhere: bool,
    ) -> (u32, Interface) {
        let mac = Mac([2, 0, 0, 0, 0, u8::try_from(ifindex).expect("small")]);
        (
            ifindex,
            Interface {
                ifindex,
                name: name.into(),
                mtu: 1450,
                mac,
                ethernet: true,
                veth,
                peer_elsewhere,
                bridge,
            },
        )
    }

    #[test]
    fn pods_are_the_bridges_veths_that_lead_elsewhere() {
        let interfaces = BTreeMap::from([
            interface(1, "cni0", None, false, false),
            interface(2, "pod", Some(1), true, true),
            interface(3, "both-ends-here", Some(1), true, false),
            interface(4, "tap", Some(1), false, false),
            interface(5, "other-bridge", Some(9), true, true),
        ]);
        let pods = pod_ports(&interfaces, "cni0");
        assert_eq!(pods.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(pods[&2].port.gateway, Mac([2, 0, 0, 0, 0, 1]), "the bridge is the gateway");
        assert!(pod_ports(&interfaces, "cni9").is_empty());
        assert_eq!(hooks(&node().underlay, &pods).len(), 3);
    }
}
