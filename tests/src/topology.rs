//! Nodes on one underlay network, 192.0.2.0/24.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::netns::{Netns, sweep_stale, unique_prefix};
use crate::node::{Node, Traits};

/// The switch's own address, where an etcd can listen.
pub const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const SWITCH_BRIDGE: &str = "switch";

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
            traits: Traits { mtu: 1500, ipv6: false, plain_packets: false },
            switch: false,
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

    /// Connects `node`'s new `eth0` to a new port of the switch.
    fn plug_in(&self, node: &Node, port: usize, mtu: u32) -> Result<()> {
        let switch = self.switch()?;
        switch.ip(&format!(
            "link add port{port} mtu {mtu} type veth peer name eth0 netns {}",
            node.netns().name()
        ))?;
        switch.ip(&format!("link set port{port} master {SWITCH_BRIDGE} up"))?;
        Ok(())
    }
}

/// What a topology should look like.
#[derive(Debug)]
pub struct Builder {
    prefix: String,
    nodes: usize,
    traits: Traits,
    switch: bool,
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

    /// Leaves IPv6 on; it is off unless told, which keeps captures and counters quiet.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.traits.ipv6 = true;
        self
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
        let Self { prefix, nodes, traits, switch } = self;
        let dir = Directory::create()?;
        let mut topology = Topology { prefix, nodes: Vec::new(), switch: None, dir };
        for number in 1..=nodes {
            let host = u8::try_from(10 + number).context("a topology has room for 245 nodes")?;
            let name = format!("node{number}");
            let address = Ipv4Addr::new(192, 0, 2, host);
            topology.nodes.push(Node::create(
                &topology.prefix,
                &name,
                address,
                &topology.dir().join(&name),
                traits,
            )?);
        }
        match topology.nodes.as_slice() {
            [one, two] if !switch => connect(one, two)?,
            nodes => {
                topology.switch = Some(make_switch(&topology.prefix, traits)?);
                for (port, node) in nodes.iter().enumerate() {
                    topology.plug_in(node, port + 1, traits.mtu)?;
                }
            }
        }
        for node in &topology.nodes {
            node.bring_up(SWITCH_ADDRESS)?;
        }
        Ok(topology)
    }
}

fn connect(one: &Node, two: &Node) -> Result<()> {
    one.netns().ip(&format!("link add eth0 type veth peer name eth0 netns {}", two.netns().name()))?;
    Ok(())
}

fn make_switch(prefix: &str, traits: Traits) -> Result<Netns> {
    let switch = Netns::create(&format!("{prefix}-switch"))?;
    traits.quiet_ipv6(&switch)?;
    switch.ip(&format!("link add {SWITCH_BRIDGE} mtu {} type bridge", traits.mtu))?;
    switch.ip(&format!("address add {SWITCH_ADDRESS}/24 dev {SWITCH_BRIDGE}"))?;
    switch.ip(&format!("link set {SWITCH_BRIDGE} up"))?;
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
