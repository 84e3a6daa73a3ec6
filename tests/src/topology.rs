//! Nodes on an underlay network, 192.0.2.0/24 and 2001:db8:c0::/64, and perhaps some behind a router.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command::Cmd;
use crate::netns::{Netns, sweep_stale, unique_prefix};
use crate::node::{Node, Seat, Traits};
use crate::underlay::{FAR, NEAR, Network, Stack};

/// The switch's own address, where an etcd can listen.
pub const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The number of the switch in every network, and of the first node less one.
const SWITCH_HOST: u8 = 1;
const BEFORE_NODES: usize = 10;

/// A running topology; dropping it removes its namespaces and its directory.
#[derive(Debug)]
pub struct Topology {
    prefix: String,
    nodes: Vec<Node>,
    switch: Option<Netns>,
    dir: Directory,
}

impl Topology {
    /// Starts to describe a topology; `label` says in the namespaces' names what it is for.
    pub fn builder(label: &str) -> Builder {
        Builder {
            prefix: unique_prefix(label),
            nodes: 2,
            behind_router: 0,
            traits: Traits { mtu: 1500, stack: Stack::Ipv4, plain_packets: false },
            switch: false,
            alone: None,
        }
    }

    /// The nodes, node1 first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Node number `index`, counted from zero.
    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes
            .get(index)
            .with_context(|| format!("the topology has {} nodes, none at {index}", self.nodes.len()))
    }

    /// The namespace of the switch, when there is one.
    pub fn switch(&self) -> Result<&Netns> {
        self.switch.as_ref().context("this topology has no switch; ask for one with Builder::switch")
    }

    /// A directory of its own, for stores, logs and captures.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The start of the names of all namespaces.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Leaves namespaces and directory in place when the guard goes away.
    pub fn keep(&mut self) {
        self.nodes.iter_mut().for_each(Node::keep);
        if let Some(switch) = &mut self.switch {
            switch.keep();
        }
        self.dir.keep();
    }

    /// The port of `node` at the switch: where packets are as they are on the wire, whatever the node does with them.
    pub fn port(&self, node: &Node) -> Result<(&Netns, String)> {
        Ok((self.switch()?, format!("port{}", node.seat().host)))
    }

    /// Gives `node` a new `eth0` at its port of the switch, with the addresses and routes it always has.
    pub fn plug_in(&self, node: &Node) -> Result<()> {
        let (seat, mtu) = (node.seat(), node.mtu());
        let (switch, port) = self.port(node)?;
        // As a real interface, it has its MAC for life: neighbours remember it.
        switch.ip(&format!(
            "link add {port} mtu {mtu} type veth peer name eth0 address 02:00:5e:00:53:{:02x} netns {}",
            seat.host,
            node.netns().name()
        ))?;
        switch.ip(&format!("link set {port} master {} up", seat.network.bridge))?;
        node.bring_up()
    }

    /// Takes the `eth0` of `node` away, as when its driver is unloaded.
    pub fn unplug(&self, node: &Node) -> Result<()> {
        node.netns().ip("link del eth0")?;
        Ok(())
    }
}

/// What a topology should look like.
#[derive(Debug)]
pub struct Builder {
    prefix: String,
    nodes: usize,
    behind_router: usize,
    traits: Traits,
    switch: bool,
    /// The only node's number, and the device of this machine that it gets.
    alone: Option<(usize, String)>,
}

