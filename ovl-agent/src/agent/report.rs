//! What the agent knows, as `ovl-agent status` and the metrics tell it.

use std::time::{Duration, Instant, SystemTime};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Agent;
use crate::backend::{Backend, Here, Way};
use crate::conntrack::Timeouts;
use crate::facts::{
    CounterFacts, EbpfFacts, Facts, LeaseFacts, NodeFacts, Path, PeerFacts, RejectedFacts, StoreHealth,
    TableFacts,
};
use crate::family::Family;
use crate::fast_path::FastPath;
use crate::lease::{LeaseAttrs, LeaseKey};
use crate::notify;
use crate::xdp::Mode;

impl Agent {
    pub(super) fn facts(&self) -> Facts {
        let (counters, failure) = match &self.tables.fast_path {
            None => (Vec::new(), None),
            Some(fast_path) => match fast_path.counters() {
                Ok(counters) => (counters.into_iter().map(CounterFacts::from).collect(), None),
                Err(error) => (Vec::new(), Some(format!("{error:#}"))),
            },
        };
        let config = self.config_problem.iter();
        let config =
            config.map(|problem| format!("the network config in the store is not applied: {problem}"));
        let rules = self.rules.errors().cloned();
        let errors: Vec<String> =
            self.errors.iter().cloned().chain(rules).chain(config).chain(failure).collect();
        let mode = self.mode();
        let range = |family| self.network.range(family);
        Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.tally.started.elapsed().as_secs(),
            ready: self.is_ready(),
            node: self.node_facts(),
            network: range(Family::V4).and_then(ipv4),
            ipv6_network: range(Family::V6).and_then(ipv6),
            lease: self.lease_facts(),
            backend: self.backend.name().to_owned(),
            mtu: self.backend.mtu(&self.node.underlay),
            mode: mode.to_owned(),
            mode_reason: self.mode_reason.clone(),
            fast_path: if mode == "ebpf" { self.args.fast_path.name() } else { "off" }.to_owned(),
            ebpf: self.tables.fast_path.as_ref().map(ebpf_facts),
            store: self.store_name.clone(),
            store_error: self.store_error.clone(),
            store_health: self.store_health(),
            firewall: self.firewall_facts(),
            passes: self.tally.passes(),
            tables: self.tables.reports().iter().map(TableFacts::from).collect(),
            peers: self.peer_facts(),
            rejected: self.rejected_facts(),
            counters: self.tables.udp.counters().into_iter().chain(counters).collect(),
            last_error: errors.first().cloned(),
            errors,
        }
    }

    /// One line for the service manager.
    pub(super) fn summary(&self) -> String {
        let subnets: Vec<IpNet> = self.node.lease.subnets().iter().map(|(_, net)| *net).collect();
        let own = usize::from(self.view.get(self.held.lease.key).is_some());
        let peers = self.view.len() - own;
        notify::summary(&subnets, peers, self.mode(), self.errors.first().map(String::as_str))
    }

    pub(super) fn mode(&self) -> &'static str {
        if self.tables.fast_path.is_some() { "ebpf" } else { "kernel" }
    }

    fn node_facts(&self) -> NodeFacts {
        let public = self.attrs.overwritten_by(&self.held.overwritten);
        NodeFacts {
            name: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            interface: self.node.underlay.name.clone(),
            addresses: self.node.underlay.addresses.iter().map(|(_, address)| *address).collect(),
            public_ip: Some(public.public_ip).filter(|ip| !ip.is_unspecified()),
            public_ipv6: public.public_ipv6,
        }
    }

    fn lease_facts(&self) -> LeaseFacts {
        let subnet = |family| self.node.subnet(family);
        LeaseFacts {
            subnet: subnet(Family::V4).and_then(ipv4),
            ipv6_subnet: subnet(Family::V6).and_then(ipv6),
            expires: self.held.expires.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
            expires_in_seconds: self.held.expires.map(seconds_until),
            losses: self.tally.lease_losses,
        }
    }

    fn store_health(&self) -> StoreHealth {
        StoreHealth {
            up: self.store_error.is_none(),
            since_seconds: self.tally.store_since.elapsed().as_secs(),
            last_answer_seconds: self.tally.store_answered.map(|at| at.elapsed().as_secs()),
            outages: self.tally.store_outages,
        }
    }

    fn peers(&self) -> impl Iterator<Item = (&LeaseKey, &LeaseAttrs, Instant)> {
        self.view.iter_with_age().filter(|(key, ..)| **key != self.held.lease.key)
    }

    fn peer_facts(&self) -> Vec<PeerFacts> {
        let here = self.backend.here(&self.node, &self.on_link);
        let facts = |(key, attrs, changed): (&LeaseKey, &LeaseAttrs, Instant)| {
            let [way, ipv6_way] = Family::ALL.map(|family| self.way(key, attrs, family, &here));
            PeerFacts {
                subnet: key.subnet(Family::V4).and_then(ipv4),
                public_ip: Some(attrs.public_ip).filter(|ip| !ip.is_unspecified()),
                sent_to: way.as_ref().map(|way| way.node),
                path: way.as_ref().map(path),
                ipv6_subnet: key.subnet(Family::V6).and_then(ipv6),
                public_ipv6: attrs.public_ipv6,
                ipv6_sent_to: ipv6_way.as_ref().map(|way| way.node),
                ipv6_path: ipv6_way.as_ref().map(path),
                backend: attrs.backend_type.clone(),
                changed_seconds: Some(changed.elapsed().as_secs()),
            }
        };
        self.peers().map(facts).collect()
    }

    /// How packets for a peer are sent, where they are.
    fn way(&self, key: &LeaseKey, attrs: &LeaseAttrs, family: Family, here: &Here<'_>) -> Option<Way> {
        key.subnet(family)?;
        self.network.range(family)?;
        if self.backend == Backend::Alloc || self.rejected_leases.contains_key(&(*key, family)) {
            return None;
        }
        self.backend.way(family, attrs, here).ok()
    }

    fn rejected_facts(&self) -> Vec<RejectedFacts> {
        let leases = self.rejected_leases.iter().map(|((key, family), reason)| RejectedFacts {
            item: format!("{key} ({family})"),
            reason: reason.clone(),
        });
        let items = self
            .rejected_items
            .iter()
            .map(|item| RejectedFacts { item: item.item.clone(), reason: item.reason.clone() });
        leases.chain(items).collect()
    }
}

fn path(way: &Way) -> Path {
    if way.link.is_some() { Path::Direct } else { Path::Tunnel }
}

fn ebpf_facts(fast_path: &FastPath) -> EbpfFacts {
    let (policy, xdp) = (fast_path.policy(), fast_path.xdp());
    EbpfFacts {
        pinned_in: fast_path.pinned_in().map(|folder| folder.display().to_string()),
        max_flows: policy.max_flows,
        verify_interval_seconds: Timeouts::read().verify_interval(policy.verify_interval).as_secs_f64(),
        source_check: policy.source_check.name().to_owned(),
        fast_path_mark: policy.mark,
        xdp: xdp.mode.map_or("off", Mode::name).to_owned(),
        xdp_reason: xdp.reason.clone(),
    }
}

fn ipv4(net: IpNet) -> Option<Ipv4Net> {
    if let IpNet::V4(net) = net { Some(net) } else { None }
}

fn ipv6(net: IpNet) -> Option<Ipv6Net> {
    if let IpNet::V6(net) = net { Some(net) } else { None }
}

/// Negative when it is over.
fn seconds_until(time: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::now()) {
        Ok(left) => seconds(left),
        Err(over) => -seconds(over.duration()),
    }
}
