//! The etcd leases that our keys hang on: exactly one, ours, at all times; none for a reservation.

use ovl_agent::family::ByFamily;
use ovl_agent::store::{Held, Registry as _, Store as _, StoreError, acquire};

use crate::etcd::{PREFIX, RealEtcd};
use crate::fixture::Fixture as _;
use crate::values::{ME, OTHER, attrs, key, listed, names, network, value};

const A: &str = "10.42.1.0-24";

/// An etcd lease as `etcdctl` writes it.
fn hex(term: i64) -> String {
    format!("{term:016x}")
}

impl RealEtcd {
    /// As somebody who is no agent: a key with an etcd lease of `ttl` seconds, whose number is returned.
    fn put_for(&self, ttl: u32, item: &str, value: &str) -> String {
        let granted = self.etcdctl(&["lease", "grant", &ttl.to_string()]);
        let term = granted.split_whitespace().nth(1).unwrap().to_owned();
        self.etcdctl(&["put", "--lease", &term, &format!("{PREFIX}/{item}"), value]);
        term
    }

    fn assert_only_term(&self, held: &Held) {
        assert_eq!(self.terms(), [hex(held.term)]);
        let state = self.etcdctl(&["lease", "timetolive", "--keys", &hex(held.term)]);
        let keys = format!("attached keys([{PREFIX}/subnets/{}])", held.lease.key);
        assert!(state.contains("granted with TTL(86400s)") && state.contains(&keys), "{state}");
    }

    /// When a lease was last written, and how often since it exists.
    fn writes(&self, name: &str) -> String {
        let fields = self.etcdctl(&["get", "-w", "fields", &format!("{PREFIX}/subnets/{name}")]);
        fields.lines().filter(|line| line.contains("ModRevision") || line.contains("Version")).collect()
    }
}

#[tokio::test]
async fn a_start_a_restart_and_renewals_have_one_term_between_them() {
    let etcd = RealEtcd::start();
    for _ in 0..3 {
        let store = etcd.open().await;
        let mut held =
            acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
        etcd.assert_only_term(&held);
        for _ in 0..3 {
            held = store.renew(&held).await.unwrap();
            etcd.assert_only_term(&held);
        }
    }
}

#[tokio::test]
async fn a_subnet_that_is_taken_by_force_is_left_to_the_taker() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    let held =
        acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
    // As flannel renews: without a look at what stands there.
    let theirs = etcd.put_for(86400, &format!("subnets/{}", held.lease.key), &value(OTHER));
    assert!(matches!(store.renew(&held).await, Err(StoreError::Conflict(_))));
    assert_eq!(etcd.terms(), [theirs.as_str()], "ours has lost its key");
    let previous = *held.lease.key.subnets();
    let next = acquire(&store, &network(20), &attrs(ME), previous, &mut rand::rng()).await.unwrap();
    assert_ne!(next.lease.key, held.lease.key);
    assert_eq!(listed(&store, &held.lease.key.to_string()).await.lease.attrs, attrs(OTHER));
    let mut terms = [theirs, hex(next.term)];
    let mut found = etcd.terms();
    terms.sort();
    found.sort();
    assert_eq!(found, terms);
}

#[tokio::test]
async fn a_key_that_is_deleted_under_us_is_not_ours_any_more() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    etcd.delete(&format!("subnets/{A}"));
    assert!(matches!(store.renew(&held).await, Err(StoreError::Conflict(_))));
    assert!(etcd.terms().is_empty() && names(&store).await.is_empty());
}

#[tokio::test]
async fn a_lease_that_is_acquired_again_leaves_no_term_behind() {
    let mut etcd = RealEtcd::start();
    let store = etcd.open().await;
    for _ in 0..2 {
        let held =
            acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
        etcd.assert_only_term(&held);
        // Noticed by the watch, not by a renewal.
        etcd.delete(&format!("subnets/{}", held.lease.key));
    }
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    etcd.begin_outage();
    store.renew(&held).await.unwrap_err();
    etcd.end_outage();
    let held =
        acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
    etcd.assert_only_term(&held);
}

#[tokio::test]
async fn a_reservation_is_not_touched_by_start_renewal_and_restart() {
    let etcd = RealEtcd::start();
    etcd.put(&format!("subnets/{A}"), &value(ME));
    let before = etcd.writes(A);
    for _ in 0..2 {
        let store = etcd.open().await;
        let held =
            acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
        assert_eq!((held.lease.key, held.term, held.expires), (key(A), 0, None));
        let held = store.renew(&held).await.unwrap();
        assert_eq!((held.term, held.expires), (0, None));
    }
    assert_eq!(etcd.writes(A), before, "it said already what it should");
    assert!(etcd.terms().is_empty());
}

