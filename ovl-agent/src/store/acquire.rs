//! How a node gets its subnet: flannel's order (FLANNEL.md 3.3), with lost races tried again.

use std::time::Duration;

use ipnet::Ipv4Net;
use rand::Rng;
use rand::seq::IteratorRandom as _;
use tracing::{debug, warn};

use super::{Held, Listed, Rejected, Store, StoreError};
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
    /// Remove our own lease, which the config does not allow any more, and choose again.
    Remove(&'a Listed),
    /// Write over what stands at the subnet that was ours and cannot be read.
    Mend(&'a Rejected, LeaseKey),
    /// Create a lease of this subnet.
    Create(Ipv4Net),
    /// Nothing is free.
    Full,
}

/// Chooses, given all leases.
pub fn choose<'a>(
    network: &Network,
    leases: &'a [Listed],
    rejected: &'a [Rejected],
    me: &LeaseAttrs,
    previous: Option<Ipv4Net>,
    random: &mut impl Rng,
) -> Choice<'a> {
    let ours =
        |listed: &&Listed| !me.public_ip.is_unspecified() && listed.lease.attrs.public_ip == me.public_ip;
    if let Some(listed) = leases.iter().find(ours) {
        let key = listed.lease.key;
        let fits = network.fits(key.ipv4) && key.ipv6.is_none();
        return if fits { Choice::TakeOver(listed) } else { Choice::Remove(listed) };
    }
    let was_ours =
        |item: &&Rejected| item.key.is_some_and(|key| Some(key.ipv4) == previous && key.ipv6.is_none());
    if let Some(item) = rejected.iter().find(was_ours)
        && let Some(key) = item.key
        && network.fits(key.ipv4)
    {
        return Choice::Mend(item, key);
    }
    // An item that cannot be read still names a subnet, which may be somebody's.
    let taken: Vec<Ipv4Net> = leases
        .iter()
        .map(|listed| listed.lease.key.ipv4)
        .chain(rejected.iter().filter_map(|item| item.key).map(|key| key.ipv4))
        .collect();
    let is_free =
        |subnet: &Ipv4Net| !taken.iter().any(|other| other.contains(subnet) || subnet.contains(other));
    if let Some(previous) = previous
        && network.fits(previous)
        && is_free(&previous)
    {
        return Choice::Create(previous);
    }
    let free = network.subnets().filter(is_free).take(CANDIDATES).choose(random);
    free.map_or(Choice::Full, Choice::Create)
}

