//! What the kernel says of its rules without a process started.

use anyhow::Result;

use super::fingerprint::{self, Place};
use super::{generation, legacy};
use crate::family::{ByFamily, Family};

/// What was seen at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    generation: Option<u32>,
    nftables: Option<u64>,
    legacy: ByFamily<u64>,
}

impl Seen {
    /// Asks the kernel for what stands in `places` of nftables, unless nothing at all changed there since `last`, and
    /// in the tables of legacy iptables where they matter.
    pub(super) fn now(
        places: impl FnOnce() -> Vec<Place>,
        with_legacy: bool,
        last: Option<&Self>,
    ) -> Result<Self> {
        // First the generation: what changes after it is seen the next time.
        let generation = generation::now()?;
        let nftables = match (generation, last) {
            (Some(_), Some(last)) if generation == last.generation => last.nftables,
            (Some(_), _) => fingerprint::of(&places())?,
            (None, _) => None,
        };
        let mut legacy = ByFamily::default();
        if with_legacy {
            for family in Family::ALL {
                legacy.set(family, Some(legacy::fingerprint(family)?));
            }
        }
        Ok(Self { generation, nftables, legacy })
    }

    /// Whether nothing that concerns us changed in between.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.nftables == other.nftables && self.legacy == other.legacy
    }
}
