//! The BPF half of the node: what the programs have to know, and where they run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use ovl_common::{Encapsulation, IpKey, Port, Prefix, Program, Remote, Travel};
use tracing::warn;

use crate::backend::{Tunnel, bpf_prefix};
use crate::bpf::{
    Abi, Attachment, AttachmentTable, Counter, DataPlane, FlowMap, Hook, LoadError, NodeTable, ObjectSource,
    Pins, PortTable, Pulse, RemoteTable, StateTable, counters, features, is_gone, prune_learned,
};
use crate::cli;
use crate::family::ByFamily;
use crate::netlink::has_ipsec_policies;
use crate::node::{Node, Underlay};
use crate::reconcile::{Known, Outcome, delete, put_missing};
use crate::sysctl;
use crate::table::Table as _;
use crate::xdp::Choice;

mod config;
mod places;
mod xdp;

use places::hooks;
pub use places::{Places, PodPort, pod_ports};
use xdp::Xdp;

/// How long the programs act without hearing from the agent. Whoever finds them acting later is looking at a bug.
const DEADLINE: Duration = Duration::from_secs(5);

const LACKS_VXLAN: &str =
    "this kernel cannot mark a packet as VXLAN's for GSO (BPF_F_ADJ_ROOM_ENCAP_L2_ETH, since 5.13)";
const LACKS_IPIP: &str =
    "this kernel cannot mark a packet as a tunnel's for GSO (BPF_F_ADJ_ROOM_NO_CSUM_RESET, since 5.8)";

/// What the command line says of the fast path.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `--fast-path`.
    pub fast_path: cli::FastPath,
    /// `--fast-path-mark`.
    pub mark: u32,
    /// `--verify-interval`.
    pub verify_interval: Duration,
    /// `--source-check`.
    pub source_check: cli::SourceCheck,
    /// `--max-flows`.
    pub max_flows: u32,
    /// `--xdp`.
    pub xdp: cli::Xdp,
}

/// What the programs are to know of the cluster.
#[derive(Debug)]
pub struct Cluster<'a> {
    /// The peers' subnets.
    pub remotes: &'a BTreeMap<Prefix, Remote>,
    /// Subnets whose leases cannot be read: what is known of them stays.
    pub kept: &'a BTreeSet<IpNet>,
    /// The addresses of all nodes.
    pub nodes: &'a BTreeSet<IpAddr>,
    /// Whether `nodes` may lack one, whose lease cannot be read.
    pub nodes_unsure: bool,
    /// Whether `remotes` lacks leases that the kernel path could not be made for.
    pub remotes_withheld: bool,
    /// This node's tunnels, by the family of their outer addresses.
    pub tunnels: &'a ByFamily<Tunnel>,
}

/// The fast path of this node.
#[expect(clippy::struct_excessive_bools, reason = "four facts that have nothing to do with each other")]
pub struct FastPath {
    plane: DataPlane,
    attachments: AttachmentTable,
    policy: Policy,
    pins: Option<Pins>,
    /// What this kernel lacks to make room for a tunnel as GSO wants it.
    lacking: Option<&'static str>,
    carry_tcp: bool,
    /// Whether IPsec policies make every packet the kernel's.
    has_ipsec: bool,
    /// Whether the configuration in the map is ours, not an earlier agent's.
    is_made: bool,
    /// Whether pods have left whose flows may still be there.
    have_pods_left: bool,
    epoch: u64,
    xdp: Xdp,
    known: KnownRows,
    /// Where programs belong, as of the last pass.
    wanted_hooks: BTreeMap<Hook, Attachment>,
}

/// What is known of the tables since they were last listed.
#[derive(Default)]
struct KnownRows {
    ports: Known<u32, Port>,
    remotes: Known<Prefix, Remote>,
    nodes: Known<IpKey, ()>,
    hooks: Known<Hook, Attachment>,
}

