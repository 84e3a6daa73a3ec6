//! The terms of our own lease, and the news of everybody's.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::Agent;
use crate::lease::LeaseKey;
use crate::startup::{self, Progress};
use crate::store::{Held, Rejected, Store, StoreError, Update};

/// The result of a renewal or an acquisition.
pub(super) type Term = anyhow::Result<Held>;

/// What to do about our lease.
pub(super) enum NextTerm {
    /// It is ours; whether it was written.
    Held(bool),
    /// The store did not answer; what we have is still good. When to try again.
    Retry(Duration),
    /// It is not ours any more.
    Reacquire,
}

/// What news there is beside the leases of others.
#[derive(Default)]
pub(super) struct News {
    /// The network config may have changed.
    pub(super) config: bool,
    /// Somebody wrote our lease again as it is: it may have become a reservation, or none any more, which the next
    /// renewal tells.
    pub(super) own_lease: bool,
}

/// Whether an update says something of this lease.
fn concerns(update: &Update, key: LeaseKey) -> bool {
    match update {
        Update::Snapshot { .. } => true,
        Update::Put(lease) => lease.key == key,
        Update::Delete(other) => *other == key,
        Update::Rejected(item) => item.key == Some(key),
        Update::ConfigChanged | Update::Unavailable(_) => false,
    }
}

impl Agent {
    /// Takes all the news in that there is.
    pub(super) fn take_all(&mut self, first: Update, rest: &mut mpsc::Receiver<Update>) -> News {
        let mut news = self.take(first);
        while let Ok(update) = rest.try_recv() {
            let more = self.take(update);
            news.config |= more.config;
            news.own_lease |= more.own_lease;
        }
        news
    }

    fn take(&mut self, update: Update) -> News {
        let mut news = News::default();
        self.own_news += u64::from(concerns(&update, self.held.lease.key));
        if !matches!(update, Update::Unavailable(_)) {
            self.tally.store_answered = Some(Instant::now());
            if self.store_error.take().is_some() {
                info!("{} answers again", self.store_name);
                self.tally.store_since = Instant::now();
            }
        }
        match update {
            Update::Snapshot { leases, rejected } => {
                self.view.replace(leases, &rejected);
                for item in &rejected {
                    self.reject(item);
                }
                self.rejected_items = rejected;
            }
            Update::Put(lease) => {
                news.own_lease = lease == self.held.lease;
                self.rejected_items.retain(|item| item.key != Some(lease.key));
                self.view.put(lease);
            }
            Update::Delete(key) => {
                self.rejected_items.retain(|item| item.key != Some(key));
                self.view.delete(key);
            }
            Update::Rejected(item) => {
                self.reject(&item);
                self.rejected_items.retain(|known| known.item != item.item);
                self.rejected_items.push(item);
            }
            Update::ConfigChanged => news.config = true,
            Update::Unavailable(reason) => {
                warn!("{} does not answer, all rows stay as they are: {reason}", self.store_name);
                if self.store_error.replace(reason).is_none() {
                    self.tally.store_outages += 1;
                    self.tally.store_since = Instant::now();
                }
            }
        }
        news
    }

    fn reject(&self, item: &Rejected) {
        if !self.rejected_items.contains(item) {
            warn!("ignoring {}: {}", item.item, item.reason);
        }
    }

    /// Whether the watch says that our lease is not ours any more. It may be news of before our last write, so the store
    /// is asked before anything is done about it.
    pub(super) fn is_lost(&mut self) -> bool {
        self.loss = self.loss_reason();
        self.loss.is_some()
    }

    fn loss_reason(&self) -> Option<String> {
        let key = self.held.lease.key;
        if !self.view.is_complete() {
            return None;
        }
        if let Some(item) = self.rejected_items.iter().find(|item| item.key == Some(key)) {
            return Some(format!(
                "our lease {key} was overwritten with what cannot be read: {}",
                item.reason
            ));
        }
        match self.view.get(key) {
            Some(attrs) if *attrs == self.held.lease.attrs => None,
            Some(attrs) => {
                let holder = attrs.identity().map_or_else(|| "nobody".to_owned(), |ip| ip.to_string());
                Some(format!("our lease {key} was taken over by {holder}"))
            }
            None => Some(format!("our lease {key} vanished from {}", self.store_name)),
        }
    }

