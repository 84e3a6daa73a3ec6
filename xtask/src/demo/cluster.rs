//! The demo's cluster: topology, store, one agent and one pod per node.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use ovl_tests::agent::{Agent, AgentOptions, Store};
use ovl_tests::background::Lifetime;
use ovl_tests::etcd::Etcd;
use ovl_tests::interrupt;
use ovl_tests::pod::Pod;
use ovl_tests::store_dir::DirStore;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use super::state::State;
use super::{Backend, Mode, Options, StoreKind};
use crate::shell;

/// A running cluster. The fields' order is the order in which it is taken down.
pub(super) struct Cluster {
    agents: Vec<Agent>,
    pods: Vec<Pod>,
    etcd: Option<Etcd>,
    topology: Topology,
    settings: AgentOptions,
}

impl Cluster {
    /// Starts everything, with the agents in the mode that was asked for.
    pub(super) fn start(options: &Options, agent: PathBuf, state: &State) -> Result<Self> {
        let mut builder = Topology::builder("demo").prefix(state.prefix()).nodes(options.nodes.into());
        if options.store == StoreKind::Etcd {
            builder = builder.switch();
        }
        let topology = builder.build()?;
        state.note_directory(topology.dir())?;

        let lifetime = if options.keep { Lifetime::Detachable } else { Lifetime::WithHarness };
        let (store, etcd) = start_store(options, &topology, lifetime)?;
        let settings = AgentOptions::new(agent, store).lifetime(lifetime);
        let mut cluster = Self { agents: Vec::new(), pods: Vec::new(), etcd, topology, settings };
        cluster.start_agents(options.mode)?;
        for (node, agent) in cluster.topology.nodes().iter().zip(&cluster.agents) {
            cluster.pods.push(node.add_pod("a", &agent.subnet()?)?);
        }
        Ok(cluster)
    }

    /// Ends all agents as a service manager would, and starts them in `mode`.
    pub(super) fn restart_agents(&mut self, mode: Mode) -> Result<()> {
        for mut agent in std::mem::take(&mut self.agents) {
            let status = agent.terminate()?;
            anyhow::ensure!(
                status.success(),
                "an agent ended with {status} on SIGTERM; its log ends:\n{}",
                agent.log_tail()
            );
        }
        self.start_agents(mode)
    }

    /// Pings every pod from every other one; returns the number of pairs.
    pub(super) fn ping_all(&self) -> Result<usize> {
        traffic::ping_all_pairs(&self.pods)
    }

    /// The two pods that measurements use, on the first two nodes, each with its agent.
    pub(super) fn measured_pair(&self) -> Result<[(&Pod, &Agent); 2]> {
        let mut pairs = self.pods.iter().zip(&self.agents);
        let mut next = || pairs.next().context("the cluster has fewer than two nodes");
        Ok([next()?, next()?])
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn agents(&self) -> &[Agent] {
        &self.agents
    }

    pub(super) fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Leaves everything running for good.
    pub(super) fn detach(mut self) {
        self.topology.keep();
        self.pods.iter_mut().for_each(Pod::keep);
        self.agents.into_iter().for_each(Agent::detach);
        if let Some(etcd) = self.etcd {
            etcd.detach();
        }
    }

    fn start_agents(&mut self, mode: Mode) -> Result<()> {
        let settings = self.settings.clone().args(mode.flags());
        for node in self.topology.nodes() {
            interrupt::check()?;
            self.agents.push(Agent::start(node, &settings)?);
        }
        for agent in &mut self.agents {
            agent.wait_ready()?;
        }
        let others = self.agents.len() - 1;
        self.agents.iter().try_for_each(|agent| agent.wait_for_peers(others))
    }
}

fn start_store(options: &Options, topology: &Topology, lifetime: Lifetime) -> Result<(Store, Option<Etcd>)> {
    let config = network_config(options.backend);
    match options.store {
        StoreKind::Dir => {
            let store = DirStore::create(&topology.dir().join("store"))?;
            store.put("config", &config)?;
            Ok((Store::Dir(store.path().to_owned()), None))
        }
        StoreKind::Etcd => {
            shell::step("starting etcd");
            let etcd = Etcd::on_underlay(topology, lifetime)?;
            etcd.put("/coreos.com/network/config", &config)?;
            Ok((Store::Etcd(etcd.url().to_owned()), Some(etcd)))
        }
    }
}

fn network_config(backend: Backend) -> String {
    format!(r#"{{"Network":"10.42.0.0/16","Backend":{{"Type":"{}"}}}}"#, backend.name())
}