/// Gets a lease: our own where there is one, else the previous subnet where it is free, else any.
pub async fn acquire<S: Store, R: Rng>(
    store: &S,
    network: &Network,
    me: &LeaseAttrs,
    previous: Option<Ipv4Net>,
    random: &mut R,
) -> Result<Held, StoreError> {
    for _ in 0..TRIES {
        let (leases, rejected) = store.list().await?;
        let attempt = match choose(network, &leases, &rejected, me, previous, random) {
            Choice::TakeOver(listed) => store.take_over(listed, me).await,
            Choice::Remove(listed) => {
                let key = listed.lease.key;
                warn!("our lease {key} does not fit the network config any more; taking another");
                match store.remove(listed).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                }
            }
            Choice::Mend(item, key) => {
                warn!("{} cannot be read, but its subnet was ours: writing it anew", item.item);
                let lease = Lease { key, attrs: me.clone() };
                let listed = Listed { lease, revision: item.revision, term: item.term };
                store.take_over(&listed, me).await
            }
            Choice::Create(ipv4) => store.create(LeaseKey { ipv4, ipv6: None }, me).await,
            Choice::Full => return Err(full(store, network, &leases)),
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

fn full<S: Store>(store: &S, network: &Network, leases: &[Listed]) -> StoreError {
    StoreError::Refused(format!(
        "no free /{} subnet is left in {} ({} to {}): {} leases hold them all; remove one that is stale from {}, or \
         enlarge Network",
        network.subnet_len,
        network.ipv4,
        network.subnet_min,
        network.subnet_max,
        leases.len(),
        store.describe()
    ))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const ME: [u8; 4] = [192, 0, 2, 11];

    /// Name, leases, rejected items, public IP, previous subnet, choice.
    type Case<'a> = (&'a str, Vec<Listed>, Vec<Rejected>, [u8; 4], Option<&'a str>, &'a str);

    fn attrs(public_ip: [u8; 4]) -> LeaseAttrs {
        LeaseAttrs {
            public_ip: public_ip.into(),
            public_ipv6: None,
            backend_type: "vxlan".into(),
            backend_data: None,
            backend_v6_data: None,
        }
    }

    fn listed(key: &str, public_ip: [u8; 4]) -> Listed {
        let lease = Lease { key: key.parse().expect(key), attrs: attrs(public_ip) };
        Listed { lease, revision: 1, term: 1 }
    }

    /// Four subnets, the first of which is never given out.
    fn network() -> Network {
        Network::parse(r#"{"Network":"10.9.0.0/24","Backend":{"Type":"vxlan"}}"#).expect("valid")
    }

    fn decide(leases: &[Listed], rejected: &[Rejected], me: [u8; 4], previous: Option<&str>) -> String {
        let previous = previous.map(|net| net.parse().expect("valid"));
        let mut random = StdRng::seed_from_u64(1);
        match choose(&network(), leases, rejected, &attrs(me), previous, &mut random) {
            Choice::TakeOver(listed) => format!("take over {}", listed.lease.key),
            Choice::Remove(listed) => format!("remove {}", listed.lease.key),
            Choice::Create(subnet) => format!("create {subnet}"),
            Choice::Mend(item, _) => format!("mend {}", item.item),
            Choice::Full => "full".into(),
        }
    }

    #[test]
    fn the_order_is_own_lease_then_previous_then_any() {
        let other = [192, 0, 2, 99];
        let unreadable = |key: &str| Rejected {
            key: Some(key.parse().expect(key)),
            item: key.into(),
            reason: "garbage".into(),
            revision: 1,
            term: 1,
        };
        let (a, b, c) = ("10.9.0.64-26", "10.9.0.128-26", "10.9.0.192-26");
        let table: [Case; 10] = [
            (
                "unreadable, but was ours",
                vec![listed(a, other)],
                vec![unreadable(b)],
                ME,
                Some("10.9.0.128/26"),
                "mend 10.9.0.128-26",
            ),
            ("own", vec![listed(a, other), listed(b, ME)], vec![], ME, None, "take over 10.9.0.128-26"),
            (
                "own, of another length",
                vec![listed("10.9.0.64-27", ME)],
                vec![],
                ME,
                None,
                "remove 10.9.0.64-27",
            ),
            ("own, outside", vec![listed("10.8.0.64-26", ME)], vec![], ME, None, "remove 10.8.0.64-26"),
            ("previous", vec![listed(a, other)], vec![], ME, Some("10.9.0.192/26"), "create 10.9.0.192/26"),
            (
                "previous taken",
                vec![listed(a, other), listed(c, other)],
                vec![],
                ME,
                Some("10.9.0.192/26"),
                "create 10.9.0.128/26",
            ),
            (
                "previous outside",
                vec![listed(a, other), listed(b, other)],
                vec![],
                ME,
                Some("10.8.0.0/26"),
                "create 10.9.0.192/26",
            ),
            (
                "overlapped by a shorter one",
                vec![listed("10.9.0.0-25", other), listed(b, other)],
                vec![],
                ME,
                None,
                "create 10.9.0.192/26",
            ),
            (
                "unreadable is taken",
                vec![listed(a, other)],
                vec![unreadable(b)],
                ME,
                None,
                "create 10.9.0.192/26",
            ),
            ("full", vec![listed(a, other), listed(b, other), listed(c, other)], vec![], ME, None, "full"),
        ];
        for (name, leases, rejected, me, previous, expected) in table {
            assert_eq!(decide(&leases, &rejected, me, previous), expected, "{name}");
        }
        let unset = vec![listed(a, [0; 4])];
        assert!(decide(&unset, &[], [0; 4], None).starts_with("create"), "no address is nobody's");
    }

    #[test]
    fn every_free_subnet_is_chosen_at_times() {
        let mut random = StdRng::seed_from_u64(7);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            if let Choice::Create(subnet) = choose(&network(), &[], &[], &attrs(ME), None, &mut random) {
                seen.insert(subnet.to_string());
            }
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
    }
}
