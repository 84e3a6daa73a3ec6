//! One reconcile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use tracing::{debug, info, warn};

use super::{Agent, public_ips};
use crate::backend::{OnLink, Route, RouteKey};
use crate::family::{ByFamily, Family};
use crate::fast_path::{Cluster, Places, PodPort, pod_ports};
use crate::netlink::{Interface, interfaces, shaped};
use crate::reconcile::Outcome;
use crate::tables::Look;
use crate::underlay;

impl Agent {
    /// Makes the node's tables equal to the leases. Before the first complete listing nothing is known, and nothing
    /// is done.
    pub(super) async fn pass(&mut self, look: Look) {
        if !self.view.is_complete() {
            return;
        }
        let started = Instant::now();
        match self.reconcile(look).await {
            Ok(errors) => self.remember(errors),
            Err(error) => {
                let problem = format!("{error:#}");
                self.health.note(Some(&problem));
                self.remember(vec![problem]);
            }
        }
        self.forget_flows_of_gone_pods();
        self.tally.passed(started.elapsed(), !self.errors.is_empty());
    }

    async fn reconcile(&mut self, look: Look) -> Result<Vec<String>> {
        // What failed is tried again; what waits for its time is looked at.
        if look == Look::Hooks && self.errors.is_empty() && !self.follow.is_waiting() {
            let mut outcome = Outcome::default();
            self.tables.mend_hooks(&mut outcome).await;
            if outcome.changed() {
                info!("{} programs attached again that somebody had taken off", outcome.put);
            }
            return Ok(outcome.errors);
        }
        // Before the look: what changes during it is seen the next time.
        if self.events.take_ways_changed() {
            self.doubt_ways();
        }
        let interfaces = interfaces(&self.handle).await?;
        let mut errors = Vec::new();
        if look != Look::Trust && (self.is_underlay_doubted || self.follow.is_waiting()) {
            match self.follow_underlay(&interfaces).await {
                Ok(problem) => {
                    errors.extend(problem);
                    self.is_underlay_doubted = false;
                }
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
        if let Some(missing) = self.missing_underlay(&interfaces) {
            // Nothing that leads to it can be written; saying so row by row helps nobody.
            self.health.note(Some(&missing));
            errors.push(missing);
            return Ok(errors);
        }
        let devices = self.backend.devices();
        let overlay = ByFamily::from_fn(|family| {
            let name = devices.get(family)?;
            let device = interfaces.values().find(|interface| interface.name == *name)?;
            Some(device.clone())
        });
        self.events.set_overlay(&overlay.map(|_, device| device.ifindex));
        let (on_link, problems) = self.on_link(&interfaces).await;
        errors.extend(problems);
        let mut desired = self.backend.desired(&self.node, &self.network, &self.view, &on_link);
        let peer_subnets = desired.routes.len().max(desired.udp_peers.len());
        if self.args.ip_blackhole_route {
            let own = self
                .node
                .lease
                .subnets()
                .iter()
                .map(|(_, subnet)| (RouteKey::last(*subnet), Route::Blackhole));
            desired.routes.extend(own);
        }
        self.events.set_fdb(desired.fdb.clone());
        // What is not in the view, and so not known from before.
        let unreadable = self.rejected_items.iter().filter_map(|item| item.key);
        let unknown = unreadable.filter(|key| self.view.get(*key).is_none());
        desired
            .kept
            .extend(unknown.flat_map(|key| key.subnets().iter().map(|(_, net)| *net).collect::<Vec<_>>()));
        self.on_link = on_link;
        for (item, reason) in &desired.rejected {
            if self.rejected_leases.get(item) != Some(reason) {
                warn!("ignoring {} of lease {}: {reason}", item.1, item.0);
            }
        }
        let pods = self.pods(&interfaces, look, &mut errors).await;
        let tunnels = self.backend.tunnels(self.node.underlay.mtu);
        let cluster = Cluster {
            remotes: &desired.remotes,
            kept: &desired.kept,
            nodes: &self.other_nodes(),
            nodes_unsure: !self.rejected_items.is_empty(),
            remotes_withheld: false,
            tunnels: &tunnels,
        };
        let wire = interfaces.get(&self.node.underlay.ifindex);
        let places = Places { pods: &pods, overlay: &overlay, underlay: wire };
        let outcome =
            self.tables.make(&self.node, &desired, &cluster, &places, (look, self.args.source_check)).await;
        self.tables.adopt(&self.network, &desired, &self.former_ranges).await;
        self.changes_in_a_row = if outcome.changed() { self.changes_in_a_row.saturating_add(1) } else { 0 };
        if outcome.changed() {
            info!("{} rows written, {} removed; {} peer subnets", outcome.put, outcome.deleted, peer_subnets);
        } else {
            debug!("nothing to do; {peer_subnets} peer subnets");
        }
        self.rejected_leases = desired.rejected;
        self.health.note(outcome.errors.first().filter(|_| !outcome.own_rows_stand).map(String::as_str));
        errors.extend(outcome.errors);
        if outcome.own_rows_stand
            && self.do_rules_stand()
            && let Err(error) = self.publish(look)
        {
            errors.push(format!("{error:#}"));
        }
        Ok(errors)
    }

    /// The pods whose packets may leave the kernel path.
    async fn pods(
        &mut self,
        interfaces: &BTreeMap<u32, Interface>,
        look: Look,
        errors: &mut Vec<String>,
    ) -> BTreeMap<u32, PodPort> {
        let mut pods = pod_ports(interfaces, &self.args.pod_bridge, self.pod_interfaces.as_ref());
        if let Some(fast_path) = &self.tables.fast_path
            && look == Look::Anew
        {
            match shaped(&self.handle, &pods.keys().copied().collect()).await {
                Ok(mut shaped) => {
                    shaped.extend(fast_path.watched(&pods));
                    for ifindex in shaped.difference(&self.shaped) {
                        let name = pods.get(ifindex).map_or("", |pod| pod.interface.as_str());
                        info!(
                            "{name} has qdiscs, filters or programs of tc, which the fast path would pass by: its pod \
                             stays on the kernel path"
                        );
                    }
                    self.shaped = shaped;
                }
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
        pods.retain(|ifindex, _| !self.shaped.contains(ifindex));
        pods
    }

    /// The addresses of everybody who holds a lease, whether or not it can be programmed.
    fn other_nodes(&self) -> BTreeSet<IpAddr> {
        let leases = self.view.iter().filter(|(key, _)| **key != self.held.lease.key);
        let addresses = leases.flat_map(|(_, attrs)| Family::ALL.map(|family| attrs.public_ip(family)));
        addresses.flatten().filter(|address| !address.is_unspecified()).collect()
    }

    /// Has the next pass look at the underlay, and ask anew which peers are on its link.
    pub(super) fn doubt_ways(&mut self) {
        self.reach.doubt();
        self.is_underlay_doubted = true;
    }

    /// Takes over what has changed of the underlay interface. While it is gone or has no address, what was stays.
    async fn follow_underlay(&mut self, interfaces: &BTreeMap<u32, Interface>) -> Result<Option<String>> {
        let facts = underlay::look(&self.handle, &self.choice, interfaces.clone()).await?;
        let underlay = &self.node.underlay;
        if let Some(now) = self.follow.step(underlay, &self.choice, &facts, Instant::now()) {
            let public_ips = public_ips(&self.args, &now);
            if let Err(error) = self.backend.check(&now, &self.network, &public_ips) {
                return Ok(Some(format!("{error:#}; the rows of before stay")));
            }
            info!("the underlay is now {} with {} and MTU {}", now.name, now.addresses, now.mtu);
            self.attrs = self.backend.attrs(&public_ips);
            self.node.public_ips = public_ips;
            self.node.underlay = now;
        }
        Ok(None)
    }

    fn missing_underlay(&self, interfaces: &BTreeMap<u32, Interface>) -> Option<String> {
        let name = &self.node.underlay.name;
        let is_there = interfaces.values().any(|interface| interface.name == *name);
        (!is_there).then(|| format!("the underlay interface {name} is gone; waiting for it"))
    }

    /// The peers that DirectRouting may route to.
    async fn on_link(&mut self, interfaces: &BTreeMap<u32, Interface>) -> (OnLink, Vec<String>) {
        if !self.backend.wants_on_link() {
            return (OnLink::new(), Vec::new());
        }
        let families = self.node.underlay.addresses;
        let public_ips = self.view.iter().flat_map(|(_, attrs)| {
            families.iter().filter_map(|(family, _)| attrs.public_ip(family)).collect::<Vec<_>>()
        });
        let peers: BTreeSet<IpAddr> = public_ips.filter(|ip| !self.node.is_known_as(*ip)).collect();
        let devices = self.backend.devices();
        let overlay: BTreeSet<String> = devices.iter().map(|(_, name)| name.clone()).collect();
        self.reach.on_link(&self.handle, peers, interfaces, &overlay).await
    }

    /// Says what is wrong, once for as long as it stays the same.
    fn remember(&mut self, errors: Vec<String>) {
        for error in &errors {
            if !self.errors.contains(error) {
                warn!("{error}");
            }
        }
        if errors.is_empty() && !self.errors.is_empty() {
            info!("all rows are in place again");
        }
        self.errors = errors;
    }
}
