//! A cluster on this machine, with one agent and one pod per node.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use ovl_tests::agent::{Agent, AgentOptions};
use ovl_tests::etcd::Etcd;
use ovl_tests::interrupt;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;

use crate::log;

/// A running cluster. The fields' order is the order in which it is taken down.
pub(crate) struct Cluster {
    agents: Vec<Agent>,
    pods: Vec<Pod>,
    etcd: Option<Etcd>,
    topology: Topology,
    settings: AgentOptions,
    strangers: usize,
}

/// A node with what runs there.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) node: &'a Node,
    pub(crate) agent: &'a Agent,
    pub(crate) pod: &'a Pod,
}

impl Cluster {
    /// Nodes without agents; `strangers` leases in their store are of nodes that are not there.
    pub(crate) fn new(
        topology: Topology,
        settings: AgentOptions,
        etcd: Option<Etcd>,
        strangers: usize,
    ) -> Self {
        Self { agents: Vec::new(), pods: Vec::new(), etcd, topology, settings, strangers }
    }

    /// Starts an agent with these flags on every node, and waits until they know each other.
    pub(crate) fn start_agents(&mut self, flags: &str) -> Result<()> {
        for index in 0..self.topology.nodes().len() {
            let agent = self.start_agent(index, flags)?;
            self.agents.push(agent);
        }
        self.wait_for_agents()
    }

    /// Gives every node a pod.
    pub(crate) fn add_pods(&mut self) -> Result<()> {
        for (node, agent) in self.topology.nodes().iter().zip(&self.agents) {
            self.pods.push(node.add_pod("a", &agent.subnet()?)?);
        }
        Ok(())
    }

    /// Ends all agents as a service manager would, and starts them with these flags.
    pub(crate) fn restart_agents(&mut self, flags: &str) -> Result<()> {
        for index in 0..self.agents.len() {
            self.end_agent(index)?;
        }
        self.agents.clear();
        self.start_agents(flags)
    }

    /// Ends one agent as a service manager would.
    pub(crate) fn end_agent(&mut self, index: usize) -> Result<()> {
        let agent = self.agents.get_mut(index).context("there is no such agent")?;
        let status = agent.terminate()?;
        ensure!(
            status.success(),
            "an agent ended with {status} on SIGTERM; its log ends:\n{}",
            agent.log_tail()
        );
        Ok(())
    }

    /// Starts one agent again that was ended; how long it took until it said that it was ready.
    pub(crate) fn start_agent_again(&mut self, index: usize, flags: &str) -> Result<Duration> {
        let started = SystemTime::now();
        let agent = self.start_agent(index, flags)?;
        *self.agents.get_mut(index).context("there is no such agent")? = agent;
        self.wait_for_agents()?;
        let ready =
            log::time_of(&self.agents[index].log(), "ready:").context("find the time in the agent's log")?;
        Ok(ready.duration_since(started).unwrap_or_default())
    }

    /// The first two nodes, between which is measured.
    pub(crate) fn measured_pair(&self) -> Result<[Member<'_>; 2]> {
        let mut members = self.topology.nodes().iter().zip(&self.agents).zip(&self.pods);
        let mut next = || {
            let ((node, agent), pod) =
                members.next().context("the cluster has fewer than two whole nodes")?;
            anyhow::Ok(Member { node, agent, pod })
        };
        Ok([next()?, next()?])
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(crate) fn agents(&self) -> &[Agent] {
        &self.agents
    }

    pub(crate) fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Leaves everything running for good.
    pub(crate) fn detach(mut self) {
        self.topology.keep();
        self.pods.iter_mut().for_each(Pod::keep);
        self.agents.into_iter().for_each(Agent::detach);
        if let Some(etcd) = self.etcd {
            etcd.detach();
        }
    }

    fn start_agent(&self, index: usize, flags: &str) -> Result<Agent> {
        interrupt::check()?;
        Agent::start(self.topology.node(index)?, &self.settings.clone().args(flags))
    }

    fn wait_for_agents(&mut self) -> Result<()> {
        for agent in &mut self.agents {
            agent.wait_ready()?;
        }
        let others = self.agents.len() - 1 + self.strangers;
        self.agents.iter().try_for_each(|agent| agent.wait_for_peers(others))
    }
}
