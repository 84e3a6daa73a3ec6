//! etcd as the store, with flannel's keys, values and leases on the wire (FLANNEL.md 3.1 to 3.5).
//!
//! What is written is compared first (no key there, or still the one that was read), so nobody takes what another
//! holds; a key that has no etcd lease is an operator's reservation and stays one; a term that is replaced is revoked,
//! so no orphaned etcd leases pile up.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, PutOptions, Txn, TxnOp};
use tokio::sync::mpsc;
use tracing::debug;

use super::{Held, LEASE_TTL, Listed, Rejected, Store, StoreError, Update};
use crate::lease::{Lease, LeaseAttrs, LeaseKey};

mod connection;
mod identity;
mod keys;
mod watch;

use connection::Connection;
use identity::Identity;
use keys::Keys;

const TTL_SECONDS: i64 = LEASE_TTL.as_secs().cast_signed();

/// The store.
pub struct EtcdStore {
    connection: Connection,
    keys: Keys,
    identity: Option<Identity>,
}

impl EtcdStore {
    /// Prepares to talk to the first of `endpoints` that answers. Nothing is connected yet.
    pub async fn connect(endpoints: &[String], prefix: &str) -> Result<Self, StoreError> {
        Ok(Self { connection: Connection::new(endpoints).await?, keys: Keys::new(prefix), identity: None })
    }

