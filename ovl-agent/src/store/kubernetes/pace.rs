//! Waiting longer after every failure in a row, for an API server that thousands of agents ask.

use std::cell::Cell;
use std::time::Duration;

use rand::Rng as _;
use tokio::time::{Instant, sleep_until};

/// As client-go's reflector has it.
const FIRST: Duration = Duration::from_millis(800);
const LAST: Duration = Duration::from_secs(30);

/// When the next question may be asked.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: Cell<u32>,
    not_before: Cell<Option<Instant>>,
}

impl Pace {
    /// Waits until it is time.
    pub(super) async fn keep(&self) {
        if let Some(time) = self.not_before.get() {
            sleep_until(time).await;
        }
    }

    /// The next question is asked at once.
    pub(super) fn succeeded(&self) {
        self.failures.set(0);
        self.not_before.set(None);
    }

    /// The next question waits: 0.4 to 0.8 s, and twice as long each time up to 30 s; not less than the server asked
    /// for. At random, as all agents of a cluster lose the same server at the same moment.
    pub(super) fn failed(&self, at_least: Duration) {
        let failures = self.failures.get();
        let longest = FIRST.saturating_mul(1 << failures.min(10)).min(LAST);
        let pause = rand::rng().random_range(longest / 2..=longest).max(at_least);
        self.failures.set(failures.saturating_add(1));
        self.not_before.set(Some(Instant::now() + pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_cost_more_and_more_time() {
        let pace = Pace::default();
        let waited = async || {
            let started = Instant::now();
            pace.keep().await;
            started.elapsed()
        };
        assert_eq!(waited().await, Duration::ZERO);
        for longest in [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000] {
            pace.failed(Duration::ZERO);
            let (pause, longest) = (waited().await, Duration::from_millis(longest));
            assert!(
                pause >= longest / 2 && pause <= longest + Duration::from_millis(1),
                "{pause:?} {longest:?}"
            );
        }
        pace.failed(Duration::from_mins(1));
        assert!(waited().await >= Duration::from_mins(1), "the server's own wish");
        pace.succeeded();
        assert_eq!(waited().await, Duration::ZERO);
    }
}
