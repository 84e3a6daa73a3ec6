//! etcd as the store: flannel's keys, values and etcd leases (FLANNEL.md section 3), without its habits of writing
//! over other nodes' leases, of turning reservations into leases and of leaving orphans.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use ipnet::IpNet;
use tokio::sync::mpsc;

use self::endpoints::Endpoints;
use self::failure::Failure;
use self::holder::Holder;
use self::identity::Identity;
use self::keys::Keys;
use super::{Held, LEASE_TTL, Listed, Registry, Rejected, Store, StoreError, Update, acquire};
use crate::family::ByFamily;
use crate::lease::{Lease, LeaseAttrs, LeaseKey};
use crate::network::Network;

mod connect;
mod endpoints;
mod failure;
mod holder;
mod identity;
mod keys;
mod list;
mod member;
mod options;
mod term;
mod tls;
mod user;
mod verifier;
mod watch;

pub use self::options::EtcdOptions;
pub(crate) use self::options::without_credentials;

/// A large cluster's leases come in one answer, which outgrows gRPC's 4 MiB at some ten thousand nodes.
const MAX_ANSWER: usize = 64 << 20;

/// How often a lease is tried again that nobody else has, while others create theirs.
const CREATE_TRIES: u32 = 1000;

/// The store.
pub struct EtcdStore {
    endpoints: Arc<Endpoints>,
    keys: Keys,
    /// The same in all claims: one of which only the answer was lost is known by it.
    me: Holder,
    identity: RefCell<Option<Identity>>,
    terms: term::Begun,
}

impl EtcdStore {
    /// Prepares to use an etcd cluster. Does not wait for etcd to answer: the first request does. It is that request,
    /// too, that tells whether etcd takes our certificate and password.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the options don't go together or a certificate cannot be read.
    pub async fn connect(options: &EtcdOptions) -> Result<Self, StoreError> {
        let endpoints = Arc::new(Endpoints::new(options).await?);
        Ok(Self {
            endpoints,
            keys: Keys::new(&options.prefix),
            me: Holder::this_process(),
            identity: RefCell::default(),
            terms: term::Begun::default(),
        })
    }

    /// Writes `attrs` as a lease of `term`, where `unchanged` says that nobody else has.
    async fn write(
        &self,
        key: LeaseKey,
        attrs: &LeaseAttrs,
        term: i64,
        unchanged: Compare,
    ) -> Result<Held, StoreError> {
        self.write_after(None, key, attrs, term, vec![unchanged]).await
    }

    /// The same, in one step with what comes before.
    async fn write_after(
        &self,
        before: Option<TxnOp>,
        key: LeaseKey,
        attrs: &LeaseAttrs,
        term: i64,
        unchanged: Vec<Compare>,
    ) -> Result<Held, StoreError> {
        let name = self.keys.lease(key);
        let text = serde_json::to_vec(attrs).map_err(|error| StoreError::Refused(error.to_string()))?;
        let put = TxnOp::put(name.as_str(), text, Some(PutOptions::new().with_lease(term)));
        let expires = full_term(term);
        let steps: Vec<TxnOp> = before.into_iter().chain([put]).collect();
        let revision =
            transact(&self.endpoints, unchanged, steps).await?.ok_or(StoreError::Conflict(name))?;
        let lease = Lease { key, attrs: attrs.clone() };
        Ok(Held { lease, expires, revision, term, overwritten: ByFamily::default() })
    }

    /// As [`Self::write`], in a term of its own.
    async fn write_in_new_term(
        &self,
        key: LeaseKey,
        attrs: &LeaseAttrs,
        unchanged: Compare,
    ) -> Result<Held, StoreError> {
        let term = term::grant(&self.endpoints, LEASE_TTL).await?;
        let written = self.write(key, attrs, term, unchanged).await;
        // Not plain revocations: where only the answer was lost, our lease hangs on one of them.
        self.terms.add(term, written.is_err(), &self.endpoints, LEASE_TTL).await;
        written
    }

    /// Creates a lease in a term of its own, where nobody has created one that overlaps it, not even since we looked; in
    /// one step with giving `given` up.
    async fn create_for(
        &self,
        given: Option<&Listed>,
        key: LeaseKey,
        attrs: &LeaseAttrs,
    ) -> Result<Held, StoreError> {
        let term = term::grant(&self.endpoints, LEASE_TTL).await?;
        let created = self.create_in(term, given, key, attrs).await;
        // As in `write_in_new_term`.
        self.terms.add(term, created.is_err(), &self.endpoints, LEASE_TTL).await;
        created
    }

    async fn create_in(
        &self,
        term: i64,
        given: Option<&Listed>,
        key: LeaseKey,
        attrs: &LeaseAttrs,
    ) -> Result<Held, StoreError> {
        let given = given.map(|listed| (listed.lease.key, listed.revision));
        for _ in 0..CREATE_TRIES {
            let (others, revision) = list::list_keys(&self.endpoints, &self.keys).await?;
            let is_there = given.is_none_or(|given| others.contains(&given));
            let mut others = others.iter().filter(|other| Some(**other) != given);
            if !is_there || others.any(|(other, _)| other.overlaps(&key)) {
                break;
            }
            let mut unchanged = vec![nothing_created_since(&self.keys.subnets(), revision)];
            let mut delete = None;
            if let Some((given, revision)) = given {
                let name = self.keys.lease(given);
                unchanged.push(has_revision(&name, revision));
                // A key cannot be deleted and written in one step.
                delete = (given != key).then(|| TxnOp::delete(name, None));
            }
            match self.write_after(delete, key, attrs, term, unchanged).await {
                // Some lease was created meanwhile; most likely another.
                Err(StoreError::Conflict(_)) => {}
                other => return other,
            }
        }
        Err(StoreError::Conflict(self.keys.lease(key)))
    }