    pub(super) fn renew<'a, S: Store>(&mut self, store: &'a S) -> impl Future<Output = Term> + use<'a, S> {
        self.asked_at = self.own_news;
        let held = self.held.clone();
        async move { Ok(store.renew(&held).await?) }
    }

    pub(super) fn reacquire<'a, S: Store>(&self, store: &'a S) -> impl Future<Output = Term> + use<'a, S> {
        let (network, attrs) = (self.network.clone(), self.attrs.clone());
        // What we hold, not what a file says: the file may not have been written yet.
        let previous = *self.held.lease.key.subnets();
        let progress = Progress::new(store.describe());
        async move { startup::lease(store, &network, &attrs, previous, &progress).await }
    }

    /// Whether the lease says something else of this node than is true now: its address has changed.
    pub(super) fn is_misadvertised(&self) -> bool {
        self.attrs.overwritten_by(&self.held.overwritten) != self.held.lease.attrs
    }

    /// Writes what is true now into our lease.
    pub(super) fn readvertise<'a, S: Store>(&self, store: &'a S) -> impl Future<Output = Term> + use<'a, S> {
        let (held, attrs) = (self.held.clone(), self.attrs.clone());
        async move {
            if let Some(identity) = attrs.identity()
                && held.lease.attrs.identity() != Some(identity)
            {
                store.claim_identity(identity).await?;
            }
            Ok(store.advertise(&held, &attrs).await?)
        }
    }

    /// Takes the result of a renewal or an acquisition in.
    pub(super) fn new_term(&mut self, result: Term) -> NextTerm {
        match result {
            Ok(held) => self.hold(held),
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Conflict(_))) => {
                let reason = self.loss.take();
                let reason =
                    reason.unwrap_or_else(|| format!("our lease {} is no longer ours", self.held.lease.key));
                error!("{reason}; taking it again, or another");
                self.tally.lease_losses += 1;
                NextTerm::Reacquire
            }
            Err(error) => {
                let problem = format!("{error:#}");
                if self.term_problem.as_ref() != Some(&problem) {
                    warn!("cannot write or renew the lease {}: {problem}; trying again", self.held.lease.key);
                    self.term_problem = Some(problem);
                }
                let pause = if self.loss.is_some() { super::LOOK_AGAIN } else { super::RENEW_RETRY };
                NextTerm::Retry(pause)
            }
        }
    }

    fn hold(&mut self, held: Held) -> NextTerm {
        self.tally.store_answered = Some(Instant::now());
        self.term_problem = None;
        let (old, new) = (self.node.lease, held.lease.key);
        if old != new {
            error!(
                "this node's lease is now {new}, no longer {old}: pods that have addresses of the old one must be \
                 restarted"
            );
            self.node.lease = new;
        }
        if held.lease.attrs != self.held.lease.attrs {
            info!("the lease {new} now says that this node is at {}", held.lease.attrs.public_ips());
        }
        let is_written = held.revision != self.held.revision;
        if is_written && let Some(reason) = self.loss.take() {
            error!("{reason}; it is ours again");
            self.tally.lease_losses += 1;
        }
        // What was written is news that the watch may bring later. So is that nothing had to be, unless the watch said
        // something of it meanwhile.
        if is_written || self.asked_at == self.own_news {
            // By now the old subnet may be somebody else's.
            if self.view.get(self.held.lease.key) == Some(&self.held.lease.attrs) {
                self.view.delete(self.held.lease.key);
            }
            self.rejected_items.retain(|item| item.key != Some(held.lease.key));
            self.view.put(held.lease.clone());
            self.loss = None;
        }
        self.held = held;
        NextTerm::Held(is_written)
    }
}
