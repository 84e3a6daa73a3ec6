//! etcd as the store: flannel's keys, values and etcd leases (FLANNEL.md section 3), without its habits of writing
//! over other nodes' leases, of turning reservations into leases and of leaving orphans.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use tokio::sync::mpsc;

use self::endpoints::{Endpoints, Failure};
use self::identity::Identity;
use self::keys::Keys;
use super::{Held, LEASE_TTL, Listed, Rejected, Store, StoreError, Update};
use crate::lease::{Lease, LeaseAttrs, LeaseKey};

mod endpoints;
mod holder;
mod identity;
mod keys;
mod term;
mod watch;

/// A large cluster's leases come in one answer, which outgrows gRPC's 4 MiB at some ten thousand nodes.
const MAX_ANSWER: usize = 64 << 20;

/// The store.
pub struct EtcdStore {
    endpoints: Arc<Endpoints>,
    keys: Keys,
    identity: RefCell<Option<Identity>>,
}

impl EtcdStore {
    /// Prepares to use the etcd cluster at `endpoints`; `prefix` is flannel's `--etcd-prefix`. Does not wait for etcd
    /// to answer: the first request does.
    pub async fn connect(endpoints: &[String], prefix: &str) -> Result<Self, StoreError> {
        let endpoints = Arc::new(Endpoints::new(endpoints).await?);
        Ok(Self { endpoints, keys: Keys::new(prefix), identity: RefCell::default() })
    }

    /// Writes `attrs` as a lease of `term`, where `unchanged` says that nobody else has.
    async fn write(
        &self,
        key: LeaseKey,
        attrs: &LeaseAttrs,
        term: i64,
        unchanged: Compare,
    ) -> Result<Held, StoreError> {
        let name = self.keys.lease(key);
        let text = serde_json::to_vec(attrs).map_err(|error| StoreError::Refused(error.to_string()))?;
        let put = TxnOp::put(name.as_str(), text, Some(PutOptions::new().with_lease(term)));
        // Before the request, so that we never think that it is ours for longer than etcd does.
        let expires = SystemTime::now().checked_add(LEASE_TTL).filter(|_| term != 0);
        let revision = transact(&self.endpoints, unchanged, put).await?.ok_or(StoreError::Conflict(name))?;
        let lease = Lease { key, attrs: attrs.clone() };
        Ok(Held { lease, expires, revision, term })
    }

    /// As [`Self::write`], in a term of its own.
    async fn write_in_new_term(
        &self,
        key: LeaseKey,
        attrs: &LeaseAttrs,
        unchanged: Compare,
    ) -> Result<Held, StoreError> {
        let term = term::grant(&self.endpoints, LEASE_TTL.as_secs().cast_signed()).await?;
        let written = self.write(key, attrs, term, unchanged).await;
        if written.is_err() {
            // Not a plain revocation: where only the answer was lost, our lease hangs on it.
            term::discard(&self.endpoints, term).await;
        }
        written
    }

    /// What stands at a key.
    async fn get(&self, key: &str) -> Result<Option<etcd_client::KeyValue>, StoreError> {
        let mut answer = self
            .endpoints
            .call(|client| {
                let key = key.to_owned();
                async move { client.kv_client().get(key, None).await }
            })
            .await?;
        Ok(answer.take_kvs().into_iter().next())
    }
}

impl Store for EtcdStore {
    fn describe(&self) -> String {
        format!("etcd store {} (prefix {})", self.endpoints.names(), self.keys.prefix())
    }

    async fn network_config(&self) -> Result<Option<String>, StoreError> {
        let config = self.get(&self.keys.config()).await?;
        Ok(config.map(|pair| String::from_utf8_lossy(pair.value()).into_owned()))
    }

    async fn claim_identity(&self, public_ip: IpAddr) -> Result<(), StoreError> {
        let key = self.keys.agent(public_ip);
        let claimed = identity::claim(&self.endpoints, key, public_ip).await?;
        let before = self.identity.replace(claimed);
        if let Some(identity) = before {
            identity.release().await;
        }
        Ok(())
    }

    async fn release(&self) {
        let identity = self.identity.take();
        if let Some(identity) = identity {
            identity.release().await;
        }
    }

    async fn list(&self) -> Result<(Vec<Listed>, Vec<Rejected>), StoreError> {
        let subnets = self.keys.subnets();
        let answer = self
            .endpoints
            .call(|client| {
                let subnets = subnets.clone();
                let options = GetOptions::new().with_prefix();
                let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
                async move { kv.get(subnets, Some(options)).await }
            })
            .await?;
        let (mut leases, mut rejected) = (Vec::new(), Vec::new());
        for pair in answer.kvs() {
            match self.keys.read(pair) {
                Ok(listed) => leases.push(listed),
                Err(item) => rejected.push(item),
            }
        }
        leases.sort_by_key(|listed| listed.lease.key);
        Ok((leases, rejected))
    }

    async fn create(&self, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        self.write_in_new_term(key, attrs, is_absent(&self.keys.lease(key))).await
    }

    async fn take_over(&self, listed: &Listed, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let key = listed.lease.key;
        let unchanged = has_revision(&self.keys.lease(key), listed.revision);
        if listed.term == 0 {
            return self.write(key, attrs, 0, unchanged).await;
        }
        let held = self.write_in_new_term(key, attrs, unchanged).await?;
        term::discard(&self.endpoints, listed.term).await;
        Ok(held)
    }

    async fn renew(&self, held: &Held) -> Result<Held, StoreError> {
        let key = self.keys.lease(held.lease.key);
        let expires = SystemTime::now().checked_add(LEASE_TTL).filter(|_| held.term != 0);
        let is_alive = held.term == 0 || term::keep_alive(&self.endpoints, held.term).await?;
        if !is_alive {
            // The key went with its term. Whoever has it now, has it.
            return self.create(held.lease.key, &held.lease.attrs).await;
        }
        let written = self.get(&key).await?;
        let is_ours =
            |pair: &etcd_client::KeyValue| pair.mod_revision() == held.revision && pair.lease() == held.term;
        if written.as_ref().is_some_and(is_ours) {
            return Ok(Held { expires, ..held.clone() });
        }
        term::discard(&self.endpoints, held.term).await;
        Err(StoreError::Conflict(key))
    }

    async fn remove(&self, listed: &Listed) -> Result<(), StoreError> {
        let key = self.keys.lease(listed.lease.key);
        let unchanged = has_revision(&key, listed.revision);
        let delete = TxnOp::delete(key.as_str(), None);
        transact(&self.endpoints, unchanged, delete).await?.ok_or(StoreError::Conflict(key))?;
        term::discard(&self.endpoints, listed.term).await;
        Ok(())
    }

    async fn watch(&self, updates: mpsc::Sender<Update>) {
        watch::run(&self.endpoints, &self.keys, &updates).await;
    }
}

fn is_absent(key: &str) -> Compare {
    Compare::version(key, CompareOp::Equal, 0)
}

fn has_revision(key: &str, revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

/// Does one thing if one thing is so. Returns the revision of what was done; `None` where it was not so.
async fn transact(endpoints: &Endpoints, when: Compare, then: TxnOp) -> Result<Option<i64>, Failure> {
    let txn = Txn::new().when([when]).and_then([then]);
    let answer = endpoints
        .call(|client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        })
        .await?;
    let revision = answer.header().map(etcd_client::ResponseHeader::revision);
    Ok(revision.filter(|_| answer.succeeded()))
}
