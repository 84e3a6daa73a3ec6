//! Waiting longer after every failure in a row.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

/// 100 ms, then twice as long each time up to 5 s, as flannel does.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    pub(super) async fn pause(&mut self) {
        let pause = self.next;
        self.next = (pause * 2).min(LAST);
        tokio::time::sleep(pause).await;
    }
}
