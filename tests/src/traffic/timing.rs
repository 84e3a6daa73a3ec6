//! What the generators of our own share: threads on their cores, and how long things took.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Runs before a measurement counts: caches are warm then, and flows where they stay.
pub(super) const WARM_UP: Duration = Duration::from_millis(300);

/// Keeps the calling thread on a core.
pub(super) fn stay_on(core: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(core).with_context(|| format!("there is no core {core}"))?;
    sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("stay on core {core}"))
}

/// How long each of many things took.
#[derive(Debug, Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The mean, in microseconds.
    pub(super) fn mean(&self) -> Option<f64> {
        let count = u32::try_from(self.0.len()).ok().filter(|count| *count > 0)?;
        Some(micros(self.0.iter().sum::<Duration>() / count))
    }

    /// What that many of a hundred did not exceed, in microseconds.
    pub(super) fn percentile(&mut self, percent: usize) -> Option<f64> {
        let index = (self.0.len() * percent / 100).min(self.0.len().checked_sub(1)?);
        Some(micros(*self.0.select_nth_unstable(index).1))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_do_not_depend_on_the_order() {
        let mut times = Times::default();
        assert_eq!((times.mean(), times.percentile(50)), (None, None));
        for micros in (0..100).rev() {
            times.push(Duration::from_micros(micros));
        }
        assert_eq!(
            (times.percentile(50), times.percentile(99), times.percentile(100)),
            (Some(50.0), Some(99.0), Some(99.0))
        );
        assert_eq!(times.mean(), Some(49.5));
    }
}
