//! Where leases live. One interface, one conformance test (`tests/tests/store`) run against every store.

use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::family::ByFamily;
use crate::lease::{BackendData, Lease, LeaseAttrs, LeaseKey};
use crate::network::Network;

mod acquire;
mod backoff;
pub mod dir;
pub mod etcd;
pub mod kubernetes;
mod taken;

pub use acquire::{acquire, choose};

/// How long a lease is good for without renewal, as flannel has it.
pub const LEASE_TTL: std::time::Duration = std::time::Duration::from_hours(24);

/// Why a store could not do what it was asked to.
///
/// Variants exist per reaction of the caller.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed the key first: list again and retry.
    #[error("{0} was changed by another agent at the same moment")]
    Conflict(String),
    /// The store does not answer or cannot be read: retry later. Nothing is known about the leases.
    #[error("{0}")]
    Unavailable(String),
    /// Trying again will not help; the text says what to change.
    #[error("{0}")]
    Refused(String),
}

/// A lease of our own, and what the store needs to renew it.
#[derive(Clone, Debug)]
pub struct Held {
    /// The subnet and what we said about ourselves.
    pub lease: Lease,
    /// When it ends unless renewed; `None` for a reservation and for what Kubernetes assigned, which do not end.
    pub expires: Option<SystemTime>,
    /// The store's own mark of the value we wrote (etcd: modification revision; dir: time and inode of the file;
    /// Kubernetes: how often we wrote). [`Store::renew`] says what becomes of a lease that somebody has written since.
    pub revision: i64,
    /// The store's own handle of the term (etcd: lease id, 0 for a reservation; others: 0).
    pub term: i64,
    /// Addresses that an operator had written into the lease in the place of ours.
    pub overwritten: ByFamily<IpAddr>,
}

/// What a store says of this node before the agent has taken its lease.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Addresses that an operator gave the node, which count as `--public-ip` and `--public-ipv6` do.
    pub public_ips: ByFamily<IpAddr>,
    /// What the node last told its peers: with the same MACs they need not learn new ones.
    pub backend_data: ByFamily<BackendData>,
}

/// Whether packets between this node's pods and others can travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlane {
    /// The node's own devices, addresses and rules are in place.
    Works,
    /// They are not, and this is why.
    Broken(String),
}

/// A lease as the store lists it, with the mark to change it by.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The lease.
    pub lease: Lease,
    /// As [`Held::revision`].
    pub revision: i64,
    /// As [`Held::term`]: 0 is a reservation in etcd, always 0 elsewhere.
    pub term: i64,
}

impl From<&Held> for Listed {
    fn from(held: &Held) -> Self {
        Self { lease: held.lease.clone(), revision: held.revision, term: held.term }
    }
}

/// What a watch reports.
#[derive(Debug)]
pub enum Update {
    /// All leases that exist now, after which the view holds these and no others. `rejected` names every item that
    /// could not be read and why; its subnet keeps whatever the view has for it.
    Snapshot {
        /// The leases.
        leases: Vec<Lease>,
        /// Keys whose value could not be read, with the reason.
        rejected: Vec<Rejected>,
    },
    /// A lease is new or has changed.
    Put(Lease),
    /// A lease is gone.
    Delete(LeaseKey),
    /// One item could not be read; everything else stands.
    Rejected(Rejected),
    /// The network config may have changed.
    ConfigChanged,
    /// The store does not answer; the text says why. Nothing is removed. A later update means it is back.
    Unavailable(String),
}

/// An item that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its subnet, where the key says so: what is known of it stays.
    pub key: Option<LeaseKey>,
    /// Its full name in the store.
    pub item: String,
    /// What is wrong with it.
    pub reason: String,
    /// As [`Held::revision`], to change it by.
    pub revision: i64,
    /// As [`Held::term`].
    pub term: i64,
}

/// A place where leases live, as an agent needs it.
#[expect(async_fn_in_trait, reason = "used with static dispatch in one task; no Send bound is needed")]
pub trait Store {
    /// A name for a person: what it is and where.
    fn describe(&self) -> String;

    /// Where a person writes the network config.
    fn config_place(&self) -> String;

    /// The network config as text; `None` while nobody has written one.
    async fn network_config(&self) -> Result<Option<String>, StoreError>;

    /// Reads a network config as this store means it.
    ///
    /// # Errors
    /// A sentence that names the field, its value and what it should be.
    fn parse_config(&self, text: &str) -> anyhow::Result<Network> {
        Network::parse(text)
    }