impl FastPath {
    /// Loads the programs. Nothing new is attached before the first [`FastPath::make`]; what an earlier agent of `overlay`
    /// pinned goes on.
    pub fn load(
        mut attachments: AttachmentTable,
        source: &ObjectSource,
        encapsulation: Encapsulation,
        policy: Policy,
        overlay: &str,
    ) -> Result<Self, LoadError> {
        let pins = match Pins::open(overlay) {
            Ok(pins) => Some(pins),
            Err(error) if error.is_about_pinning_alone() => {
                warn!("the fast path ends with this process, restarts take the kernel path: {error}");
                None
            }
            Err(error) => return Err(error),
        };
        let mut plane = DataPlane::load(source, encapsulation, policy.max_flows, pins.as_ref())?;
        if let Some(pins) = &pins {
            attachments.pin_in(pins.clone());
        }
        let (bytes, flags, lacks) = match encapsulation {
            Encapsulation::None | Encapsulation::Vxlan => (50, features::ENCAP_VXLAN, LACKS_VXLAN),
            Encapsulation::Ipip => (20, features::ENCAP_IPIP, LACKS_IPIP),
        };
        let lacking = (plane.programs.take_room(bytes, flags) == Some(false)).then_some(lacks);
        if let Some(lacks) = lacking {
            warn!(
                "{lacks}: peers behind a tunnel are reached on the kernel path, those on the same link on the fast path"
            );
        }
        // What changed while nobody looked is unknown: flows are verified anew.
        let before = plane.state.get(&0, 0).map(|config| config.0).ok();
        let epoch = before.map_or(1, |config| config.epoch.wrapping_add(1));
        let xdp = Xdp::new(policy.xdp, before.map_or(0, |config| config.token));
        Ok(Self {
            plane,
            attachments,
            policy,
            pins,
            lacking,
            carry_tcp: true,
            has_ipsec: false,
            have_pods_left: false,
            is_made: false,
            epoch,
            xdp,
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
        let wire = Hook { ifindex: underlay.ifindex, program: Program::FromWire };
        let attachment = Attachment::tc(&underlay.name);
        self.attachments.with(&mut self.plane.programs).put(&wire, &attachment).await
    }

    /// The pods before which others have programs, which would not see what is redirected into the pod.
    pub fn watched(&self, pods: &BTreeMap<u32, PodPort>) -> BTreeSet<u32> {
        let has_others =
            |(ifindex, pod): &(&u32, &PodPort)| self.attachments.has_others(**ifindex, &pod.interface);
        pods.iter().filter(has_others).map(|(ifindex, _)| *ifindex).collect()
    }

    /// `tcx` or `clsact`.
    pub fn attached_by(&self) -> &'static str {
        self.attachments.kind()
    }

    /// Where everything is pinned, if it is.
    pub fn pinned_in(&self) -> Option<&std::path::Path> {
        self.pins.as_ref().map(Pins::folder)
    }

    /// The flows, for another thread.
    pub fn flow_map(&self) -> Result<FlowMap> {
        FlowMap::behind(&self.plane.flows)
    }

    /// Whether tunnels are stripped by XDP, and why, or why not.
    pub fn xdp(&self) -> &Choice {
        self.xdp.choice()
    }

    /// The flows and the addresses of the pods that there are, where pods have left since the last question.
    pub fn after_pods_left(&mut self) -> Option<Result<(FlowMap, BTreeSet<IpKey>)>> {
        std::mem::take(&mut self.have_pods_left).then(|| {
            let present =
                self.plane.endpoints.keys().filter_map(std::result::Result::ok).map(|Abi(address)| address);
            Ok((self.flow_map()?, present.collect()))
        })
    }

    /// What the command line said.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What this kernel lacks to let programs wrap packets for a tunnel.
    pub fn lacking(&self) -> Option<&'static str> {
        self.lacking
    }

