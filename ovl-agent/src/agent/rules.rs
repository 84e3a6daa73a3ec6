//! The firewall's rules beside the loop: another program may hold iptables' lock for long.

use std::time::Instant;

use tracing::{info, warn};

use super::Agent;
use crate::cli::{FastPath, RunArgs};
use crate::facts::FirewallFacts;
use crate::family::ByFamily;
use crate::firewall::{
    Firewall, Marking, Masquerade, Mode, Outcome, Range, Verification, Wanted, bridge_warning,
};
use crate::network::Network;
use crate::node::Node;

/// What became of one look at the rules.
pub(super) struct Looked {
    firewall: Firewall,
    verification: Verification,
    wanted: Wanted,
    outcome: Outcome,
    marking: Outcome,
}

/// What is known of the rules.
pub(super) struct Rules {
    /// `None` while a look is under way.
    kept: Option<(Firewall, Verification)>,
    /// What stood after the last look without fault.
    stood: Option<Wanted>,
    errors: Vec<String>,
    /// Why no flow can be verified.
    unverified: Vec<String>,
    repaired: u64,
    last_repair: Option<Instant>,
    warned: bool,
}

impl Rules {
    pub(super) fn new(overlay: &str) -> Self {
        Self {
            kept: Some((Firewall::new(overlay), Verification::new(overlay))),
            stood: None,
            errors: Vec::new(),
            unverified: Vec::new(),
            repaired: 0,
            last_repair: None,
            warned: false,
        }
    }

    /// What is wrong.
    pub(super) fn errors(&self) -> impl Iterator<Item = &String> {
        self.errors.iter().chain(&self.unverified)
    }
}

impl Agent {
    /// What should stand for this node.
    pub(super) fn wanted_rules(&self) -> Wanted {
        wanted(&self.args, &self.network, &self.node)
    }

    /// What marks the packets that the programs learn from, where they do.
    fn wanted_marking(&self) -> Option<Marking> {
        let policy = self.tables.fast_path.as_ref()?.policy();
        let is_verified = policy.fast_path == FastPath::Verified;
        is_verified.then(|| Marking { bit: policy.mark, networks: self.network.ranges() })
    }

    /// Whether the rules of before are not those that should stand now.
    pub(super) fn are_rules_outdated(&self) -> bool {
        self.rules.kept.is_some()
            && self.rules.stood.as_ref().is_some_and(|stood| *stood != self.wanted_rules())
    }

    /// A look at the rules, where none is under way.
    pub(super) fn look_at_rules(&mut self) -> Option<impl Future<Output = Looked> + use<>> {
        let (mut firewall, mut verification) = self.rules.kept.take()?;
        let wanted = self.wanted_rules();
        let marking = self.wanted_marking();
        if !std::mem::replace(&mut self.rules.warned, true)
            && let Some(warning) = bridge_warning(&wanted)
        {
            warn!("{warning}");
        }
        Some(async move {
            let outcome = firewall.ensure(&wanted).await;
            let marking = match marking {
                Some(marking) => verification.ensure(&marking).await,
                None => verification.remove().await,
            };
            Looked { firewall, verification, wanted, outcome, marking }
        })
    }

    /// Takes the result of a look in. Whether the node may be ready now that was not before.
    pub(super) fn take_rules(&mut self, looked: Looked) -> bool {
        let stood = self.do_rules_stand();
        let Looked { firewall, verification, wanted, outcome, marking } = looked;
        let rules = &mut self.rules;
        rules.kept = Some((firewall, verification));
        for outcome in [&outcome, &marking] {
            for change in &outcome.changes {
                if outcome.drift {
                    warn!("firewall rules put right that somebody changed: {change}");
                } else {
                    info!("firewall rules written: {change}");
                }
            }
        }
        for error in &marking.errors {
            if !rules.unverified.contains(error) {
                warn!("{error}");
            }
        }
        rules.unverified = marking.errors;
        if outcome.drift || marking.drift {
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
