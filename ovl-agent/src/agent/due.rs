//! When the next pass is due, and how it has to look.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::tables::Look;

/// At least this long between two passes, so that a burst of events is one pass.
const SPACING: Duration = Duration::from_millis(20);
/// The same while passes don't come to rest: the kernel may make an event of a change that it half made, and somebody
/// may undo what we do. News from the store are not held up by it.
const SPACING_WHILE_RESTLESS: Duration = Duration::from_secs(1);
/// A pass that lists all tables of a large cluster takes long: at least this many times its length lies between two, where
/// there was nothing to do.
const LISTING_SHARE: u32 = 10;

/// When the next pass is due, and how it has to look.
pub(super) struct Due {
    news: bool,
    hooks: bool,
    events: bool,
    /// The earliest time for what the store's news ask for.
    news_at: Instant,
    /// The earliest time for what the kernel's events ask for.
    events_at: Instant,
}

impl Default for Due {
    fn default() -> Self {
        Self { news: false, hooks: false, events: false, news_at: Instant::now(), events_at: Instant::now() }
    }
}

impl Due {
    pub(super) fn for_news(&mut self) {
        self.news = true;
    }

    /// Of what the kernel makes no event: where programs are attached.
    pub(super) fn for_hooks(&mut self) {
        self.hooks = true;
    }

    pub(super) fn for_events(&mut self) {
        self.events = true;
    }

    /// Waits for the next pass; for ever, where nothing asks for one.
    pub(super) async fn now(&mut self) -> Look {
        let news_at = (self.news || self.hooks).then_some(self.news_at);
        let events_at = self.events.then_some(self.events_at);
        let Some(at) = news_at.into_iter().chain(events_at).min() else {
            return std::future::pending().await;
        };
        sleep_until(at).await;
        // The first pass has nothing to trust; a listing that is due serves the news, too.
        let look = if self.events && self.events_at <= Instant::now() {
            self.events = false;
            Look::Anew
        } else if self.news {
            Look::Trust
        } else {
            Look::Hooks
        };
        self.news = false;
        self.hooks &= look == Look::Trust;
        look
    }

    /// Notes a pass, after which the next has to wait. Only a listing puts the next listing off: news may come all the
    /// time.
    pub(super) fn passed(&mut self, look: Look, started: Instant, pause: Pause) {
        let now = Instant::now();
        self.news_at = now + SPACING;
        if look != Look::Anew {
            return;
        }
        let pause = match pause {
            Pause::Short => SPACING,
            Pause::Restless => SPACING_WHILE_RESTLESS,
            Pause::Share => SPACING.max((now - started) * LISTING_SHARE),
        };
        self.events_at = now + pause;
    }
}

/// How long to wait after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// It did what was asked for.
    Short,
    /// It listed everything, and found nothing to do.
    Share,
    /// Passes don't come to rest.
    Restless,
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(due: &mut Due) -> (Look, Duration) {
        let before = Instant::now();
        let look = due.now().await;
        (look, Instant::now() - before)
    }

    #[tokio::test(start_paused = true)]
    async fn news_trust_what_is_known_and_events_ask_for_a_listing() {
        let mut due = Due::default();
        due.for_news();
        assert_eq!(due.now().await, Look::Trust);
        due.for_events();
        assert_eq!(due.now().await, Look::Anew);
        due.for_news();
        due.for_events();
        assert_eq!(due.now().await, Look::Anew, "which serves the news, too");
        due.for_hooks();
        due.for_news();
        assert_eq!(due.now().await, Look::Trust);
        assert_eq!(due.now().await, Look::Hooks, "after the news");
        due.for_news();
        due.passed(Look::Trust, Instant::now(), Pause::Short);
        assert_eq!(next(&mut due).await, (Look::Trust, SPACING));
    }

    #[tokio::test(start_paused = true)]
    async fn news_do_not_wait_for_a_listing_and_do_not_put_it_off() {
        for (pause, wait) in
            [(Pause::Restless, SPACING_WHILE_RESTLESS), (Pause::Share, Duration::from_secs(4))]
        {
            let mut due = Due::default();
            let started = Instant::now();
            tokio::time::sleep(Duration::from_millis(400)).await;
            due.passed(Look::Anew, started, pause);
            due.for_events();
            let listed = Instant::now();
            loop {
                due.for_news();
                let look = due.now().await;
                if look == Look::Anew {
                    break;
                }
                due.passed(look, Instant::now(), pause);
            }
            let waited = Instant::now() - listed;
            assert!(waited >= wait && waited <= wait + SPACING, "{pause:?}: {waited:?}");
        }
    }
}
