//! Nodes with an agent and a pod each: what most of these tests start from.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ovl_tests::agent::{Agent, AgentOptions, Store};
use ovl_tests::artifacts;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::store_dir::DirStore;
use ovl_tests::topology::{Builder, Topology};
use ovl_tests::wait::wait_for;

/// The fast path for everything it can carry; no fast path is a failure.
pub(crate) const EBPF: &str = "--mode ebpf --strict --fast-path always";
/// No fast path.
pub(crate) const KERNEL: &str = "--mode kernel";
/// The fast path for flows that netfilter has accepted, which are verified anew every two seconds.
pub(crate) const VERIFIED: &str = "--mode ebpf --strict --fast-path verified --verify-interval 2";

/// The same, and tunnels are stripped by XDP, on the veths that the underlay is made of here.
pub(crate) const XDP: &str = "--mode ebpf --strict --fast-path verified --verify-interval 2 --xdp native";

/// The arguments for scenarios in which netfilter has a say.
pub(crate) const FILTERED: &[&str] = &[KERNEL, VERIFIED, XDP];

/// The arguments for scenarios that only ask for packets to arrive, the kernel path first.
pub(crate) const CARRIED: &[&str] = &[KERNEL, EBPF, VERIFIED, XDP];

/// [`FILTERED`] for scenarios that XDP has little part in: without it, unless [`XDP_EVERYWHERE`] asks for it.
pub(crate) fn filtered_at_tc() -> &'static [&'static str] {
    if is_xdp_everywhere() { FILTERED } else { &[KERNEL, VERIFIED] }
}

/// The same of [`CARRIED`].
pub(crate) fn carried_at_tc() -> &'static [&'static str] {
    if is_xdp_everywhere() { CARRIED } else { &[KERNEL, EBPF, VERIFIED] }
}

/// [`CARRIED`] where packets travel in a tunnel, else [`carried_at_tc`]: XDP has no part in what travels without one.
pub(crate) fn carried_over(backend: &str) -> &'static [&'static str] {
    let is_direct = ["host-gw", "DirectRouting"].iter().any(|word| backend.contains(word));
    if is_direct { carried_at_tc() } else { CARRIED }
}

/// Set, in the environment, where every scenario is to run with XDP, too, which takes half as long again.
const XDP_EVERYWHERE: &str = "OVL_XDP_EVERYWHERE";

fn is_xdp_everywhere() -> bool {
    std::env::var_os(XDP_EVERYWHERE).is_some()
}

/// Runs a scenario in all these ways. What it returns is how long traffic was silent, which may not be longer than on
/// the kernel path.
pub(crate) fn silent_no_longer_than_the_kernel(run: impl Fn(&str) -> Duration) {
    const UNSTEADINESS: Duration = Duration::from_millis(500);
    let mut kernels = None;
    for args in CARRIED {
        let silence = run(args);
        let kernels = *kernels.get_or_insert(silence);
        assert!(silence <= kernels + UNSTEADINESS, "{args}: {silence:?}, on the kernel path {kernels:?}");
    }
}

/// Waits until the programs of these agents see packets of pods and to pods, which `ping` sends: an agent that has just
/// listed its tables may look at new interfaces a moment later, and attaches one program after the other.
pub(crate) fn wait_until_seen<T>(agents: &[Agent], ping: impl Fn() -> Result<T>) -> Result<()> {
    wait_for("the programs of all agents to see their pods' packets", SOON, || {
        ping()?;
        agents.iter().try_fold(true, |all, agent| {
            let counters = agent.counters()?;
            Ok(all && ["from_pod", "to_pod"].iter().all(|program| counters.seen(program) > 0))
        })
    })
}

/// Whether packets leave the kernel path with these arguments, or with them and others.
pub(crate) fn is_fast(args: &str) -> bool {
    args.starts_with(EBPF) || is_verified(args)
}

/// Whether only flows do that netfilter has accepted.
pub(crate) fn is_verified(args: &str) -> bool {
    args.starts_with(VERIFIED)
}

/// Both families, one or the other: parts of a network config.
pub(crate) const DUAL: &str = r#""Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd42::/48""#;
pub(crate) const ONLY_IPV4: &str = r#""Network":"10.42.0.0/16""#;
pub(crate) const ONLY_IPV6: &str = r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd42::/48""#;
/// A part of a network config that leaves one subnet of each family: the lease is known beforehand.
pub(crate) const PINNED: &str = r#""SubnetMin":"10.42.3.0","SubnetMax":"10.42.3.0","IPv6SubnetMin":"fd42:0:0:3::","IPv6SubnetMax":"fd42:0:0:3::""#;

