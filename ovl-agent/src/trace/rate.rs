//! How many packets there are of what somebody wants to see, and of how many one can be shown.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use ovl_common::{Program, REASONS, Reason, Stat};

use super::filter::Filter;
use crate::bpf::Abi;

/// Verdicts a second that a person can still make something of.
const LEGIBLE: u32 = 100;
/// The same where most are probably not what is looked for.
const SEARCHED: u32 = 1000;

/// The programs' counters of what fits a filter.
pub(super) struct Rate {
    stats: PerCpuArray<MapData, Abi<Stat>>,
    rows: Vec<u32>,
    budget: u32,
    packets: u64,
    since: Instant,
}

impl Rate {
    /// Starts to count what fits `filter`.
    pub(super) fn start(stats: PerCpuArray<MapData, Abi<Stat>>, filter: &Filter) -> Result<Self> {
        let mut rows = Vec::new();
        for program in Program::ALL.into_iter().filter(|p| filter.programs >> *p as u32 & 1 != 0) {
            let reasons = Reason::ALL.into_iter().filter(|r| filter.reasons >> *r as u32 & 1 != 0);
            rows.extend(reasons.map(|reason| program as u32 * REASONS + reason as u32));
        }
        let budget = if filter.is_the_programs() { LEGIBLE } else { SEARCHED };
        let mut rate = Self { stats, rows, budget, packets: 0, since: Instant::now() };
        rate.packets = rate.count()?;
        Ok(rate)
    }

    /// Of how many packets to show one, going by those since the last time.
    pub(super) fn one_in(&mut self) -> Result<u32> {
        let (packets, now) = (self.count()?, Instant::now());
        let fresh = packets.saturating_sub(self.packets);
        let one_in = one_in(fresh, now.duration_since(self.since), self.budget);
        (self.packets, self.since) = (packets, now);
        Ok(one_in)
    }

    fn count(&self) -> Result<u64> {
        self.rows.iter().try_fold(0u64, |sum, row| {
            let per_cpu = self.stats.get(row, 0).context("cannot read the BPF counters")?;
            Ok(per_cpu.iter().fold(sum, |sum, Abi(stat)| sum.wrapping_add(stat.packets)))
        })
    }
}

/// Of how many packets to show one, so that of `packets` in `time` no more than `budget` a second are.
fn one_in(packets: u64, time: Duration, budget: u32) -> u32 {
    let allowed = (u64::from(budget) * u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).div_ceil(1000);
    u32::try_from(packets.div_ceil(allowed.max(1))).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_all_shown_and_many_are_thinned_out() {
        let half = Duration::from_millis(500);
        for (packets, time, expected) in [
            (0, half, 1),
            (50, half, 1),
            (51, half, 2),
            (500_000, half, 10_000),
            (500_000, 2 * half, 5000),
            (10, Duration::ZERO, 10),
            (u64::MAX, half, u32::MAX),
        ] {
            assert_eq!(one_in(packets, time, LEGIBLE), expected, "{packets} in {time:?}");
        }
    }
}