impl Builder {
    /// How many nodes; 2 unless told.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// The underlay's MTU; 1500 unless told.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.traits.mtu = mtu;
        self
    }

    /// Gives the underlay IPv6 addresses beside the IPv4 ones. IPv6 is off unless told, which keeps captures and
    /// counters quiet.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.traits.stack = Stack::Both;
        self
    }

    /// Gives the underlay IPv6 addresses and no IPv4 ones.
    #[must_use]
    pub fn ipv6_only(mut self) -> Self {
        self.traits.stack = Stack::Ipv6;
        self
    }

    /// Puts the last `nodes` nodes on a network of their own, 198.51.100.0/24 and 2001:db8:c1::/64. The switch, which
    /// there is then, routes between the two.
    #[must_use]
    pub fn behind_router(mut self, nodes: usize) -> Self {
        self.behind_router = nodes;
        self.switch()
    }

    /// Turns the offloads of nodes and pods off, so that captures hold complete checksums and no aggregates.
    #[must_use]
    pub fn plain_packets(mut self) -> Self {
        self.traits.plain_packets = true;
        self
    }

    /// Asks for a switch between the nodes: two nodes are otherwise connected by one veth, which is faster.
    #[must_use]
    pub fn switch(mut self) -> Self {
        self.switch = true;
        self
    }

    /// Builds node `number` alone, whose `eth0` is this machine's `device`: the other nodes are on other machines.
    #[must_use]
    pub fn alone(mut self, number: usize, device: &str) -> Self {
        self.alone = Some((number, device.to_owned()));
        self
    }

    /// Replaces the start of the namespaces' names. Names other than the default are not swept when the process that
    /// made them is gone.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Builds it.
    pub fn build(self) -> Result<Topology> {
        sweep_stale()?;
        let Self { prefix, nodes, behind_router, traits, switch, alone } = self;
        let dir = Directory::create()?;
        let mut topology = Topology { prefix, nodes: Vec::new(), switch: None, dir };
        let numbers = alone.as_ref().map_or(1..=nodes, |(number, _)| *number..=*number);
        for number in numbers {
            let network = if number + behind_router > nodes { &FAR } else { &NEAR };
            let host = u8::try_from(BEFORE_NODES + number).context("a topology has room for 245 nodes")?;
            let addresses = network.host(host, traits.stack);
            let name = format!("node{number}");
            let (seat, dir) = (Seat { network, host, addresses }, topology.dir().join(&name));
            topology.nodes.push(Node::create(&topology.prefix, &name, seat, &dir, traits)?);
        }
        match topology.nodes.as_slice() {
            [one] if let Some((_, device)) = &alone => {
                let netns = one.netns().name();
                Cmd::host("ip").words(&format!("link set dev {device} netns {netns} name eth0")).run()?;
                one.bring_up()?;
            }
            [one, two] if !switch => connect(one, two)?,
            nodes => {
                let networks: &[&Network] = if behind_router > 0 { &[&NEAR, &FAR] } else { &[&NEAR] };
                topology.switch = Some(make_switch(&topology.prefix, networks, traits)?);
                nodes.iter().try_for_each(|node| topology.plug_in(node))?;
            }
        }
        Ok(topology)
    }
}

fn connect(one: &Node, two: &Node) -> Result<()> {
    one.netns().ip(&format!("link add eth0 type veth peer name eth0 netns {}", two.netns().name()))?;
    one.bring_up()?;
    two.bring_up()
}

fn make_switch(prefix: &str, networks: &[&Network], traits: Traits) -> Result<Netns> {
    let switch = Netns::create(&format!("{prefix}-switch"))?;
    switch.sysctl(&[
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.default.send_redirects=0",
        "net.ipv6.conf.all.forwarding=1",
    ])?;
    traits.prepare_ipv6(&switch)?;
    for network in networks {
        let bridge = network.bridge;
        switch.ip(&format!("link add {bridge} mtu {} type bridge", traits.mtu))?;
        for address in network.host(SWITCH_HOST, traits.stack).iter() {
            switch.ip(&format!("address add {address} dev {bridge}"))?;
        }
        switch.ip(&format!("link set {bridge} up"))?;
    }
    Ok(switch)
}

/// A temporary directory, short enough for the path of a Unix socket.
#[derive(Debug)]
struct Directory(tempfile::TempDir);

impl Directory {
    fn create() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ovl-").tempdir();
        directory.map(Self).context("create a temporary directory for the topology")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn keep(&mut self) {
        self.0.disable_cleanup(true);
    }
}
