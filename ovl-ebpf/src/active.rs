//! Whether the programs may act at all.

use ovl_common::{ABI, Config, FastPath, Reason};

use crate::tables::Tables;

/// A node whose agent is alive and wants the fast path.
#[derive(Clone, Copy, Debug)]
pub struct Active<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub now: u64,
}

/// The node's configuration, where the agent wrote it, is alive and wants the fast path.
#[inline(always)]
pub fn active<T: Tables>(tables: &T) -> Result<Active<'_>, Reason> {
    Active::of(tables, configured(tables)?)
}

/// The node's configuration, where an agent like these programs wrote it.
#[inline(always)]
pub fn configured<T: Tables>(tables: &T) -> Result<&Config, Reason> {
    let config = tables.config().ok_or(Reason::NoConfig)?;
    if config.abi == ABI { Ok(config) } else { Err(Reason::NoConfig) }
}

impl<'a> Active<'a> {
    /// Whether `config` is that of an agent that is alive and wants the fast path.
    #[inline(always)]
    pub fn of<T: Tables>(tables: &T, config: &'a Config) -> Result<Self, Reason> {
        if config.fast_path == FastPath::Off as u32 {
            return Err(Reason::FastPathOff);
        }
        let now = tables.now();
        if now > config.deadline {
            return Err(Reason::Expired);
        }
        Ok(Self { config, now })
    }
}
