//! How a node gets its subnet: flannel's order (FLANNEL.md 3.3), with lost races tried again.

use std::time::Duration;

use ipnet::IpNet;
use rand::Rng;
use rand::seq::IteratorRandom as _;
use tracing::{debug, warn};

use super::taken::Taken;
use super::{Held, Listed, Registry, Rejected, StoreError};
use crate::family::{ByFamily, Family};
use crate::lease::{Lease, LeaseAttrs, LeaseKey};
use crate::network::Network;

/// How many free subnets the choice is made among, as in flannel: enough that nodes that start together seldom meet.
const CANDIDATES: usize = 100;
/// How often a lost race is tried again.
const TRIES: u32 = 20;

/// What to do to get a subnet.
#[derive(Debug)]
pub enum Choice<'a> {
    /// Take our own lease on.
    TakeOver(&'a Listed),
    /// Give our own lease up, which the config does not allow any more, for this one.
    Exchange(&'a Listed, LeaseKey),
    /// Write over what stands at the subnet that was ours and cannot be read.
    Mend(&'a Rejected, LeaseKey),
    /// Create this lease.
    Create(LeaseKey),
    /// Nothing of this family is free.
    Full(Family),
}

/// Chooses, given all leases. `previous` is what this node held before.
pub fn choose<'a>(
    network: &Network,
    leases: &'a [Listed],
    rejected: &'a [Rejected],
    me: &LeaseAttrs,
    previous: &ByFamily<IpNet>,
    random: &mut impl Rng,
) -> Choice<'a> {
    let identity = me.identity();
    // With another address than before, or in another family: known by the subnet it held and one of its tunnels' MACs,
    // which devices keep, or one of its addresses.
    let moved = |lease: &Lease| {
        let same = |family| {
            let data = me.backend_data(family);
            let address = me.public_ip(family);
            data.is_some() && data == lease.attrs.backend_data(family)
                || address.is_some() && address == lease.attrs.public_ip(family)
        };
        lease.key.subnets() == previous && Family::ALL.into_iter().any(same)
    };
    let ours = |listed: &&Listed| {
        identity.is_some() && listed.lease.attrs.identity() == identity || moved(&listed.lease)
    };
    // Of several, one that fits: the others only wait for their end.
    let fitting = |listed: &&Listed| ours(listed) && network.fits(&listed.lease.key);
    if let Some(listed) = leases.iter().find(fitting) {
        return Choice::TakeOver(listed);
    }
    let given = leases.iter().find(ours);
    // What of it still fits is kept: a family that was added must not cost the other its subnet.
    let previous = given.map_or(previous, |listed| listed.lease.key.subnets());
    let was_ours = |item: &'a Rejected| {
        let key = item.key.filter(|key| network.fits(key) && key.subnets() == previous)?;
        Some(Choice::Mend(item, key))
    };
    if let Some(mend) = rejected.iter().find_map(was_ours) {
        return mend;
    }
    let others =
        || leases.iter().filter(|listed| given.is_none_or(|given| given.lease.key != listed.lease.key));
    // An item that cannot be read still names subnets, which may be somebody's.
    let keys = || others().map(|listed| listed.lease.key).chain(rejected.iter().filter_map(|item| item.key));
    let mut chosen = ByFamily::default();
    for (family, pool) in network.pools.iter() {
        let taken = Taken::new(keys().filter_map(|key| key.subnet(family)));
        let again =
            previous.get(family).copied().filter(|subnet| pool.fits(*subnet) && taken.spares(*subnet));
        let any = || taken.free_in(pool).take(CANDIDATES).choose(random);
        match again.or_else(any) {
            Some(subnet) => chosen.set(family, Some(subnet)),
            None => return Choice::Full(family),
        }
    }
    match (LeaseKey::of(chosen), given) {
        (None, _) => Choice::Full(Family::V4),
        (Some(key), Some(given)) => Choice::Exchange(given, key),
        (Some(key), None) => Choice::Create(key),
    }
}

/// Gets a lease: our own where there is one, else the previous subnets where they are free, else any.
pub async fn acquire<S: Registry, R: Rng>(
    store: &S,
    network: &Network,
    me: &LeaseAttrs,
    previous: ByFamily<IpNet>,
    random: &mut R,
) -> Result<Held, StoreError> {
    for _ in 0..TRIES {
        let (leases, rejected) = store.list().await?;
        let attempt = match choose(network, &leases, &rejected, me, &previous, random) {
            Choice::TakeOver(listed) => store.take_over(listed, me).await,
            Choice::Exchange(listed, key) => {
                warn!(
                    "our lease {} does not fit the network config any more; taking {key}",
                    listed.lease.key
                );
                store.exchange(listed, key, me).await
            }
            Choice::Mend(item, key) => {
                warn!("{} cannot be read, but its subnet was ours: writing it anew", item.item);
                let lease = Lease { key, attrs: me.clone() };
                let listed = Listed { lease, revision: item.revision, term: item.term };
                store.take_over(&listed, me).await
            }
            Choice::Create(key) => store.create(key, me).await,
            Choice::Full(family) => return Err(full(store, network, family, &leases)),
        };
        match attempt {
            Err(StoreError::Conflict(what)) => {
                debug!("lost a race: {what}; listing again");
                let pause = Duration::from_millis(random.random_range(1..50));
                tokio::time::sleep(pause).await;
            }
            other => return other,
        }
    }
    Err(StoreError::Refused(format!(
        "lost {TRIES} races for a subnet in {}; too many agents start at once, start this one again",
        store.describe()
    )))
}

fn full<S: Registry>(store: &S, network: &Network, family: Family, leases: &[Listed]) -> StoreError {
    let Some(pool) = network.pools.get(family) else {
        return StoreError::Refused(format!("the network config has no {family} range"));
    };
    StoreError::Refused(format!(
        "no free /{} subnet is left in {} ({} to {}): {} leases hold them all; remove one that is stale from {}, or \
         enlarge the range",
        pool.subnet_len,
        pool.range,
        pool.min,
        pool.max,
        leases.len(),
        store.describe()
    ))
}

#[cfg(test)]
mod tests;
