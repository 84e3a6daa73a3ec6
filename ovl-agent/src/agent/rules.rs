//! The firewall's rules beside the loop: another program may hold iptables' lock for long.

use std::time::Instant;

use tracing::{info, warn};

use super::Agent;
use super::due::Due;
use crate::cli::{self, RunArgs};
use crate::facts::FirewallFacts;
use crate::family::ByFamily;
use crate::fast_path::FastPath;
use crate::firewall::{
    Firewall, Marking, Masquerade, Mode, Outcome, Range, Verification, Wanted, bridge_warning,
};
use crate::network::Network;
use crate::node::Node;

/// What became of one look.
#[expect(clippy::large_enum_variant, reason = "one at a time, every few seconds")]
pub(super) enum Looked {
    /// At the rules that packets need.
    AtRules(Firewall, Wanted, Outcome),
    /// At those that the programs learn by. It comes after the other: a node can be ready without them, and tools that
    /// write at the same time are in each other's way.
    AtMarks(Verification, Outcome),
}

/// Which packets are to be marked, for the programs to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marks {
    /// Those that an earlier agent had marked, if any did: the programs are being loaded.
    AsBefore,
    These(Marking),
    /// None: nobody learns.
    None,
}

/// What is known of the rules.
pub(super) struct Rules {
    /// `None` while a look is under way.
    firewall: Option<Firewall>,
    /// The same.
    verification: Option<Verification>,
    /// What stood after the last look without fault.
    stood: Option<Wanted>,
    /// What the last look was told to mark.
    marks: Marks,
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
            firewall: Some(Firewall::new(overlay)),
            verification: Some(Verification::new(overlay)),
            stood: None,
            marks: Marks::AsBefore,
            errors: Vec::new(),
            unverified: Vec::new(),
            repaired: 0,
            last_repair: None,
            warned: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.firewall.is_some() && self.verification.is_some()
    }

    /// Says what a look changed.
    fn tell(&mut self, outcome: &Outcome) {
        for change in &outcome.changes {
            if outcome.drift {
                warn!("firewall rules put right that somebody changed: {change}");
            } else {
                info!("firewall rules written: {change}");
            }
        }
        if outcome.drift {
            self.repaired += 1;
            self.last_repair = Some(Instant::now());
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

    fn wanted_marks(&self) -> Marks {
        match self.tables.fast_path.as_ref().map(FastPath::policy) {
            Some(policy) if policy.fast_path == cli::FastPath::Verified => {
                Marks::These(Marking { bit: policy.mark, networks: self.network.ranges() })
            }
            None if !self.programs.is_idle() => Marks::AsBefore,
            Some(_) | None => Marks::None,
        }
    }

    /// Whether the rules of before are not those that should stand now.
    pub(super) fn are_rules_outdated(&self) -> bool {
        let are_others = self.rules.stood.as_ref().is_some_and(|stood| *stood != self.wanted_rules());
        self.rules.is_idle() && (are_others || self.rules.marks != self.wanted_marks())
    }

    /// A look at the rules, where none is under way.
    pub(super) fn look_at_rules(&mut self) -> Option<impl Future<Output = Looked> + use<>> {
        if !self.rules.is_idle() {
            return None;
        }
        let mut firewall = self.rules.firewall.take()?;
        let wanted = self.wanted_rules();
        if !std::mem::replace(&mut self.rules.warned, true)
            && let Some(warning) = bridge_warning(&wanted)
        {
            warn!("{warning}");
        }
        Some(async move {
            let outcome = firewall.ensure(&wanted).await;
            Looked::AtRules(firewall, wanted, outcome)
        })
    }

    fn look_at_marks(&mut self) -> Option<impl Future<Output = Looked> + use<>> {
        let marks = self.wanted_marks();
        if marks == Marks::AsBefore {
            return None;
        }
        let mut verification = self.rules.verification.take()?;
        self.rules.marks = marks;
        Some(async move {
            let outcome = match marks {
                Marks::These(marking) => verification.ensure(&marking).await,
                Marks::AsBefore | Marks::None => verification.remove().await,
            };
            Looked::AtMarks(verification, outcome)
        })
    }

    /// Takes the result of a look in, and says what is to be looked at next.
    pub(super) fn take_look(
        &mut self,
        looked: Looked,
        due: &mut Due,
    ) -> Option<impl Future<Output = Looked> + use<>> {
        match looked {
            Looked::AtRules(firewall, wanted, outcome) => {
                if self.take_rules(firewall, wanted, outcome) {
                    due.for_news();
                }
                self.look_at_marks()
            }
            Looked::AtMarks(verification, outcome) => {
                self.take_marks(verification, outcome);
                // The programs may have come meanwhile.
                if self.rules.marks != self.wanted_marks() {
                    due.for_news();
                }
                None
            }
        }
    }

    fn take_marks(&mut self, verification: Verification, outcome: Outcome) {
        let rules = &mut self.rules;
        rules.verification = Some(verification);
        rules.tell(&outcome);
        for error in &outcome.errors {
            if !rules.unverified.contains(error) {
                warn!("{error}");
            }
        }
        rules.unverified = outcome.errors;
    }

    /// Whether the node may be ready now that was not before.
    fn take_rules(&mut self, firewall: Firewall, wanted: Wanted, outcome: Outcome) -> bool {
        let stood = self.do_rules_stand();
        let rules = &mut self.rules;
        rules.firewall = Some(firewall);
        rules.tell(&outcome);
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
