//! Where it is measured: a node for the agent, etcd on the underlay, and leases in it.

use anyhow::{Context as _, Result};
use ovl_tests::agent::{AgentOptions, Store};
use ovl_tests::background::Lifetime;
use ovl_tests::etcd::Etcd;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;

use super::etcd_requests::Requests;
use super::fill::fill;
use super::marks::is_route;
use crate::overlay::Mode;
use crate::peer::{Overlay, Peer, UNDERLAY, UNDERLAY6};

/// The site. The fields' order is the order in which it is taken down.
pub(super) struct Site {
    pub(super) etcd: Etcd,
    pub(super) topology: Topology,
    pub(super) overlay: Overlay,
    /// Peers that hold leases from the beginning.
    pub(super) leases: u32,
}

impl Site {
    /// Builds it, with `leases` leases.
    pub(super) fn build(overlay: Overlay, leases: u32) -> Result<Self> {
        let mut topology = Topology::builder("scale").nodes(1).switch();
        if overlay.ipv6 {
            topology = topology.ipv6();
        }
        let topology = topology.build()?;
        let etcd = Etcd::on_underlay(&topology, Lifetime::WithHarness)?;
        let site = Self { etcd, topology, overlay, leases };
        site.etcd.put("/coreos.com/network/config", &overlay.config())?;
        let peers = (0..leases).map(|number| site.peer(number));
        fill(&site.etcd, &site.topology, peers)?;
        // Peers that are routed to have to be on the link.
        site.node()?.netns().ip(&format!("route add {UNDERLAY} dev eth0"))?;
        if overlay.ipv6 {
            site.node()?.netns().ip(&format!("-6 route add {UNDERLAY6} dev eth0"))?;
        }
        Ok(site)
    }

    /// The agent's node.
    pub(super) fn node(&self) -> Result<&Node> {
        self.topology.node(0)
    }

    /// A node that is not there.
    pub(super) fn peer(&self, number: u32) -> Peer {
        Peer::new(self.overlay, number)
    }

    /// How to start `agent` here. A user's defaults, and so with forward rules.
    pub(super) fn agent_options(&self, agent: &std::path::Path, mode: Mode) -> AgentOptions {
        AgentOptions::new(agent.to_owned(), Store::Etcd(self.etcd.url().to_owned()))
            .args(&mode.strict_flags(self.overlay.backend))
    }

    /// What etcd was asked until now.
    pub(super) fn requests(&self) -> Result<Requests> {
        let url = format!("{}/metrics", self.etcd.url());
        let page = self.topology.switch()?.command("curl").args(["--silent", "--fail", &url]).run()?;
        Requests::parse(&page).context("understand etcd's metrics")
    }

    /// How many routes to peers the kernel has.
    pub(super) fn routes(&self) -> Result<usize> {
        let count = |family: &str| {
            let text = self.node()?.netns().ip(&format!("{family} -oneline route show"))?;
            anyhow::Ok(text.lines().filter(|line| is_route(line)).count())
        };
        Ok(count("-4")? + count("-6")?)
    }
}
