//! Watching etcd: a listing at a revision, then every change from the next one on.

use std::time::Duration;

use etcd_client::{Error, EventType, WatchOptions, WatchStream};
use tokio::sync::mpsc;
use tracing::debug;

use super::EtcdStore;
use super::connection::classify;
use crate::store::{Rejected, Update};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Why a round of watching ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// Changes were missed (compaction): list again, at once.
    Gap,
    /// etcd does not answer; the text says why.
    Broken(String),
}

/// Watches until `updates` is closed.
pub(super) async fn run(store: &EtcdStore, updates: &mpsc::Sender<Update>) {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let mut listed = false;
        let end = tokio::select! {
            () = updates.closed() => End::Closed,
            end = round(store, updates, &mut listed) => end,
        };
        if listed {
            (pause, told) = (FIRST_PAUSE, false);
        }
        match end {
            End::Closed => return,
            End::Gap => {}
            End::Broken(reason) => {
                if !told && updates.send(Update::Unavailable(reason)).await.is_err() {
                    return;
                }
                told = true;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }
}

async fn round(store: &EtcdStore, updates: &mpsc::Sender<Update>, listed: &mut bool) -> End {
    let (leases, rejected, revision) = match store.list_at().await {
        Ok(listing) => listing,
        Err(error) => return End::Broken(error.to_string()),
    };
    let leases = leases.into_iter().map(|listed| listed.lease).collect();
    if updates.send(Update::Snapshot { leases, rejected }).await.is_err() {
        return End::Closed;
    }
    *listed = true;
    let mut changes = match open(store, revision + 1).await {
        Ok(changes) => changes,
        Err(error) => return broken(store, &error),
    };
    loop {
        let response = match changes.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return End::Broken(format!("{} ended the watch", store.connection.endpoint())),
            Err(error) => return broken(store, &error),
        };
        if response.canceled() {
            debug!("etcd cancelled the watch: {}", response.cancel_reason());
            if response.compact_revision() != 0 {
                return End::Gap;
            }
            return End::Broken(format!("{}: {}", store.connection.endpoint(), response.cancel_reason()));
        }
        for event in response.events() {
            let Some(entry) = event.kv() else { continue };
            let update = if entry.key() == store.keys.config().as_bytes() {
                Update::ConfigChanged
            } else if event.event_type() == EventType::Put {
                store.keys.read(entry).map_or_else(Update::Rejected, |listed| Update::Put(listed.lease))
            } else {
                deleted(store, entry.key())
            };
            if updates.send(update).await.is_err() {
                return End::Closed;
            }
        }
    }
}

fn deleted(store: &EtcdStore, key: &[u8]) -> Update {
    let name = String::from_utf8_lossy(key).into_owned();
    match store.keys.lease_key(&name) {
        Ok(key) => Update::Delete(key),
        Err(error) => Update::Rejected(Rejected { key: None, item: name, reason: error.to_string() }),
    }
}

/// Both watches on one stream.
async fn open(store: &EtcdStore, revision: i64) -> Result<WatchStream, Error> {
    let from = WatchOptions::new().with_start_revision(revision);
    let mut client = store.connection.client();
    let mut changes = client.watch(store.keys.subnets(), Some(from.clone().with_prefix())).await?;
    changes.watch(store.keys.config(), Some(from)).await?;
    Ok(changes)
}

fn broken(store: &EtcdStore, error: &Error) -> End {
    End::Broken(format!("{}: {}", store.connection.endpoint(), classify(error)))
}
