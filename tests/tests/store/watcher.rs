//! A consumer of a watch, which keeps account of all it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ovl_agent::lease::LeaseKey;
use ovl_agent::store::{Rejected, Store, Update};
use tokio::sync::mpsc;

use crate::fixture::soon;

/// What a watch has said.
#[derive(Debug)]
pub(crate) struct Watcher {
    updates: mpsc::Receiver<Update>,
    /// The leases that exist now, by key, with the holder's address.
    pub(crate) leases: BTreeMap<String, String>,
    /// Last parts of the names of what was rejected since the last snapshot.
    pub(crate) rejected: BTreeSet<String>,
    /// What was there and is not any more, ever.
    pub(crate) removed: Vec<String>,
    pub(crate) snapshots: u32,
    pub(crate) config_changes: u32,
    /// The reasons given.
    pub(crate) outages: Vec<String>,
}

/// Runs `script` beside a watch.
pub(crate) async fn watching<S: Store>(store: &S, script: impl AsyncFnOnce(&mut Watcher)) {
    let (send, updates) = mpsc::channel(16);
    let mut watcher = Watcher {
        updates,
        leases: BTreeMap::new(),
        rejected: BTreeSet::new(),
        removed: Vec::new(),
        snapshots: 0,
        config_changes: 0,
        outages: Vec::new(),
    };
    tokio::select! {
        () = store.watch(send) => panic!("the watch ended"),
        () = script(&mut watcher) => {}
    }
}

impl Watcher {
    /// Takes updates in until `condition`.
    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        soon(what, async {
            while !condition(self) {
                let update = self.updates.recv().await.unwrap();
                self.take(update);
            }
        })
        .await;
    }

    /// That nothing is said while the store is asked several times.
    pub(crate) async fn stays_quiet(&mut self) {
        let several_tries = Duration::from_millis(500);
        if let Ok(update) = tokio::time::timeout(several_tries, self.updates.recv()).await {
            panic!("not quiet: {update:?}");
        }
    }

    /// Waits for the first snapshot, which must be the first update, and for what must come with it: that the config
    /// is to be read again. That is not counted.
    pub(crate) async fn first(&mut self) {
        let update = soon("the first update", self.updates.recv()).await.unwrap();
        assert!(matches!(update, Update::Snapshot { .. }), "{update:?}");
        self.take(update);
        let update = soon("the second update", self.updates.recv()).await.unwrap();
        assert!(matches!(update, Update::ConfigChanged), "{update:?}");
    }

    /// The keys that exist now.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.leases.keys().map(String::as_str).collect()
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Snapshot { leases, rejected } => {
                self.snapshots += 1;
                let now: BTreeMap<_, _> = leases
                    .iter()
                    .map(|lease| (lease.key.to_string(), lease.attrs.public_ip.to_string()))
                    .collect();
                self.rejected = rejected.iter().map(last_part).collect();
                let kept: BTreeSet<LeaseKey> = rejected.iter().filter_map(|item| item.key).collect();
                let gone = self.leases.keys().filter(|key| {
                    !now.contains_key(*key) && !kept.contains(&key.parse::<LeaseKey>().unwrap())
                });
                self.removed.extend(gone.cloned());
                self.leases = now;
            }
            Update::Put(lease) => {
                self.leases.insert(lease.key.to_string(), lease.attrs.public_ip.to_string());
            }
            Update::Delete(key) => {
                self.leases.remove(&key.to_string());
                self.removed.push(key.to_string());
            }
            Update::Rejected(item) => {
                self.rejected.insert(last_part(&item));
            }
            Update::ConfigChanged => self.config_changes += 1,
            Update::Unavailable(reason) => self.outages.push(reason),
        }
    }
}

fn last_part(item: &Rejected) -> String {
    item.item.rsplit('/').next().unwrap_or_default().to_owned()
}
