//! The node's firewall rules: masquerading for what leaves the overlay, and leave to forward what belongs to it.
//!
//! A level, not events: [`Firewall::ensure`] looks at what stands and mends what is wrong with it, in one transaction
//! per table, so that packets see the old rules or the new ones and never none. Where nothing changed since the last
//! look, the kernel says so in a few system calls and no process is started.

use std::fmt;
use std::path::Path;

use ipnet::IpNet;

use crate::family::{ByFamily, Family};
use crate::instance::{FIREWALL, Instance};

mod command;
mod fingerprint;
mod generation;
mod iptables;
mod legacy;
mod level;
mod nftables;
mod own_table;
mod remove;
mod rest;
mod rules;
mod seen;
mod tag;
mod verification;

pub use remove::{Also, remove_all};
pub use verification::{Marking, Verification};

use iptables::Iptables;
use level::{Level, Mend};
use nftables::Nftables;
use seen::Seen;
use tag::tag;

/// Whether this kernel has nf_tables, which the kernel may load its module for.
pub(crate) fn has_nftables() -> anyhow::Result<bool> {
    Ok(generation::now()?.is_some())
}

/// Who keeps the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// iptables and ip6tables, in the variant that the host uses.
    Iptables,
    /// A table of our own in nftables: `EnableNFTables` in the network config.
    Nftables,
}

/// The ranges of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The whole overlay's.
    pub network: IpNet,
    /// This node's, inside it.
    pub subnet: IpNet,
}

/// How to masquerade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Whether source ports are chosen at random, which avoids races between connections. Where the tools are too old
    /// for it, they are not.
    pub random_fully: bool,
}

/// What should stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who keeps it. Nothing of ours or of flannel's is left with the other.
    pub mode: Mode,
    /// The families there are rules for.
    pub ranges: ByFamily<Range>,
    /// `--ip-masq`: what leaves the overlay gets this node's address.
    pub masquerade: Option<Masquerade>,
    /// `--iptables-forward-rules`: what belongs to the overlay is let through.
    pub forward: bool,
}

impl Wanted {
    fn nothing() -> Self {
        Self { mode: Mode::Iptables, ranges: ByFamily::default(), masquerade: None, forward: false }
    }

    fn any_rules(&self) -> bool {
        !self.ranges.is_empty() && (self.masquerade.is_some() || self.forward)
    }
}

/// What a call did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was wrong and is not any more, table by table.
    pub changes: Vec<Change>,
    /// Whether the rules had stood as wanted before, and somebody else changed them.
    pub drift: bool,
    /// What could not be done, one sentence each. Further calls try again, less and less often.
    pub errors: Vec<String>,
}

/// A table that was put right. As text: `IPv4 nat (nft): FLANNEL-POSTRTG was missing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which table.
    pub place: String,
    /// What was wrong with it.
    pub reason: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

/// The rules of one overlay in this network namespace.
#[derive(Debug)]
pub struct Firewall {
    /// Tells `cleanup` that these rules are in use.
    _alive: Option<Instance>,
    keepers: Keepers,
    level: Level<Wanted>,
}

impl Firewall {
    /// `overlay` tells two overlays in one network namespace apart, and stays the same when this one's network
    /// changes: the name of its device, or what there is instead. It ends up in names, shortened where needed.
    pub fn new(overlay: &str) -> Self {
        let tag = tag(overlay);
        Self {
            _alive: claim(&tag),
            keepers: Keepers { tag, iptables: Iptables::default(), nftables: Nftables::default() },
            level: Level::default(),
        }
    }

    /// Looks at the rules and mends them. Cheap where nothing changed since the last call; what went wrong then is told
    /// again, and tried again after a pause that grows.
    pub async fn ensure(&mut self, wanted: &Wanted) -> Outcome {
        self.level.ensure(&mut self.keepers, wanted).await
    }
}

/// Both who may keep the rules of the overlay `tag`.
#[derive(Debug)]
struct Keepers {
    tag: String,
    iptables: Iptables,
    nftables: Nftables,
}

impl Mend for Keepers {
    type Wanted = Wanted;

    fn see(&self, wanted: &Wanted, last: Option<&Seen>) -> anyhow::Result<Seen> {
        match wanted.mode {
            Mode::Iptables => Seen::now(|| self.iptables.places(&self.tag), true, last),
            Mode::Nftables => Seen::now(|| nftables::places(&self.tag), false, last),
        }
    }

    async fn mend(&mut self, wanted: &Wanted, known: bool, outcome: &mut Outcome) {
        // First the new rules, then the old.
        match wanted.mode {
            Mode::Iptables => {
                self.iptables.mend(&self.tag, wanted, !known, outcome).await;
                if !known && outcome.errors.is_empty() {
                    self.nftables.retire(&self.tag, outcome).await;
                }
            }
            Mode::Nftables => {
                self.nftables.mend(&self.tag, wanted, outcome).await;
                if !known && outcome.errors.is_empty() {
                    self.iptables.retire(&self.tag, outcome).await;
                }
            }
        }
    }

    fn begin_anew(&mut self) {
        self.iptables.search_again();
    }
}

/// What says that an overlay's rules are in use; `None`: somebody else said so.
fn claim(tag: &str) -> Option<Instance> {
    Instance::claim(&format!("{FIREWALL}{tag}")).ok()
}

/// What to tell the operator where bridged packets don't pass the rules. flannel refuses to start then, which is wrong
/// where there is no bridge, and in containers that can't see the setting.
pub fn bridge_warning(wanted: &Wanted) -> Option<String> {
    if wanted.mode == Mode::Nftables {
        return None;
    }
    let ignored = wanted.ranges.iter().find_map(|(family, _)| {
        let name = match family {
            Family::V4 => "bridge-nf-call-iptables",
            Family::V6 => "bridge-nf-call-ip6tables",
        };
        let value = std::fs::read_to_string(Path::new("/proc/sys/net/bridge").join(name));
        value.map_or(true, |value| value.trim() == "0").then_some(name)
    })?;
    Some(format!(
        "net.bridge.{ignored} is not 1: pods don't reach services that are backed by a pod of their own node; \
         load br_netfilter (modprobe br_netfilter) and set it, or set EnableNFTables in the network config"
    ))
}
