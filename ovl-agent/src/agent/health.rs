//! Whether packets can travel, as the store tells the rest of the cluster.

use std::time::{Duration, Instant};

use tracing::warn;

use super::errand::Errand;
use crate::startup::RETRY;
use crate::store::{DataPlane, Store, StoreError};

/// What is broken for a shorter time is being repaired.
const BROKEN_FOR: Duration = Duration::from_secs(10);

/// What the passes found.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Whether the last pass found this node's own rows in place; `None` before the first.
    stands: Option<bool>,
    /// Since when they are not, and why.
    broken: Option<(Instant, String)>,
    /// What was last told, or is just being told: whether packets can travel.
    told: Option<bool>,
}

impl Health {
    /// Takes in what a pass found: what keeps this node's own rows from standing, if anything.
    pub(super) fn note(&mut self, problem: Option<&str>) {
        self.stands = Some(problem.is_none());
        match (problem, &mut self.broken) {
            (None, broken) => *broken = None,
            (Some(problem), Some((_, why))) => problem.clone_into(why),
            (Some(problem), broken) => *broken = Some((Instant::now(), problem.to_owned())),
        }
    }

    /// What others should be told, once.
    fn news(&mut self) -> Option<DataPlane> {
        let news = match &self.broken {
            Some((since, why)) if since.elapsed() >= BROKEN_FOR => DataPlane::Broken(why.clone()),
            None if self.stands == Some(true) => DataPlane::Works,
            None | Some(_) => return None,
        };
        let works = news == DataPlane::Works;
        (self.told.replace(works) != Some(works)).then_some(news)
    }

    /// Begins to tell others what they should be told.
    pub(super) fn report<'a, S: Store>(&mut self, store: &'a S, errand: &mut Errand<'a, ()>) {
        if let Some(news) = self.news() {
            errand.begin(tell(store, news));
        }
    }
}

/// Tells it, as soon as the store answers.
async fn tell<S: Store>(store: &S, news: DataPlane) {
    if let DataPlane::Broken(why) = &news {
        warn!("this node's network is broken, which the store is told: {why}");
    }
    let mut told = String::new();
    loop {
        match store.report(&news).await {
            Ok(()) => return,
            Err(StoreError::Unavailable(reason)) => {
                if told != reason {
                    warn!("the store cannot be told yet whether this node's network works: {reason}");
                    told = reason;
                }
                tokio::time::sleep(RETRY).await;
            }
            // What is refused for good is told again when it changes.
            Err(error) => {
                warn!("the store was not told whether this node's network works: {error}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_a_short_trouble_not_at_all() {
        let mut health = Health::default();
        assert_eq!(health.news(), None, "nothing is known");
        health.note(None);
        assert_eq!((health.news(), health.news()), (Some(DataPlane::Works), None));
        health.note(Some("no device"));
        assert_eq!(health.news(), None, "it may be repaired by the next pass");
        health.note(None);
        assert_eq!(health.news(), None);
        health.note(Some("no device"));
        let long_ago = Instant::now().checked_sub(BROKEN_FOR).expect("a machine that runs for longer");
        health.broken = Some((long_ago, "no device".into()));
        health.note(Some("no address"));
        assert_eq!(health.news(), Some(DataPlane::Broken("no address".into())));
        assert_eq!(health.news(), None);
        health.note(None);
        assert_eq!(health.news(), Some(DataPlane::Works));
    }
}
