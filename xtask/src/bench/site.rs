//! A contender's nodes. All contenders have theirs, laid alike, for the whole session: taking turns takes no time, so
//! that those compared meet the same moods of the machine. Only one carries traffic at a time.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ovl_tests::agent::{AgentOptions, Store};
use ovl_tests::store_dir::DirStore;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::Ends;

use super::checks::{self, Offloads};
use super::contender::{Between, Contender};
use super::plan::Plan;
use super::workload::{Outcome, Workload};
use super::{claim, flows, rules};
use crate::cluster::Cluster;
use crate::peer::{Overlay, Peer, UNDERLAY};
use crate::{congestion, path};

/// What there is beside the traffic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ballast {
    /// Rules in the forward path beside those that everybody has.
    pub(super) rules: u32,
    /// Leases of nodes that are not there.
    pub(super) leases: u32,
    /// Flows that are open and silent.
    pub(super) flows: u32,
}

/// The nodes of one contender, ready to measure.
pub(super) struct Site {
    pub(super) contender: &'static Contender,
    pub(super) cluster: Cluster,
    pub(super) store: DirStore,
    agent: PathBuf,
}

impl Site {
    /// Builds it.
    pub(super) fn build(contender: &'static Contender, plan: &Plan, agent: &Path) -> Result<Self> {
        let ballast = plan.ballast;
        let topology = Topology::builder(contender.name).build()?;
        let overlay = Overlay { backend: contender.backend, ipv6: false };
        let store = DirStore::create(&topology.dir().join("store"))?;
        store.put("config", &overlay.config())?;
        for number in 0..ballast.leases {
            let peer = Peer::new(overlay, number);
            store.put(&peer.key(), &peer.value())?;
        }
        for node in topology.nodes() {
            // Peers that are routed to have to be on the link.
            node.netns().ip(&format!("route add {UNDERLAY} dev eth0"))?;
            if contender.has_xdp() {
                // What it is for; a veth aggregates only where it is told to.
                node.command("ethtool").words("-K eth0 gro on").run()?;
            }
        }
        let settings = AgentOptions::new(agent.to_owned(), Store::Dir(store.path().to_owned()));
        let strangers = usize::try_from(ballast.leases)?;
        let mut cluster = Cluster::new(topology, settings, None, strangers);
        cluster.start_agents(&contender.strict_flags())?;
        cluster.add_pods()?;
        congestion::set(&cluster, &plan.congestion)?;
        for node in cluster.topology().nodes() {
            rules::add(node, ballast.rules)?;
        }
        let site = Self { contender, cluster, store, agent: agent.to_owned() };
        flows::open(&site, ballast.flows)?;
        Ok(site)
    }

    /// Where its traffic runs.
    pub(super) fn ends(&self) -> Result<Ends<'_>> {
        let [client, server] = self.cluster.measured_pair()?;
        Ok(match self.contender.ends {
            Between::Pods => Ends::pods(client.pod, server.pod),
            Between::Nodes => {
                let (from, to) = (client.node, server.node);
                Ends { client: from.netns(), server: to.netns(), address: to.address() }
            }
        })
    }

    /// Whether it is as it should be; what its devices take off the processor, which must be the same everywhere.
    pub(super) fn check(&self) -> Result<Offloads> {
        checks::check(self).with_context(|| format!("check the nodes of {}", self.contender.name))
    }

    /// Takes everything away that an agent made on a node; its lease stays.
    pub(super) fn clean_up(&self, index: usize) -> Result<()> {
        let node = self.cluster.topology().node(index)?;
        let [subnet, socket] = ["subnet.env", "agent.sock"].map(|file| node.dir().join(file));
        let command = node.command(&self.agent).arg("cleanup").arg("--subnet-file").arg(subnet);
        command.arg("--socket").arg(socket).run()?;
        Ok(())
    }

    /// Runs a workload and proves the path that its packets took.
    pub(super) fn measure(&mut self, workload: &Workload, seconds: u32) -> Result<Outcome> {
        if workload.load.is_of_agents() {
            return workload.load.run(self, seconds);
        }
        let before = path::count(&self.cluster, self.contender.backend)?;
        let outcome = workload.load.run(self, seconds)?;
        let path = path::count(&self.cluster, self.contender.backend)? - before;
        claim::verify(self.contender, workload, &path, outcome.packets)?;
        Ok(outcome)
    }
}
