//! What the agent counts about itself.

use std::time::{Duration, Instant};

use crate::facts::PassFacts;

/// Counts since the start.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) started: Instant,
    /// Since when the store is as it is: answering or not.
    pub(super) store_since: Instant,
    pub(super) store_answered: Option<Instant>,
    pub(super) store_outages: u64,
    pub(super) lease_losses: u64,
    passes: u64,
    failed: u64,
    total: Duration,
    last: Duration,
}

impl Tally {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            store_since: now,
            store_answered: Some(now),
            store_outages: 0,
            lease_losses: 0,
            passes: 0,
            failed: 0,
            total: Duration::ZERO,
            last: Duration::ZERO,
        }
    }

    /// Counts a pass.
    pub(super) fn passed(&mut self, took: Duration, failed: bool) {
        self.passes += 1;
        self.failed += u64::from(failed);
        self.total += took;
        self.last = took;
    }

    pub(super) fn passes(&self) -> PassFacts {
        PassFacts {
            total: self.passes,
            failed: self.failed,
            seconds: self.total.as_secs_f64(),
            last_seconds: self.last.as_secs_f64(),
        }
    }
}