#[tokio::test]
async fn a_reservation_that_says_otherwise_is_written_once_and_stays_one() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    etcd.put(&format!("subnets/{A}"), &format!(r#"{{"PublicIP":"{ME}"}}"#));
    let held =
        acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
    assert_eq!((held.lease.key, held.term, held.expires), (key(A), 0, None));
    assert!(etcd.writes(A).contains(r#""Version" : 2"#), "{}", etcd.writes(A));
    store.renew(&held).await.unwrap();
    acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
    assert!(etcd.writes(A).contains(r#""Version" : 2"#), "{}", etcd.writes(A));
    assert!(etcd.terms().is_empty());
    assert_eq!(listed(&store, A).await.lease.attrs, attrs(ME));
    let stale = listed(&store, A).await;
    etcd.put(&format!("subnets/{A}"), &value(OTHER));
    assert!(matches!(store.take_over(&stale, &attrs(ME)).await, Err(StoreError::Conflict(_))));
    assert!(matches!(store.renew(&held).await, Err(StoreError::Conflict(_))));
}

#[tokio::test]
async fn a_reservation_can_be_made_and_ended_under_a_running_agent() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    etcd.put(&format!("subnets/{A}"), &value(ME));
    let reserved = etcd.writes(A);
    let held = store.renew(&held).await.unwrap();
    assert_eq!((held.term, held.expires), (0, None));
    assert!(etcd.terms().is_empty());
    assert_eq!(etcd.writes(A), reserved);
    // How flannel's documentation ends one.
    let theirs = etcd.put_for(300, &format!("subnets/{A}"), &value(ME));
    let held = store.renew(&held).await.unwrap();
    assert!(held.expires.is_some());
    etcd.etcdctl(&["lease", "revoke", &theirs]);
    etcd.assert_only_term(&held);
    store.renew(&held).await.unwrap();
}

#[tokio::test]
async fn a_term_that_an_operator_made_is_left_to_the_operator() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    let theirs = etcd.put_for(1000, &format!("subnets/{A}"), &value(ME));
    let held =
        acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
    assert_eq!(held.lease.key, key(A));
    let mut terms = [theirs, hex(held.term)];
    let mut found = etcd.terms();
    terms.sort();
    found.sort();
    assert_eq!(found, terms, "it may be wanted for something else");
    let other = store.exchange(&listed(&store, A).await, key("10.42.9.0-24"), &attrs(ME)).await.unwrap();
    let terms = etcd.terms();
    assert!(!terms.contains(&hex(held.term)) && terms.contains(&hex(other.term)), "{terms:?}");
}

#[tokio::test]
async fn no_orphans_are_left() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    let mut held = store.create(key(A), &attrs(ME)).await.unwrap();
    for _ in 0..5 {
        held = store.take_over(&listed(&store, A).await, &attrs(ME)).await.unwrap();
        held = store.renew(&held).await.unwrap();
        store.create(key(A), &attrs(OTHER)).await.unwrap_err();
    }
    assert_eq!(etcd.terms(), [hex(held.term)]);
    let stale = listed(&store, A).await;
    etcd.put(&format!("subnets/{A}"), &value(OTHER));
    store.take_over(&stale, &attrs(ME)).await.unwrap_err();
    store.renew(&held).await.unwrap_err();
    assert!(etcd.terms().is_empty(), "a term that has lost its key is ended");
    let theirs = listed(&store, A).await;
    let held = store.exchange(&theirs, key("10.42.9.0-24"), &attrs(ME)).await.unwrap();
    assert_eq!(etcd.terms(), [hex(held.term)]);
}

#[tokio::test]
async fn a_term_that_holds_other_keys_stays() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    let term = hex(held.term);
    etcd.etcdctl(&["put", "--lease", &term, "/somebody/elses", "value"]);
    store.take_over(&listed(&store, A).await, &attrs(ME)).await.unwrap();
    assert_eq!(etcd.server.get("/somebody/elses").unwrap().as_deref(), Some("value"));
}

#[tokio::test]
async fn a_lease_whose_term_has_ended_is_written_again_unless_it_is_taken() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    etcd.etcdctl(&["lease", "revoke", &hex(held.term)]);
    let again = store.renew(&held).await.unwrap();
    assert_ne!(again.term, held.term);
    assert_eq!(names(&store).await, [A]);
    etcd.etcdctl(&["lease", "revoke", &hex(again.term)]);
    etcd.put(&format!("subnets/{A}"), &value(OTHER));
    assert!(matches!(store.renew(&again).await, Err(StoreError::Conflict(_))));
    assert_eq!(listed(&store, A).await.lease.attrs, attrs(OTHER));
    assert!(etcd.terms().is_empty());
}
