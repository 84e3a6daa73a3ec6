//! The same choice, made again while the agent runs.

use std::time::{Duration, Instant};

use super::choose::choose;
use super::{Choice, Facts};
use crate::node::Underlay;

/// For so long the choice must fall on another interface before the node moves there: default routes and links go
/// away for moments, and moving is news to every peer.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Follows what becomes of the interface.
#[derive(Debug, Default)]
pub struct Follow {
    /// The other interface that would be chosen now, and since when.
    elsewhere: Option<(u32, Instant)>,
}

impl Follow {
    /// What to have instead of `current`; `None` where that stays.
    ///
    /// New addresses, MTU or index of the interface are taken over at once, and so is another interface that now has
    /// the same addresses (a bridge over the old one, a new name). While the interface has its addresses, the node stays
    /// there, whatever would be chosen at a start. Once it hasn't, another interface is taken after 15 seconds. An
    /// interface that is gone, or has no addresses, changes nothing where there is no other: it may come back.
    pub fn step(
        &mut self,
        current: &Underlay,
        choice: &Choice,
        facts: &Facts,
        now: Instant,
    ) -> Option<Underlay> {
        let chosen = choose(choice, facts, Some(current)).map(|chosen| chosen.underlay);
        let next = match chosen {
            Ok(new) if is_the_same(&new, current) => {
                self.elsewhere = None;
                new
            }
            // It is better, perhaps (a VPN brings a default route), but moving takes the node from all its peers.
            Ok(_better) if still_fits(current, facts) => {
                self.elsewhere = None;
                refreshed(current, facts)
            }
            Ok(other) if self.has_waited_for(&other, now) => {
                self.elsewhere = None;
                other
            }
            Ok(_not_yet) => refreshed(current, facts),
            Err(_nothing_fits) => {
                self.elsewhere = None;
                refreshed(current, facts)
            }
        };
        (next != *current).then_some(next)
    }

    /// Whether time alone may change the answer.
    pub fn is_waiting(&self) -> bool {
        self.elsewhere.is_some()
    }

    fn has_waited_for(&mut self, other: &Underlay, now: Instant) -> bool {
        let since = match self.elsewhere {
            Some((ifindex, since)) if ifindex == other.ifindex => since,
            Some(_) | None => now,
        };
        self.elsewhere = Some((other.ifindex, since));
        now.saturating_duration_since(since) >= PATIENCE
    }
}

/// Whether the interface is there with the addresses that it had.
fn still_fits(current: &Underlay, facts: &Facts) -> bool {
    let mut same = facts.interfaces.values().filter(|interface| interface.name == current.name);
    same.next().is_some_and(|interface| {
        current.addresses.iter().all(|(_, address)| {
            facts.addresses.iter().any(|has| has.ifindex == interface.ifindex && has.address() == *address)
        })
    })
}

fn is_the_same(new: &Underlay, current: &Underlay) -> bool {
    new.name == current.name || new.ifindex == current.ifindex || new.addresses == current.addresses
}

/// The same interface with the same addresses, as far as it is there.
fn refreshed(current: &Underlay, facts: &Facts) -> Underlay {
    let mut same =
        facts.interfaces.values().filter(|interface| interface.name == current.name && interface.mtu > 0);
    same.next().map_or_else(
        || current.clone(),
        |interface| Underlay {
            ifindex: interface.ifindex,
            mtu: interface.mtu,
            ethernet: interface.ethernet,
            ..current.clone()
        },
    )
}