    /// The listing, and the revision it is of.
    async fn list_at(&self) -> Result<(Vec<Listed>, Vec<Rejected>, i64), StoreError> {
        let folder = self.keys.subnets();
        let response: GetResponse = self
            .connection
            .call(async |client| client.get(folder.as_str(), Some(GetOptions::new().with_prefix())).await)
            .await?;
        let mut leases = Vec::new();
        let mut rejected = Vec::new();
        for entry in response.kvs() {
            match self.keys.read(entry) {
                Ok(listed) => leases.push(listed),
                Err(item) => rejected.push(item),
            }
        }
        Ok((leases, rejected, response.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }

    async fn grant(&self) -> Result<i64, StoreError> {
        let granted =
            self.connection.call(async |client| client.lease_grant(TTL_SECONDS, None).await).await?;
        Ok(granted.id())
    }

    /// Ends a term that nobody hangs on. It would end by itself, so a failure is only worth a debug line.
    async fn revoke(&self, term: i64) {
        if let Err(error) = self.connection.call(async |client| client.lease_revoke(term).await).await {
            debug!("cannot revoke etcd lease {term:x}: {error}");
        }
    }

    /// Ends the term that a key was moved away from, unless another key hangs on it.
    async fn revoke_if_empty(&self, term: i64) {
        let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
        let asked = self
            .connection
            .call(async |client| client.lease_time_to_live(term, Some(options.clone())).await)
            .await;
        match asked {
            Ok(answer) if answer.ttl() > 0 && answer.keys().is_empty() => self.revoke(term).await,
            Ok(_) => {}
            Err(error) => debug!("cannot ask about etcd lease {term:x}: {error}"),
        }
    }

    /// Writes a lease where `compare` holds; `Conflict` where it does not.
    async fn put_if(
        &self,
        compare: Compare,
        key: LeaseKey,
        attrs: &LeaseAttrs,
        term: i64,
    ) -> Result<Held, StoreError> {
        let name = self.keys.lease(key);
        let value = serde_json::to_vec(attrs).map_err(|error| StoreError::Refused(error.to_string()))?;
        let options = (term != 0).then(|| PutOptions::new().with_lease(term));
        let put = TxnOp::put(name.as_str(), value, options);
        let txn = Txn::new().when([compare]).and_then([put]);
        let response = self.connection.call(async |client| client.txn(txn.clone()).await).await?;
        if !response.succeeded() {
            return Err(StoreError::Conflict(name));
        }
        Ok(Held {
            lease: Lease { key, attrs: attrs.clone() },
            expires: (term != 0).then(|| SystemTime::now() + LEASE_TTL),
            revision: response.header().map_or(0, etcd_client::ResponseHeader::revision),
            term,
        })
    }

    /// [`Self::put_if`] with a term of its own, which goes where the write does not succeed.
    async fn put_with_new_term(
        &self,
        compare: Compare,
        key: LeaseKey,
        attrs: &LeaseAttrs,
    ) -> Result<Held, StoreError> {
        let term = self.grant().await?;
        let result = self.put_if(compare, key, attrs, term).await;
        if result.is_err() {
            self.revoke(term).await;
        }
        result
    }

    fn unchanged(&self, key: LeaseKey, revision: i64) -> Compare {
        Compare::mod_revision(self.keys.lease(key), CompareOp::Equal, revision)
    }
}

impl Store for EtcdStore {
    fn describe(&self) -> String {
        format!("etcd {}{}", self.connection.endpoint(), self.keys.prefix())
    }

    async fn network_config(&self) -> Result<Option<String>, StoreError> {
        let key = self.keys.config();
        let response = self.connection.call(async |client| client.get(key.as_str(), None).await).await?;
        let Some(entry) = response.kvs().first() else { return Ok(None) };
        match entry.value_str() {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_not_utf8) => Err(StoreError::Refused(format!("{key} is not text"))),
        }
    }

    async fn claim_identity(&mut self, public_ip: Ipv4Addr) -> Result<(), StoreError> {
        self.identity = identity::claim(&self.connection, self.keys.agent(public_ip), public_ip).await?;
        Ok(())
    }

    async fn release(&mut self) {
        if let Some(identity) = self.identity.take() {
            self.revoke(identity.term()).await;
        }
    }

    async fn list(&self) -> Result<(Vec<Listed>, Vec<Rejected>), StoreError> {
        let (leases, rejected, _) = self.list_at().await?;
        Ok((leases, rejected))
    }

    async fn create(&self, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let absent = Compare::version(self.keys.lease(key), CompareOp::Equal, 0);
        self.put_with_new_term(absent, key, attrs).await
    }

    async fn take_over(&self, listed: &Listed, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let key = listed.lease.key;
        let unchanged = self.unchanged(key, listed.revision);
        if listed.term == 0 {
            return self.put_if(unchanged, key, attrs, 0).await;
        }
        let held = self.put_with_new_term(unchanged, key, attrs).await?;
        self.revoke_if_empty(listed.term).await;
        Ok(held)
    }

    async fn renew(&self, held: &Held) -> Result<Held, StoreError> {
        let name = self.keys.lease(held.lease.key);
        let conflict = || StoreError::Conflict(name.clone());
        let response = self.connection.call(async |client| client.get(name.as_str(), None).await).await?;
        let revision = response.kvs().first().map(KeyValue::mod_revision);
        if revision != Some(held.revision) {
            return Err(conflict());
        }
        if held.term == 0 {
            return Ok(held.clone());
        }
        if self.connection.keep_alive(held.term).await? <= 0 {
            return Err(conflict());
        }
        Ok(Held { expires: Some(SystemTime::now() + LEASE_TTL), ..held.clone() })
    }

    async fn remove(&self, listed: &Listed) -> Result<(), StoreError> {
        let name = self.keys.lease(listed.lease.key);
        let unchanged = self.unchanged(listed.lease.key, listed.revision);
        let txn = Txn::new().when([unchanged]).and_then([TxnOp::delete(name.as_str(), None)]);
        let response = self.connection.call(async |client| client.txn(txn.clone()).await).await?;
        if !response.succeeded() {
            return Err(StoreError::Conflict(name));
        }
        if listed.term != 0 {
            self.revoke_if_empty(listed.term).await;
        }
        Ok(())
    }

    async fn watch(&self, updates: mpsc::Sender<Update>) {
        watch::run(self, &updates).await;
    }
}