    /// A listed reservation as it stands, where it says `attrs` already: what an operator wrote is not written again
    /// for nothing.
    async fn reservation(&self, listed: &Listed, attrs: &LeaseAttrs) -> Result<Option<Held>, StoreError> {
        let name = self.keys.lease(listed.lease.key);
        let found = self.get(&name).await?.filter(|pair| pair.mod_revision() == listed.revision);
        let Some(found) = found else { return Err(StoreError::Conflict(name)) };
        let is_same = self.keys.read(&found).is_ok_and(|found| found.lease.attrs == *attrs);
        let lease = Lease { key: listed.lease.key, attrs: attrs.clone() };
        let held = || Held {
            lease,
            expires: None,
            revision: listed.revision,
            term: 0,
            overwritten: ByFamily::default(),
        };
        Ok(is_same.then(held))
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

    fn config_place(&self) -> String {
        format!("the key {}", self.keys.config())
    }

    async fn network_config(&self) -> Result<Option<String>, StoreError> {
        let config = self.get(&self.keys.config()).await?;
        Ok(config.map(|pair| String::from_utf8_lossy(pair.value()).into_owned()))
    }

    async fn claim_identity(&self, public_ip: IpAddr) -> Result<(), StoreError> {
        let key = self.keys.agent(public_ip);
        let claimed = identity::claim(&self.endpoints, key, &self.me, public_ip).await?;
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

    async fn acquire(
        &self,
        network: &Network,
        me: &LeaseAttrs,
        previous: ByFamily<IpNet>,
    ) -> Result<Held, StoreError> {
        acquire(self, network, me, previous, &mut rand::rng()).await
    }

    async fn advertise(&self, held: &Held, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        self.take_over(&Listed::from(held), attrs).await
    }

    async fn renew(&self, held: &Held) -> Result<Held, StoreError> {
        let Held { lease, term, .. } = held;
        let name = self.keys.lease(lease.key);
        let expires = full_term(*term);
        let is_alive = *term == 0 || term::keep_alive(&self.endpoints, *term).await?;
        let found = self.get(&name).await?;
        if found.is_none() && !is_alive {
            // The key went with its term. Whoever has it now, has it.
            return self.create(lease.key, &lease.attrs).await;
        }
        let ours = found.and_then(|pair| self.keys.read(&pair).ok()).filter(|found| found.lease == *lease);
        let renewed = match ours {
            Some(found) if found.term == *term && is_alive => {
                return Ok(Held { expires, revision: found.revision, ..held.clone() });
            }
            // Somebody wrote our value again, as one makes or ends a reservation. It is still ours.
            Some(found) => self.take_over(&found, &lease.attrs).await,
            None => Err(StoreError::Conflict(name)),
        };
        term::discard(&self.endpoints, *term, LEASE_TTL).await;
        renewed
    }

    async fn watch(&self, updates: mpsc::Sender<Update>) {
        watch::run(&self.endpoints, &self.keys, &updates).await;
    }
}

impl Registry for EtcdStore {
    async fn list(&self) -> Result<(Vec<Listed>, Vec<Rejected>), StoreError> {
        let listing = list::list(&self.endpoints, &self.keys).await?;
        Ok((listing.leases, listing.rejected))
    }

    async fn create(&self, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        self.create_for(None, key, attrs).await
    }

    async fn take_over(&self, listed: &Listed, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let key = listed.lease.key;
        let unchanged = has_revision(&self.keys.lease(key), listed.revision);
        if listed.term == 0 {
            return match self.reservation(listed, attrs).await? {
                Some(held) => Ok(held),
                None => self.write(key, attrs, 0, unchanged).await,
            };
        }
        let held = self.write_in_new_term(key, attrs, unchanged).await?;
        term::discard(&self.endpoints, listed.term, LEASE_TTL).await;
        Ok(held)
    }

    async fn exchange(&self, listed: &Listed, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let held = self.create_for(Some(listed), key, attrs).await?;
        term::discard(&self.endpoints, listed.term, LEASE_TTL).await;
        Ok(held)
    }
}

/// When a term that is started now ends; a reservation doesn't. Asked before the request, so that we never think that
/// it is ours for longer than etcd does.
fn full_term(term: i64) -> Option<SystemTime> {
    SystemTime::now().checked_add(LEASE_TTL).filter(|_| term != 0)
}

fn is_absent(key: &str) -> Compare {
    Compare::version(key, CompareOp::Equal, 0)
}

/// That no key that begins with `prefix` is younger than `revision`.
fn nothing_created_since(prefix: &str, revision: i64) -> Compare {
    let mut end = prefix.as_bytes().to_vec();
    // The prefix ends with a slash, so there is a next byte.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    Compare::create_revision(prefix, CompareOp::Less, revision.saturating_add(1)).with_range(end)
}

fn has_revision(key: &str, revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

/// Does some things in one step, if some things are so. Returns the revision of what was done; `None` where it was not so.
async fn transact(
    endpoints: &Endpoints,
    when: impl Into<Vec<Compare>>,
    then: impl Into<Vec<TxnOp>>,
) -> Result<Option<i64>, Failure> {
    let txn = Txn::new().when(when).and_then(then);
    let answer = endpoints
        .call(|client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        })
        .await?;
    let revision = answer.header().map(etcd_client::ResponseHeader::revision);
    Ok(revision.filter(|_| answer.succeeded()))
}
