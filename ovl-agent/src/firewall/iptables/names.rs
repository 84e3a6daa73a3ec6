//! Our chains: what they are called, and what belongs into them.
//!
//! They have flannel's names, which tools and people know. Two overlays in one network namespace can't both: an agent
//! that finds another one alive under them adds its overlay's tag; so it does beside a flanneld, which shares its chains
//! with those of other networks and would lose its rules to us. It stays with that while its tagged chains stand, so that
//! a restart of both in the other order leaves neither without rules.

use std::path::Path;

use super::plan::Part;
use super::save::Table;
use crate::firewall::rules::{self, Rule};
use crate::firewall::{Range, Wanted};
use crate::instance::{Instance, flannelds};

/// Whose name a chain has.
#[derive(Debug)]
pub(super) enum Names {
    /// flannel's.
    Flannels {
        /// Says so to other agents.
        _claim: Instance,
    },
    /// flannel's with the overlay's tag.
    Tagged,
}

/// Claims flannel's names, unless an agent that is alive uses them.
pub(super) fn claim_flannels() -> Option<Instance> {
    Instance::claim("the chains FLANNEL-POSTRTG and FLANNEL-FWD").ok()
}

impl Names {
    /// Decides, given the tables that stand.
    pub(super) fn decide<'a>(tag: &str, mut tables: impl Iterator<Item = &'a Table<'a>>) -> Self {
        let tagged = absent(Some(tag)).map(|part| part.chain);
        if tables.any(|table| tagged.iter().any(|chain| table.chain(chain).is_some())) {
            return Self::Tagged;
        }
        // Where the processes can't be seen there may be one, but most likely there is none.
        if flannelds(Path::new("/proc")).is_ok_and(|running| !running.is_empty()) {
            return Self::Tagged;
        }
        claim_flannels().map_or(Self::Tagged, |claim| Self::Flannels { _claim: claim })
    }

    /// The tag in the names, where it is needed.
    pub(super) fn tag<'a>(&self, tag: &'a str) -> Option<&'a str> {
        match self {
            Self::Flannels { .. } => None,
            Self::Tagged => Some(tag),
        }
    }
}

/// The tag in the name of a chain that has one.
pub(super) fn tag_of(chain: &str) -> Option<&str> {
    chain.strip_prefix("FLANNEL-POSTRTG-").or_else(|| chain.strip_prefix("FLANNEL-FWD-"))
}

/// What `wanted` asks of a family.
pub(super) fn parts(
    tag: Option<&str>,
    wanted: &Wanted,
    range: Option<&Range>,
    random_fully: bool,
) -> [Part; 2] {
    let masquerade = range.filter(|_| wanted.masquerade.is_some()).map(rules::masquerade).unwrap_or_default();
    let forward = range.filter(|_| wanted.forward).map(rules::forward).unwrap_or_default();
    let random_fully = random_fully && wanted.masquerade.is_some_and(|masquerade| masquerade.random_fully);
    [
        part(["nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq"], tag, &masquerade, random_fully),
        part(["filter", "FORWARD", "FLANNEL-FWD", "flanneld forward"], tag, &forward, random_fully),
    ]
}

/// Nothing.
pub(super) fn absent(tag: Option<&str>) -> [Part; 2] {
    parts(tag, &Wanted::nothing(), None, false)
}

fn part(names: [&'static str; 4], tag: Option<&str>, rules: &[Rule], random_fully: bool) -> Part {
    let [table, hook, chain, comment] = names;
    Part {
        table,
        hook,
        chain: tag.map_or_else(|| chain.to_owned(), |tag| format!("{chain}-{tag}")),
        comment,
        rules: rules.iter().map(|rule| rule.iptables(comment, random_fully)).collect(),
        flannels: tag.is_none(),
    }
}
