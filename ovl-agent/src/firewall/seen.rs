//! What the kernel says of its rules without being asked for them.

use anyhow::Result;

use super::{Mode, generation, legacy};
use crate::family::{ByFamily, Family};

/// Equal to another when no rule changed in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    generation: Option<u32>,
    legacy: ByFamily<u64>,
}

impl Seen {
    /// Asks the kernel. In nftables mode the tables of legacy iptables don't matter.
    pub(super) fn now(mode: Mode) -> Result<Self> {
        let mut legacy = ByFamily::default();
        if mode == Mode::Iptables {
            for family in Family::ALL {
                legacy.set(family, Some(legacy::fingerprint(family)?));
            }
        }
        Ok(Self { generation: generation::now()?, legacy })
    }
}
