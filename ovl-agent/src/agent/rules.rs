//! The firewall's rules beside the loop: another program may hold iptables' lock for long.

use std::time::Instant;

use tracing::{info, warn};

use super::Agent;
use crate::cli::RunArgs;
use crate::facts::FirewallFacts;
use crate::family::ByFamily;
use crate::firewall::{Firewall, Masquerade, Mode, Outcome, Range, Wanted, bridge_warning};
use crate::network::Network;
use crate::node::Node;

/// What became of one look at the rules.
pub(super) struct Looked {
    firewall: Firewall,
    wanted: Wanted,
    outcome: Outcome,
}

/// What is known of the rules.
pub(super) struct Rules {
    /// `None` while a look is under way.
    firewall: Option<Firewall>,
    /// What stood after the last look without fault.
    stood: Option<Wanted>,
    errors: Vec<String>,
    repaired: u64,
    last_repair: Option<Instant>,
    warned: bool,
}

impl Rules {
    pub(super) fn new(overlay: &str) -> Self {
        Self {
            firewall: Some(Firewall::new(overlay)),
            stood: None,
            errors: Vec::new(),
            repaired: 0,
            last_repair: None,
            warned: false,
        }
    }

    /// What is wrong.
    pub(super) fn errors(&self) -> &[String] {
        &self.errors
    }
}

impl Agent {
    /// What should stand for this node.
    pub(super) fn wanted_rules(&self) -> Wanted {
        wanted(&self.args, &self.network, &self.node)
    }

    /// Whether the rules of before are not those that should stand now.
    pub(super) fn are_rules_outdated(&self) -> bool {
        self.rules.firewall.is_some()
            && self.rules.stood.as_ref().is_some_and(|stood| *stood != self.wanted_rules())
    }

    /// A look at the rules, where none is under way.
    pub(super) fn look_at_rules(&mut self) -> Option<impl Future<Output = Looked> + use<>> {
        let mut firewall = self.rules.firewall.take()?;
        let wanted = self.wanted_rules();
        if !std::mem::replace(&mut self.rules.warned, true)
            && let Some(warning) = bridge_warning(&wanted)
        {
            warn!("{warning}");
        }
        Some(async move {
            let outcome = firewall.ensure(&wanted).await;
            Looked { firewall, wanted, outcome }
        })
    }

    /// Takes the result of a look in. Whether the node may be ready now that was not before.
    pub(super) fn take_rules(&mut self, looked: Looked) -> bool {
        let stood = self.do_rules_stand();
        let Looked { firewall, wanted, outcome } = looked;
        let rules = &mut self.rules;
        rules.firewall = Some(firewall);
        for change in &outcome.changes {
            if outcome.drift {
                warn!("firewall rules put right that somebody changed: {change}");
            } else {
                info!("firewall rules written: {change}");
            }
        }
        if outcome.drift {
            rules.repaired += 1;
            rules.last_repair = Some(Instant::now());
        }
        for error in &outcome.errors {
            if !rules.errors.contains(error) {
                warn!("{error}");
            }
        }
        if outcome.errors.is_empty() {
            rules.stood = Some(wanted);
        }
        rules.errors = outcome.errors;
        !stood && self.do_rules_stand()
    }

    /// Whether the rules that packets need stand: without masquerading, pods reach nothing outside; forward rules only
    /// matter where somebody else's policy is to drop, and flannel, too, goes on without them.
    pub(super) fn do_rules_stand(&self) -> bool {
        let looked = self.rules.stood.is_some() || !self.rules.errors.is_empty();
        looked && (!self.args.ip_masq || self.rules.errors.is_empty())
    }

    pub(super) fn firewall_facts(&self) -> Option<FirewallFacts> {
        if !self.args.ip_masq && !self.args.iptables_forward_rules {
            return None;
        }
        let mode = if self.network.nftables { "nftables" } else { "iptables" };
        Some(FirewallFacts {
            mode: mode.to_owned(),
            stands: self.rules.stood.is_some() && self.rules.errors.is_empty(),
            repaired: self.rules.repaired,
            last_repair_seconds: self.rules.last_repair.map(|at| at.elapsed().as_secs()),
        })
    }
}

fn wanted(args: &RunArgs, network: &Network, node: &Node) -> Wanted {
    let ranges = ByFamily::from_fn(|family| {
        Some(Range { network: network.range(family)?, subnet: node.subnet(family)? })
    });
    Wanted {
        mode: if network.nftables { Mode::Nftables } else { Mode::Iptables },
        ranges,
        masquerade: args.ip_masq.then_some(Masquerade { random_fully: !args.ip_masq_fully_random_disable }),
        forward: args.iptables_forward_rules,
    }
}
