//! Watching etcd: a snapshot at one revision, then every change after it, and all over again when that ends.
//!
//! That a watch ends says nothing about the leases: a member may be restarted, or have forgotten what we missed
//! (compaction). Only where no member can list the leases either, the store is gone.

use std::convert::Infallible;
use std::time::Duration;

use etcd_client::{Event, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::MAX_ANSWER;
use super::endpoints::Endpoints;
use super::failure::{Failure, one_line};
use super::keys::Keys;
use super::list::list;
use crate::store::Update;
use crate::store::backoff::Backoff;

/// A watch that lasted this long was no failure in a row.
const STEADY: Duration = Duration::from_secs(5);
/// So many failures in a row are worth a word, though every one of them was mended.
const TOO_MANY: u32 = 10;

/// Why watching ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// Only a new snapshot can say what is left, and why.
    Relist(String),
    /// There is none to be had.
    Gone(Gone),
}

/// Why there is no snapshot.
struct Gone {
    reason: String,
    /// Whether etcd answers, but not to us.
    is_refusal: bool,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        let is_refusal =
            matches!(failure, Failure::Untrusted(_) | Failure::Denied(_) | Failure::WrongLogin(_));
        Self::Gone(Gone { reason: failure.into_text(), is_refusal })
    }
}

/// Watches until `updates` is closed.
pub(super) async fn run(endpoints: &Endpoints, keys: &Keys, updates: &mpsc::Sender<Update>) {
    let mut watcher = Watcher { endpoints, keys, updates, config_revision: None, has_snapshot: false };
    let (mut backoff, mut in_a_row) = (Backoff::default(), 0);
    // What kind of outage was told of, while there is one.
    let mut told = None;
    loop {
        let started = Instant::now();
        let end = tokio::select! {
            () = updates.closed() => return,
            Err(end) = watcher.round() => end,
        };
        // A round that got as far as a snapshot has ended the outage before.
        if std::mem::take(&mut watcher.has_snapshot) {
            told = None;
            if started.elapsed() > STEADY {
                (backoff, in_a_row) = (Backoff::default(), 0);
            }
        }
        match end {
            End::Closed => return,
            End::Relist(reason) => {
                in_a_row += 1;
                if in_a_row == TOO_MANY {
                    warn!(
                        "watching etcd fails again and again, so all leases are listed each time: {reason}"
                    );
                } else {
                    debug!("listing all leases anew: {reason}");
                }
            }
            End::Gone(gone) if told == Some(gone.is_refusal) => {
                debug!("still cannot watch etcd: {}", gone.reason);
            }
            End::Gone(gone) => {
                told = Some(gone.is_refusal);
                if updates.send(Update::Unavailable(gone.reason)).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            () = updates.closed() => return,
            () = backoff.pause() => {}
        }
    }
}

struct Watcher<'a> {
    endpoints: &'a Endpoints,
    keys: &'a Keys,
    updates: &'a mpsc::Sender<Update>,
    /// When the network config was last changed; kept over an outage, in which it may change too.
    config_revision: Option<i64>,
    /// Whether this round has sent one.
    has_snapshot: bool,
}

impl Watcher<'_> {
    /// Watches until something is wrong.
    async fn round(&mut self) -> Result<Infallible, End> {
        let revision = self.snapshot().await?;
        let mut stream = self.subscribe(revision + 1).await?;
        loop {
            let answer = match stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(self.relist("the watch was closed")),
                Err(error) => return Err(self.relist(&one_line(&error))),
            };
            self.check(&answer)?;
            for event in answer.events() {
                self.take(event).await?;
            }
        }
    }

    /// Reports all leases and returns the revision at which they were so.
    async fn snapshot(&mut self) -> Result<i64, End> {
        let listing = list(self.endpoints, self.keys).await?;
        let config = self.config_at(listing.revision).await?;
        let leases = listing.leases.into_iter().map(|listed| listed.lease).collect();
        self.send(Update::Snapshot { leases, rejected: listing.rejected }).await?;
        self.has_snapshot = true;
        // The first time as well: since the agent read it, it may have changed.
        if self.config_revision.replace(config) != Some(config) {
            self.send(Update::ConfigChanged).await?;
        }
        Ok(listing.revision)
    }

    /// When the network config had last been changed at `revision`; 0 where there was none.
    async fn config_at(&self, revision: i64) -> Result<i64, Failure> {
        let options = GetOptions::new().with_keys_only().with_revision(revision);
        let answer = self
            .endpoints
            .call(|client| {
                let (key, options) = (self.keys.config(), options.clone());
                async move { client.kv_client().get(key, Some(options)).await }
            })
            .await?;
        Ok(answer.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision))
    }

    async fn subscribe(&self, revision: i64) -> Result<WatchStream, End> {
        let subscribed = self
            .endpoints
            .call(|client| {
                let (subnets, config) = (self.keys.subnets(), self.keys.config());
                let mut watch = client.watch_client().max_decoding_message_size(MAX_ANSWER);
                async move {
                    let options = WatchOptions::new().with_start_revision(revision);
                    let mut stream = watch.watch(subnets, Some(options.clone().with_prefix())).await?;
                    stream.watch(config, Some(options)).await?;
                    Ok(stream)
                }
            })
            .await;
        // It answered just now. If it is gone, the next listing says so.
        subscribed.map_err(|failure| End::Relist(failure.into_text()))
    }

    /// That the watch goes on.
    fn check(&self, answer: &WatchResponse) -> Result<(), End> {
        if answer.compact_revision() != 0 {
            return Err(self.relist("what was missed has been compacted away"));
        }
        if answer.canceled() {
            return Err(self.relist(&format!("the watch was cancelled: {}", answer.cancel_reason())));
        }
        Ok(())
    }

    async fn take(&mut self, event: &Event) -> Result<(), End> {
        let Some(pair) = event.kv() else { return Ok(()) };
        let is_put = event.event_type() == EventType::Put;
        if pair.key() == self.keys.config().as_bytes() {
            self.config_revision = Some(if is_put { pair.mod_revision() } else { 0 });
            return self.send(Update::ConfigChanged).await;
        }
        let update = match (is_put, self.keys.parse(pair.key())) {
            (true, _) => {
                self.keys.read(pair).map_or_else(Update::Rejected, |listed| Update::Put(listed.lease))
            }
            (false, Ok(key)) => Update::Delete(key),
            // It was rejected by name before, and only a snapshot can say that it no longer is.
            (false, Err(item)) => return Err(End::Relist(format!("{} is gone", item.item))),
        };
        self.send(update).await
    }

    async fn send(&self, update: Update) -> Result<(), End> {
        self.updates.send(update).await.map_err(|_closed| End::Closed)
    }

    /// Lists again, and watches another member then.
    fn relist(&self, what: &str) -> End {
        End::Relist(self.endpoints.blame(what))
    }
}
