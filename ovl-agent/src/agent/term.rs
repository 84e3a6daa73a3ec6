//! The terms of our own lease, and the news of everybody's.

use std::future::Future;
use std::pin::Pin;

use tracing::{error, info, warn};

use super::Agent;
use crate::network::Network;
use crate::startup;
use crate::store::{Held, Rejected, Store, StoreError, Update};

/// A renewal or an acquisition under way. It may take as long as the store's time-outs, and longer while the store
/// is gone; the loop goes on meanwhile.
pub(super) type TermFuture<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Held>> + 'a>>;

/// What to do about our lease.
pub(super) enum NextTerm {
    /// It is ours.
    Held,
    /// The store did not answer; what we have is still good.
    Retry,
    /// It is not ours any more.
    Reacquire,
}

/// The result of what is under way; never, where nothing is.
pub(super) async fn settled(term: &mut Option<TermFuture<'_>>) -> anyhow::Result<Held> {
    match term {
        Some(term) => term.await,
        None => std::future::pending().await,
    }
}

impl Agent {
    /// Takes news of the leases in.
    pub(super) fn take(&mut self, update: Update) {
        if !matches!(update, Update::Unavailable(_)) && self.store_error.take().is_some() {
            info!("{} answers again", self.store_name);
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
            Update::ConfigChanged => {
                info!("the network config was written; a change takes effect at the next start");
            }
            Update::Unavailable(reason) => {
                warn!("{} does not answer, all rows stay as they are: {reason}", self.store_name);
                self.store_error = Some(reason);
            }
        }
    }

    fn reject(&self, item: &Rejected) {
        if !self.rejected_items.contains(item) {
            warn!("ignoring {}: {}", item.item, item.reason);
        }
    }

    /// Why our lease has to be taken again, where the store says that we don't hold it.
    pub(super) fn lost(&self) -> Option<String> {
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
            Some(attrs) if *attrs == self.attrs => None,
            Some(attrs) => Some(format!("our lease {key} was taken over by {}", attrs.public_ip)),
            None => Some(format!("our lease {key} vanished from {}", self.store_name)),
        }
    }

    pub(super) fn renew<'a, S: Store>(&self, store: &'a S) -> TermFuture<'a> {
        let held = self.held.clone();
        Box::pin(async move { Ok(store.renew(&held).await?) })
    }

    pub(super) fn reacquire<'a, S: Store>(&self, store: &'a S) -> TermFuture<'a> {
        let network: Network = self.network.clone();
        let attrs = self.attrs.clone();
        let subnet_file = self.args.subnet_file.clone();
        Box::pin(async move { startup::lease(store, &network, &attrs, &subnet_file).await })
    }

    /// Takes the result of a renewal or an acquisition in.
    pub(super) fn new_term(&mut self, result: anyhow::Result<Held>) -> NextTerm {
        match result {
            Ok(held) => {
                let (old, new) = (self.node.subnet, held.lease.key.ipv4);
                if old != new {
                    error!(
                        "this node's subnet is now {new}, no longer {old}: pods that have addresses of {old} must be restarted"
                    );
                    self.node.subnet = new;
                }
                // What was written is news that the watch may bring later. A renewal that wrote nothing is none, and must
                // not hide what the watch brought meanwhile.
                if held.revision != self.held.revision {
                    // By now the old subnet may be somebody else's.
                    if self.view.get(self.held.lease.key) == Some(&self.attrs) {
                        self.view.delete(self.held.lease.key);
                    }
                    self.rejected_items.retain(|item| item.key != Some(held.lease.key));
                    self.view.put(held.lease.clone());
                }
                self.held = held;
                NextTerm::Held
            }
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Conflict(_))) => {
                error!("our lease {} is no longer ours: {error:#}; taking another", self.held.lease.key);
                NextTerm::Reacquire
            }
            Err(error) => {
                warn!("cannot renew the lease: {error:#}; trying again in a minute");
                NextTerm::Retry
            }
        }
    }
}