    /// Every counter that is not zero.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        counters(&self.plane.stats)
    }

    /// Makes everything as it should be: peers, configuration, ports, and last the attachments that use them; then away
    /// with what is too much, the other way round.
    pub async fn make(
        &mut self,
        node: &Node,
        cluster: &Cluster<'_>,
        places: &Places<'_>,
        outcome: &mut Outcome,
    ) {
        self.look_around();
        let remotes = self.carried(cluster.remotes);
        let nodes = cluster.nodes.iter().map(|node| (IpKey::from(*node), ())).collect();
        let is_direct = remotes.values().any(|remote| remote.travel == Travel::Direct as u8);
        self.wanted_hooks = hooks(&node.underlay, is_direct, places);
        self.arrange_xdp(node, cluster, places).await;
        let config = BTreeMap::from([((), self.config(node, cluster, places))]);
        let ports = places.pods.iter().map(|(ifindex, pod)| (*ifindex, pod.port)).collect();
        let before = (outcome.put, outcome.deleted);
        let pulse = self.pulse();
        let known = &mut self.known;

        // The peers first: a node that is not known is taken for a stranger.
        let mut node_table = NodeTable(&mut self.plane.nodes);
        let nodes = put_missing(&mut node_table, &mut known.nodes, &nodes, outcome).await.unwanted;
        let mut remote_table = RemoteTable(&mut self.plane.leases);
        let remotes = put_missing(&mut remote_table, &mut known.remotes, &remotes, outcome).await.unwanted;
        let kept: BTreeSet<Prefix> = cluster.kept.iter().copied().map(bpf_prefix).collect();
        let remotes: Vec<Prefix> = remotes.into_iter().filter(|remote| !kept.contains(remote)).collect();
        let are_leases_other = before != (outcome.put, outcome.deleted) || !remotes.is_empty();
        let mut state = StateTable { map: &mut self.plane.state, pulse };
        let failed = outcome.errors.len();
        put_missing(&mut state, &mut Known::default(), &config, outcome).await;
        self.is_made |= outcome.errors.len() == failed;
        let mut port_table = PortTable(&mut self.plane.ports);
        let ports = put_missing(&mut port_table, &mut known.ports, &ports, outcome).await.unwanted;
        let mut attaching = self.attachments.with(&mut self.plane.programs);
        let hooks = put_missing(&mut attaching, &mut known.hooks, &self.wanted_hooks, outcome).await.unwanted;

        delete(&mut attaching, &mut known.hooks, &hooks, outcome).await;
        delete(&mut port_table, &mut known.ports, &ports, outcome).await;
        self.have_pods_left |= !ports.is_empty();
        delete(&mut remote_table, &mut known.remotes, &remotes, outcome).await;
        if !cluster.nodes_unsure {
            delete(&mut node_table, &mut known.nodes, &nodes, outcome).await;
        }
        if are_leases_other && let Err(error) = self.verify_anew() {
            outcome.errors.push(format!("{error:#}"));
        }
        // Last: a program that still runs learns again.
        self.forget_absent_pods(places.pods, outcome);
    }

    /// Attaches the program that strips early, where it is wanted, or takes note that it is not. Before the configuration is
    /// written: from then on it strips, and not before.
    async fn arrange_xdp(&mut self, node: &Node, cluster: &Cluster<'_>, places: &Places<'_>) {
        let idle = if self.policy.fast_path == cli::FastPath::Off {
            Some("the fast path is off")
        } else if cluster.tunnels.iter().next().is_none() {
            Some("there is no tunnel to strip")
        } else if self.lacking.is_some() {
            Some("the fast path carries no tunnels on this kernel")
        } else {
            None
        };
        let mut attaching = self.attachments.with(&mut self.plane.programs);
        let wire = Hook { ifindex: node.underlay.ifindex, program: Program::FromWire };
        let idle = idle.or_else(|| {
            let is_awaited = attaching.holds(&wire, &Attachment::tc(&node.underlay.name));
            (!is_awaited).then_some("from_wire, which takes over what is stripped, is not attached")
        });
        let arranged = self.xdp.arrange(&node.underlay, places.underlay, idle, &mut attaching).await;
        if let Some((hook, attachment)) = arranged {
            if self.known.hooks.get(&hook) != Some(&attachment) {
                self.known.hooks.doubt();
            }
            self.wanted_hooks.insert(hook, attachment);
        }
    }

    /// Has every flow ask netfilter again, because something that it may go by has changed.
    pub fn verify_anew(&mut self) -> Result<()> {
        self.epoch = self.epoch.wrapping_add(1);
        self.beat()
    }

    /// Puts the programs back where they were taken off since the last pass.
    pub async fn mend_hooks(&mut self, outcome: &mut Outcome) {
        let before = (self.carry_tcp, self.has_ipsec);
        self.look_around();
        if (self.carry_tcp, self.has_ipsec) != before
            && let Err(error) = self.beat()
        {
            outcome.errors.push(format!("{error:#}"));
        }
        self.known.hooks.doubt();
        // Nobody has taken anything off there.
        self.wanted_hooks.retain(|hook, attachment| !is_gone(*hook, attachment));
        let mut attaching = self.attachments.with(&mut self.plane.programs);
        put_missing(&mut attaching, &mut self.known.hooks, &self.wanted_hooks, outcome).await;
    }

    /// Has the next pass list maps and attachments anew.
    pub fn doubt(&mut self) {
        self.known.ports.doubt();
        self.known.remotes.doubt();
        self.known.nodes.doubt();
        self.known.hooks.doubt();
    }

    /// Tells the programs that the agent is alive. Before the first [`FastPath::make`] they go by what an earlier agent
    /// knew, for as long as that agent gave them.
    pub fn beat(&mut self) -> Result<()> {
        if !self.is_made {
            return Ok(());
        }
        let pulse = self.pulse();
        StateTable { map: &mut self.plane.state, pulse }.beat()
    }

    /// Looks at what the kernel makes no event of.
    fn look_around(&mut self) {
        if self.policy.fast_path == cli::FastPath::Off {
            return;
        }
        self.carry_tcp = sysctl::make_conntrack_liberal(self.carry_tcp);
        let has_ipsec = has_ipsec_policies();
        if has_ipsec && !self.has_ipsec {
            warn!(
                "the node has IPsec policies, which the fast path would pass by: the kernel path carries everything"
            );
        }
        self.has_ipsec = has_ipsec;
    }

    fn pulse(&self) -> Pulse {
        let fast_path = match self.policy.fast_path {
            _ if self.has_ipsec => ovl_common::FastPath::Off,
            cli::FastPath::Off => ovl_common::FastPath::Off,
            cli::FastPath::Always => ovl_common::FastPath::Always,
            cli::FastPath::Verified => ovl_common::FastPath::Verified,
        };
        Pulse { deadline: deadline(), epoch: self.epoch, carry_tcp: self.carry_tcp, fast_path }
    }

    /// Leaves the programs to the next agent where they are pinned; takes them off where they are not: from then on the
    /// kernel path carries everything.
    pub async fn leave(&mut self) {
        if self.pins.is_none() {
            self.attachments.detach_all().await;
        }
    }

    fn forget_absent_pods(&mut self, pods: &BTreeMap<u32, PodPort>, outcome: &mut Outcome) {
        let ports: BTreeSet<u32> = pods.keys().copied().collect();
        match prune_learned(&mut self.plane.endpoints, &mut self.plane.pod_macs, &ports) {
            Ok(pruned) => outcome.deleted += pruned,
            Err(error) => outcome.errors.push(format!("{error:#}")),
        }
    }

    /// The peers that the programs can reach.
    fn carried(&self, remotes: &BTreeMap<Prefix, Remote>) -> BTreeMap<Prefix, Remote> {
        let carried = remotes
            .iter()
            .filter(|(_, remote)| self.lacking.is_none() || remote.travel == Travel::Direct as u8);
        carried.map(|(prefix, remote)| (*prefix, *remote)).collect()
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_coarse_ns`.
fn deadline() -> u64 {
    // A clock that cannot be read means a deadline in the past: the kernel path.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from((now + DEADLINE).as_nanos()).unwrap_or(u64::MAX)
}
