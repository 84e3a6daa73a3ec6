//! Getting a subnet.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Barrier;

use ovl_agent::family::{ByFamily, Family};
use ovl_agent::lease::LeaseKey;
use ovl_agent::store::{Held, Registry, Store, StoreError, acquire};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::fixture::Fixture;
use crate::values::{ME, OTHER, attrs, dual_network, key, listed, names, network, value};

async fn take(store: &impl Registry, me: Ipv4Addr, previous: Option<&str>) -> Held {
    let previous = ByFamily { v4: previous.map(|subnet| subnet.parse().unwrap()), v6: None };
    acquire(store, &network(20), &attrs(me), previous, &mut rand::rng()).await.unwrap()
}

pub(crate) async fn a_fresh_node_gets_a_subnet<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    let held = take(&store, ME, None).await;
    assert!(network(20).fits(&held.lease.key), "{held:?}");
    assert_eq!(listed(&store, &held.lease.key.to_string()).await.lease, held.lease);
}

pub(crate) async fn a_node_gets_its_own_lease_again<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    let first = take(&store, ME, None).await;
    take(&store, OTHER, None).await;
    for previous in [None, Some("10.42.20.0/24")] {
        let again = take(&fixture.open().await, ME, previous).await;
        assert_eq!(again.lease.key, first.lease.key, "{previous:?}");
    }
    assert_eq!(names(&store).await.len(), 2);
}

pub(crate) async fn a_node_without_a_lease_gets_its_previous_subnet<F: Fixture<Store: Registry>>(
    fixture: &mut F,
) {
    let store = fixture.open().await;
    assert_eq!(take(&store, ME, Some("10.42.7.0/24")).await.lease.key, key("10.42.7.0-24"));
    let other = take(&store, OTHER, Some("10.42.7.0/24")).await;
    assert_ne!(other.lease.key, key("10.42.7.0-24"), "it is taken");
    let third = take(&store, Ipv4Addr::new(192, 0, 2, 12), Some("10.43.7.0/24")).await;
    assert!(network(20).fits(&third.lease.key), "the previous one was of another network");
}

pub(crate) async fn an_own_lease_that_does_not_fit_is_replaced<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    fixture.put("subnets/10.99.1.0-24", &value(ME));
    fixture.put("subnets/10.42.2.0-25", &value(OTHER));
    let held = take(&store, ME, Some("10.42.2.0/24")).await;
    assert!(network(20).fits(&held.lease.key), "{held:?}");
    assert_ne!(held.lease.key, key("10.42.2.0-24"), "it overlaps another lease");
    let mut expected = vec!["10.42.2.0-25".to_owned(), held.lease.key.to_string()];
    let mut found = names(&store).await;
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "ours is gone, the other one is not");
}

pub(crate) async fn garbage_is_not_given_out<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    fixture.put("subnets/10.42.1.0-24", "garbage");
    let held = acquire(&store, &network(2), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
    assert_eq!(held.lease.key, key("10.42.2.0-24"));
}

pub(crate) async fn without_a_free_subnet_the_error_says_so<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    for third in 1..=3 {
        fixture.put(&format!("subnets/10.42.{third}.0-24"), &value(OTHER));
    }
    let error =
        acquire(&store, &network(3), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap_err();
    let StoreError::Refused(text) = &error else { panic!("{error:?}") };
    for part in ["no free /24", "10.42.0.0/16", "10.42.1.0", "10.42.3.0", "3 leases", &store.describe()] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

pub(crate) async fn twenty_nodes_race_for_twenty_subnets<F: Fixture<Store: Registry> + Sync>(
    fixture: &mut F,
) {
    let fixture: &F = fixture;
    let start = Barrier::new(20);
    let race = |host| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = fixture.open().await;
            start.wait();
            take(&store, Ipv4Addr::new(192, 0, 2, host), None).await.lease.key
        })
    };
    let race = &race;
    // Threads, because some stores never wait and so would not meet in one.
    let keys: BTreeSet<LeaseKey> = std::thread::scope(|scope| {
        let racers: Vec<_> = (1..=20).map(|host| scope.spawn(move || race(host))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(keys.len(), 20, "{keys:?}");
    assert_eq!(names(&fixture.open().await).await.len(), 20);
}

/// Half of them throw the same dice, so that they choose one subnet of a family and two of the other.
pub(crate) async fn dual_stack_nodes_race_for_both_families<F: Fixture<Store: Registry> + Sync>(
    fixture: &mut F,
) {
    const NODES: u8 = 10;
    let fixture: &F = fixture;
    let start = Barrier::new(NODES.into());
    let race = |host: u8| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = fixture.open().await;
            let mut dice = StdRng::seed_from_u64((host / 2).into());
            start.wait();
            let me = attrs(Ipv4Addr::new(192, 0, 2, host));
            let network = dual_network(NODES);
            acquire(&store, &network, &me, ByFamily::default(), &mut dice).await.unwrap().lease.key
        })
    };
    let race = &race;
    let keys: Vec<LeaseKey> = std::thread::scope(|scope| {
        let racers: Vec<_> = (1..=NODES).map(|host| scope.spawn(move || race(host))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    for family in Family::ALL {
        let subnets: BTreeSet<_> = keys.iter().filter_map(|key| key.subnet(family)).collect();
        assert_eq!(subnets.len(), usize::from(NODES), "{keys:?}");
    }
    assert_eq!(names(&fixture.open().await).await.len(), usize::from(NODES));
}
