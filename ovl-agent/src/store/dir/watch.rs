//! Watching a directory: every event means a new listing.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{Event, EventMask, EventStream, Inotify, WatchMask};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use super::{DirStore, read};
use crate::lease::Lease;
use crate::store::backoff::Backoff;
use crate::store::{Rejected, Store as _, StoreError, Update};

/// A listing when nothing happened: expiry makes no event.
const RELIST: Duration = Duration::from_mins(1);
/// How long to wait for the rest of a burst of events.
const SETTLE: Duration = Duration::from_millis(10);

type Events = EventStream<[u8; 4096]>;

/// Why watching ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// The directory cannot be watched or read; the text says why.
    Broken(String),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The network config, as far as this watch knows it.
#[derive(PartialEq, Eq)]
enum Config {
    Unknown,
    Read(Option<String>),
}

/// Watches until `updates` is closed.
pub(super) async fn run(store: &DirStore, updates: &mpsc::Sender<Update>) {
    let mut watcher = Watcher { store, updates, config: Config::Unknown, last: None };
    let mut backoff = Backoff::default();
    let mut is_outage = false;
    loop {
        let Err(end) = watcher.round().await;
        let End::Broken(reason) = end else { return };
        // A round that got as far as a snapshot has ended the outage before.
        if watcher.last.take().is_some() {
            (backoff, is_outage) = (Backoff::default(), false);
        }
        if is_outage {
            debug!("still cannot watch {}: {reason}", store.path.display());
        } else if updates.send(Update::Unavailable(reason)).await.is_err() {
            return;
        }
        is_outage = true;
        tokio::select! {
            () = updates.closed() => return,
            () = backoff.pause() => {}
        }
    }
}

struct Watcher<'a> {
    store: &'a DirStore,
    updates: &'a mpsc::Sender<Update>,
    /// The network config as it was last read; kept over an outage, in which it may change too.
    config: Config,
    /// The last snapshot of this round.
    last: Option<(Vec<Lease>, Vec<Rejected>)>,
}

impl Watcher<'_> {
    /// Watches until something is wrong.
    async fn round(&mut self) -> Result<Infallible, End> {
        // Before the first listing: what changes in between is an event.
        let mut events = self.subscribe().map_err(|error| self.broken(&error))?;
        loop {
            self.look().await?;
            let relist_at = Instant::now() + RELIST;
            while !self.is_due(&mut events, relist_at).await? {}
        }
    }

    fn subscribe(&self) -> io::Result<Events> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        inotify.watches().add(&self.store.path, mask)?;
        inotify.watches().add(self.store.subnets(), mask)?;
        inotify.into_event_stream([0; 4096])
    }

    /// Reports what is new.
    async fn look(&mut self) -> Result<(), End> {
        let (leases, rejected) = read::all(&self.store.subnets())?;
        let now = (leases.into_iter().map(|listed| listed.lease).collect::<Vec<_>>(), rejected);
        if self.last.as_ref() != Some(&now) {
            let (leases, rejected) = now.clone();
            self.last = Some(now);
            self.send(Update::Snapshot { leases, rejected }).await?;
        }
        let config = Config::Read(self.store.network_config().await?);
        // The first time as well: since the agent read it, it may have changed.
        if config != self.config {
            self.config = config;
            self.send(Update::ConfigChanged).await?;
        }
        Ok(())
    }

    async fn send(&self, update: Update) -> Result<(), End> {
        self.updates.send(update).await.map_err(|_closed| End::Closed)
    }

    /// Waits for the next burst of events and returns whether it is worth a listing.
    async fn is_due(&self, events: &mut Events, relist_at: Instant) -> Result<bool, End> {
        let first = tokio::select! {
            () = self.updates.closed() => return Err(End::Closed),
            () = sleep_until(relist_at) => return Ok(true),
            event = events.next() => event,
        };
        let mut is_due = self.matters(first)?;
        let deadline = Instant::now() + SETTLE;
        while let Ok(event) = timeout_at(deadline, events.next()).await {
            is_due |= self.matters(event)?;
        }
        Ok(is_due)
    }

    /// Whether an event is about a lease or the config, and not about a lock or a half-written file.
    fn matters<N: AsRef<OsStr>>(&self, event: Option<io::Result<Event<N>>>) -> Result<bool, End> {
        let path = self.store.path.display();
        let event = match event {
            None => return Err(End::Broken(format!("{path} is no longer watched"))),
            Some(Err(error)) => return Err(self.broken(&error)),
            Some(Ok(event)) => event,
        };
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return Err(End::Broken(format!("{path} changes faster than it can be watched")));
        }
        if event.mask.intersects(OVER) {
            return Err(End::Broken(format!("{path} was moved, removed or unmounted")));
        }
        Ok(!event.name.is_some_and(|name| name.as_ref().as_encoded_bytes().starts_with(b".")))
    }

    fn broken(&self, error: &io::Error) -> End {
        End::Broken(format!("cannot watch {}: {error}", self.store.path.display()))
    }
}

/// What ends a watch.
const OVER: EventMask =
    EventMask::DELETE_SELF.union(EventMask::MOVE_SELF).union(EventMask::IGNORED).union(EventMask::UNMOUNT);