    /// What the store says of this node before it has a lease.
    async fn remembered(&self) -> Result<Remembered, StoreError> {
        Ok(Remembered::default())
    }

    /// Makes sure that no other living agent uses `public_ip`, and holds that claim until the store is dropped, another
    /// is claimed or the process dies; to claim it again changes nothing. [`StoreError::Refused`] names the other agent.
    /// Takes up to a minute where only time can tell whether that one lives.
    async fn claim_identity(&self, public_ip: IpAddr) -> Result<(), StoreError>;

    /// Gives the claim on the public IP back; the lease stays. For a clean end.
    async fn release(&self);

    /// Takes a lease: our own where there is one, else `previous` where that is free, else any; or the one that is
    /// assigned to this node.
    async fn acquire(
        &self,
        network: &Network,
        me: &LeaseAttrs,
        previous: ByFamily<IpNet>,
    ) -> Result<Held, StoreError>;

    /// Writes other attributes into our lease; [`StoreError::Conflict`] where it is no longer ours.
    async fn advertise(&self, held: &Held, attrs: &LeaseAttrs) -> Result<Held, StoreError>;

    /// Extends our lease by a full term; [`StoreError::Conflict`] where it is no longer ours. Our own value, written
    /// again by somebody as one makes or ends a reservation, is still ours in etcd, and becomes what was made of it. A
    /// directory knows no reservations: there it is a conflict, and [`acquire()`] finds the lease again. In Kubernetes
    /// what the node's record should say is written again where it says something else.
    async fn renew(&self, held: &Held) -> Result<Held, StoreError>;

    /// Tells the rest of the cluster whether this node's pods can be reached, where the store has a place for that.
    async fn report(&self, _data_plane: &DataPlane) -> Result<(), StoreError> {
        Ok(())
    }

    /// Reports the leases until `updates` is closed: a snapshot first and [`Update::ConfigChanged`] with it, as nobody
    /// knows what came between the caller's last look and this one; then changes, and a snapshot again after every
    /// gap. Reconnects by itself; never returns because the store is gone.
    async fn watch(&self, updates: mpsc::Sender<Update>);
}

/// A store in which agents choose their subnets themselves, and may race for them.
///
/// The primitives compare before they write, so that no agent takes what another holds; [`acquire()`] builds flannel's
/// algorithm on them.
#[expect(async_fn_in_trait, reason = "used with static dispatch in one task; no Send bound is needed")]
pub trait Registry: Store {
    /// All leases that can be read; those that cannot be are in the second list.
    async fn list(&self) -> Result<(Vec<Listed>, Vec<Rejected>), StoreError>;

    /// Creates a lease; [`StoreError::Conflict`] where one exists that has addresses in common with it, in either family:
    /// the key alone does not say so, since two nodes may choose one IPv4 subnet and two of IPv6.
    async fn create(&self, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError>;

    /// Writes our attributes over a listed lease and starts a new term (a reservation stays one);
    /// [`StoreError::Conflict`] where it has changed since it was listed.
    async fn take_over(&self, listed: &Listed, attrs: &LeaseAttrs) -> Result<Held, StoreError>;

    /// Gives a listed lease up for one of `key`, in one step, so that no moment is without; [`StoreError::Conflict`] where
    /// it has changed since it was listed, or the other is not free as for [`Registry::create`].
    async fn exchange(&self, listed: &Listed, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError>;
}

/// How long after a lease was taken or renewed it should be renewed, where it is not to come closer to its end than
/// `margin` (flannel's `--subnet-lease-renew-margin`, less than [`LEASE_TTL`]).
///
/// Every hour at the latest, where flannel with its default waits for 23: renewing writes nothing, and an etcd that is
/// gone for a night then ends no lease. After a failure the next try is due in a minute, whatever the margin.
pub fn renewal_interval(margin: std::time::Duration) -> std::time::Duration {
    LEASE_TTL.saturating_sub(margin).min(std::time::Duration::from_hours(1))
}

/// The flag that gives a node another address of this one's family.
fn public_ip_flag(public_ip: IpAddr) -> &'static str {
    if public_ip.is_ipv4() { "--public-ip" } else { "--public-ipv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_hourly_unless_the_margin_asks_for_more() {
        let minutes = std::time::Duration::from_mins;
        for (margin, interval) in [(1, 60), (60, 60), (23 * 60, 60), (23 * 60 + 30, 30), (1439, 1)] {
            assert_eq!(renewal_interval(minutes(margin)), minutes(interval), "{margin}");
        }
    }
}