/// A part of a network config by which agents take subnets below 10.42.64.0 and fd42:0:0:40::. The leases that
/// tests write by hand beside them are above, so that they are never an agent's own.
const BELOW: &str = r#""SubnetMin":"10.42.1.0","SubnetMax":"10.42.63.0","IPv6SubnetMin":"fd42:0:0:1::","IPv6SubnetMax":"fd42:0:0:3f::""#;

/// A network config of `parts` and the `Backend` object, with subnets `BELOW` unless a part says which.
pub(crate) fn config(parts: &[&str], backend: &str) -> String {
    let mut parts = parts.to_vec();
    if !parts.contains(&PINNED) {
        parts.push(BELOW);
    }
    format!(r#"{{{},"Backend":{backend}}}"#, parts.join(","))
}

/// How long anything may take that should take milliseconds.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A running overlay. Fields are dropped in order: pods, agents, then the namespaces they are in.
pub(crate) struct Overlay {
    pub(crate) pods: Vec<Pod>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) store: DirStore,
    pub(crate) topology: Topology,
    binary: PathBuf,
}

impl Overlay {
    /// Starts an agent with `args` on every node, on a store of their own, and a pod behind each.
    pub(crate) fn start(topology: Builder, backend: &str, args: &str) -> Result<Self> {
        let mut overlay = Self::without_agents(topology, backend)?;
        overlay.start_agents(args)?;
        Ok(overlay)
    }

    /// The same with the whole network config.
    pub(crate) fn start_with(topology: Builder, config: &str, args: &str) -> Result<Self> {
        let mut overlay = Self::bare(topology, config)?;
        overlay.start_agents(args)?;
        Ok(overlay)
    }

    /// The nodes and the store, with a network config for this backend in it.
    pub(crate) fn without_agents(topology: Builder, backend: &str) -> Result<Self> {
        Self::bare(topology, &config(&[ONLY_IPV4], &format!(r#"{{"Type":"{backend}"}}"#)))
    }

    /// The nodes and the store, with this network config in it.
    pub(crate) fn bare(topology: Builder, config: &str) -> Result<Self> {
        let topology = topology.build()?;
        let store = DirStore::create(&topology.dir().join("store"))?;
        store.put("config", config)?;
        let binary = artifacts::agent_binary()?;
        Ok(Self { pods: Vec::new(), agents: Vec::new(), store, topology, binary })
    }

    /// Starts an agent on every node, and a pod behind each.
    pub(crate) fn start_agents(&mut self, args: &str) -> Result<()> {
        let nodes = self.topology.nodes().len();
        for index in 0..nodes {
            let agent = self.start_ready(index, args)?;
            self.agents.push(agent);
        }
        for (node, agent) in self.topology.nodes().iter().zip(&self.agents) {
            agent.wait_for_peers(nodes - 1)?;
            self.pods.push(node.add_pod("a", &agent.subnet()?)?);
        }
        Ok(())
    }

    /// Starts an agent on a node and waits until it is ready.
    pub(crate) fn start_ready(&self, node: usize, args: &str) -> Result<Agent> {
        let mut agent = self.start_agent(node, args)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// How to start an agent on this overlay's store.
    pub(crate) fn options(&self, args: &str) -> AgentOptions {
        AgentOptions::new(self.binary.clone(), Store::Dir(self.store.path().to_owned())).args(args)
    }

    /// Starts an agent on a node.
    pub(crate) fn start_agent(&self, node: usize, args: &str) -> Result<Agent> {
        let seat = self.topology.node(node)?;
        if args.contains("--xdp native") {
            // A veth aggregates only where it is told to.
            seat.command("ethtool").words("-K eth0 gro on").run()?;
        }
        Agent::start(seat, &self.options(args))
    }

    /// A node.
    pub(crate) fn node(&self, index: usize) -> &Node {
        self.topology.node(index).expect("the test asked for that many nodes")
    }

    /// Packets that a node's agent counted on its fast path, out and in.
    pub(crate) fn fast(&self, node: usize) -> Result<(u64, u64)> {
        let agent = &self.agents[node];
        Ok((agent.counter("from_pod", "forwarded")?, agent.counter("from_wire", "delivered")?))
    }

    /// Waits until `agent`'s log says `text`.
    pub(crate) fn wait_for_log(agent: &Agent, text: &str) -> Result<()> {
        wait_for(&format!("the agent to log '{text}'"), SOON, || Ok(agent.log().contains(text)))
            .with_context(|| agent.log_tail())
    }
}
