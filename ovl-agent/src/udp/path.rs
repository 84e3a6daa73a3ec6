//! The engine as the passes see it: its two tables, and what the workers have to know besides.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rtnetlink::Handle;

use super::device::TunTable;
use super::peers::{PeerTable, Shared};
use super::reason::Counters;
use crate::backend::Desired;
use crate::cli::SourceCheck;
use crate::facts::CounterFacts;
use crate::family::ByFamily;
use crate::node::Node;
use crate::reconcile::{Outcome, delete, put_missing};
use crate::tables::{Own, Report};

/// What packets are judged by beside the peers' subnets.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The addresses of all other nodes.
    pub nodes: &'a BTreeSet<IpAddr>,
    /// Whether `nodes` may lack one, whose lease cannot be read.
    pub nodes_unsure: bool,
    /// `--source-check`.
    pub check: SourceCheck,
}

/// The device, the workers and what they go by.
pub struct UdpPath {
    devices: Own<TunTable>,
    peers: Own<PeerTable>,
    shared: Shared,
    counters: Arc<Counters>,
    is_wanted: bool,
}

impl UdpPath {
    /// The path of the overlay that `alias` names over the TUN device `wanted`; without one, only what an earlier agent
    /// left is looked after.
    pub fn new(handle: Handle, alias: String, wanted: Option<String>) -> Self {
        let (shared, counters) = (Shared::new(SourceCheck::Strict), Arc::new(Counters::default()));
        let is_wanted = wanted.is_some();
        let devices = TunTable::new(handle, alias, wanted, shared.clone(), Arc::clone(&counters));
        let peers = PeerTable::new(shared.clone());
        Self { devices: Own::new(devices), peers: Own::new(peers), shared, counters, is_wanted }
    }

    /// Makes peers and device as wanted; the devices that nobody wants are returned, to go last. The peers come first:
    /// a worker that starts has somewhere to send to.
    pub async fn make(
        &mut self,
        node: &Node,
        desired: &Desired,
        around: &Surroundings<'_>,
        outcome: &mut Outcome,
    ) -> Vec<String> {
        if self.is_wanted {
            let peers =
                put_missing(&mut self.peers.table, &mut self.peers.known, &desired.udp_peers, outcome).await;
            let unwanted: Vec<IpNet> =
                peers.unwanted.into_iter().filter(|subnet| !desired.kept.contains(subnet)).collect();
            delete(&mut self.peers.table, &mut self.peers.known, &unwanted, outcome).await;
            self.look_around(node, around);
        }
        put_missing(&mut self.devices.table, &mut self.devices.known, &desired.tuns, outcome).await.unwanted
    }

    fn look_around(&self, node: &Node, around: &Surroundings<'_>) {
        let own = ByFamily::from_fn(|family| node.subnet(family));
        // Strictly only where every lease is known: the others' pods would be strangers.
        let is_unsure = around.check == SourceCheck::Strict && around.nodes_unsure;
        let check = if is_unsure { SourceCheck::Loose } else { around.check };
        let now = self.shared.now();
        let mut nodes = around.nodes.clone();
        if around.nodes_unsure {
            nodes.extend(&now.nodes);
        }
        if (&now.nodes, now.own, now.check) != (&nodes, own, check) {
            self.shared.change(|overlay| (overlay.nodes, overlay.own, overlay.check) = (nodes, own, check));
        }
    }

    /// Removes devices.
    pub async fn remove(&mut self, devices: &[String], outcome: &mut Outcome) {
        delete(&mut self.devices.table, &mut self.devices.known, devices, outcome).await;
    }

    /// Has the next pass list the devices anew.
    pub fn doubt(&mut self) {
        self.devices.known.doubt();
    }

    /// What to say of the tables, where there is something.
    pub fn reports(&self) -> Vec<Report> {
        if self.is_wanted { vec![self.devices.report(), self.peers.report()] } else { Vec::new() }
    }

    /// Every counter that is not zero.
    pub fn counters(&self) -> Vec<CounterFacts> {
        self.counters.facts()
    }
}
