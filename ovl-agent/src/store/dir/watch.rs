//! Watching a directory: every event means a new listing.

use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventMask, Inotify, WatchMask};
use tokio::sync::mpsc;

use super::{DirStore, Listing};
use crate::lease::Lease;
use crate::store::{Rejected, Store as _, StoreError, Update};

/// A listing when nothing happened: expiry makes no event.
const RELIST: Duration = Duration::from_secs(60);
/// How long to wait for the rest of a burst of events.
const SETTLE: Duration = Duration::from_millis(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// What a snapshot says.
type Contents = (Vec<Lease>, Vec<Rejected>);

/// Why a round of watching ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// The directory cannot be watched or read; the text says why.
    Broken(String),
}

/// Watches until `updates` is closed.
pub(super) async fn run(store: &DirStore, updates: &mpsc::Sender<Update>) {
    let mut pause = FIRST_PAUSE;
    let mut told = None;
    loop {
        let mut sent_one = false;
        match round(store, updates, &mut sent_one).await {
            End::Closed => return,
            End::Broken(reason) => {
                if sent_one {
                    (pause, told) = (FIRST_PAUSE, None);
                }
                if told.as_ref() != Some(&reason) {
                    told = Some(reason.clone());
                    if updates.send(Update::Unavailable(reason)).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }
}

async fn round(store: &DirStore, updates: &mpsc::Sender<Update>, sent_one: &mut bool) -> End {
    let broken =
        |error: std::io::Error| End::Broken(format!("cannot watch {}: {error}", store.path.display()));
    let inotify = match Inotify::init() {
        Ok(inotify) => inotify,
        Err(error) => return broken(error),
    };
    let changes = WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    // Before the first listing: what changes in between is an event.
    for folder in [store.path.clone(), store.subnets()] {
        if let Err(error) = inotify.watches().add(&folder, changes) {
            return broken(error);
        }
    }
    let mut events = match inotify.into_event_stream([0; 4096]) {
        Ok(events) => events,
        Err(error) => return broken(error),
    };
    let mut last = None;
    let mut config = match store.network_config().await {
        Ok(config) => config,
        Err(error) => return End::Broken(error.to_string()),
    };
    loop {
        match snapshot(store, &mut last) {
            Ok(Some(update)) => {
                if updates.send(update).await.is_err() {
                    return End::Closed;
                }
                *sent_one = true;
            }
            Ok(None) => {}
            Err(error) => return End::Broken(error.to_string()),
        }
        tokio::select! {
            () = updates.closed() => return End::Closed,
            () = tokio::time::sleep(RELIST) => {}
            event = events.next() => {
                let mut event = event;
                loop {
                    match event {
                        None => return End::Broken(format!("{} is no longer watched", store.path.display())),
                        Some(Err(error)) => return broken(error),
                        Some(Ok(event)) if is_over(event.mask) => {
                            return End::Broken(format!("{} was moved, removed or unmounted", store.path.display()));
                        }
                        Some(Ok(_)) => {}
                    }
                    match tokio::time::timeout(SETTLE, events.next()).await {
                        Ok(next) => event = next,
                        Err(_settled) => break,
                    }
                }
            }
        }
        match store.network_config().await {
            Ok(now) if now == config => {}
            Ok(now) => {
                config = now;
                if updates.send(Update::ConfigChanged).await.is_err() {
                    return End::Closed;
                }
            }
            Err(error) => return End::Broken(error.to_string()),
        }
    }
}

/// Whether the watch says nothing any more, or has left something out.
fn is_over(mask: EventMask) -> bool {
    mask.intersects(
        EventMask::DELETE_SELF
            | EventMask::MOVE_SELF
            | EventMask::IGNORED
            | EventMask::UNMOUNT
            | EventMask::Q_OVERFLOW,
    )
}

/// A new listing, where it differs from the last one.
fn snapshot(store: &DirStore, last: &mut Option<Contents>) -> Result<Option<Update>, StoreError> {
    let Listing { leases, rejected } = store.read_all()?;
    let leases: Vec<Lease> = leases.into_iter().map(|listed| listed.lease).collect();
    let now = Some((leases.clone(), rejected.clone()));
    if *last == now {
        return Ok(None);
    }
    *last = now;
    Ok(Some(Update::Snapshot { leases, rejected }))
}
