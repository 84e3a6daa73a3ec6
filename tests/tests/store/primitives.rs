//! Reading, and writing only over what was read.

use std::time::{Duration, SystemTime};

use ovl_agent::store::{Held, LEASE_TTL, Registry, Store as _, StoreError};

use crate::fixture::Fixture;
use crate::values::{ME, OTHER, attrs, key, listed, names, value};

const A: &str = "10.42.1.0-24";
const B: &str = "10.42.2.0-24";

fn assert_full_term(held: &Held) {
    let left = held.expires.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left > LEASE_TTL.saturating_sub(Duration::from_mins(2)) && left <= LEASE_TTL, "{left:?}");
}

fn assert_conflict<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
    let Err(StoreError::Conflict(item)) = result else { panic!("a conflict, not {result:?}") };
    assert!(item.contains(A), "{item}");
}

pub(crate) async fn the_config_is_none_then_what_was_written_last<F: Fixture>(fixture: &mut F) {
    let store = fixture.open().await;
    assert_eq!(store.network_config().await.unwrap(), None);
    for config in [r#"{"Network":"10.42.0.0/16"}"#, "not checked here"] {
        fixture.put("config", config);
        assert_eq!(store.network_config().await.unwrap().as_deref(), Some(config));
    }
    fixture.delete("config");
    assert_eq!(store.network_config().await.unwrap(), None);
}

pub(crate) async fn a_lease_is_created_once<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    let held = one.create(key(A), &attrs(ME)).await.unwrap();
    assert_eq!((held.lease.key, &held.lease.attrs), (key(A), &attrs(ME)));
    assert_full_term(&held);
    assert_conflict(&two.create(key(A), &attrs(OTHER)).await);
    assert_conflict(&one.create(key(A), &attrs(ME)).await);
    assert_eq!(listed(&two, A).await.lease.attrs, attrs(ME), "the loser has changed nothing");
}

pub(crate) async fn no_two_leases_have_addresses_in_common<F: Fixture<Store: Registry>>(fixture: &mut F) {
    const DUAL: &str = "10.42.1.0-24&fd42:0:0:1::-64";
    let store = fixture.open().await;
    store.create(key(DUAL), &attrs(ME)).await.unwrap();
    for other in [
        "10.42.1.0-24&fd42:0:0:2::-64",
        "10.42.2.0-24&fd42:0:0:1::-64",
        A,
        "10.42.1.128-25",
        "fd42:0:0:1::-64",
    ] {
        let refused = store.create(key(other), &attrs(OTHER)).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{other}: {refused:?}");
    }
    assert_eq!(names(&store).await, [DUAL]);
    store.create(key("10.42.2.0-24&fd42:0:0:2::-64"), &attrs(OTHER)).await.unwrap();
}

pub(crate) async fn what_was_created_is_listed<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    assert!(names(&store).await.is_empty());
    fixture.put(&format!("subnets/{B}"), &value(OTHER));
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    fixture.put("config", "{}");
    assert_eq!(names(&store).await, [A, B], "leases and nothing else");
    let mine = listed(&store, A).await;
    assert_eq!((mine.lease.attrs, mine.revision, mine.term), (attrs(ME), held.revision, held.term));
    assert_eq!(listed(&store, B).await.lease.attrs, attrs(OTHER));
}

pub(crate) async fn a_take_over_replaces_what_was_listed<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    store.create(key(A), &attrs(OTHER)).await.unwrap();
    let held = store.take_over(&listed(&store, A).await, &attrs(ME)).await.unwrap();
    assert_full_term(&held);
    let now = listed(&store, A).await;
    assert_eq!((now.lease.attrs, now.revision, now.term), (attrs(ME), held.revision, held.term));
    store.renew(&held).await.unwrap();
}

pub(crate) async fn a_take_over_of_what_has_changed_is_a_conflict<F: Fixture<Store: Registry>>(
    fixture: &mut F,
) {
    let store = fixture.open().await;
    store.create(key(A), &attrs(ME)).await.unwrap();
    let stale = listed(&store, A).await;
    // The same value again is a change too: somebody renewed it.
    fixture.put(&format!("subnets/{A}"), &value(ME));
    assert_conflict(&store.take_over(&stale, &attrs(ME)).await);
    fixture.delete(&format!("subnets/{A}"));
    assert_conflict(&store.take_over(&stale, &attrs(ME)).await);
    assert!(names(&store).await.is_empty());
}

pub(crate) async fn a_renewal_keeps_the_lease<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    let mut held = store.create(key(A), &attrs(ME)).await.unwrap();
    for _ in 0..3 {
        let renewed = store.renew(&held).await.unwrap();
        assert_eq!(renewed.lease, held.lease);
        assert_full_term(&renewed);
        held = renewed;
    }
    let now = listed(&store, A).await;
    assert_eq!((now.lease, now.revision), (held.lease, held.revision));
}

pub(crate) async fn a_renewal_after_somebody_else_wrote_is_a_conflict<F: Fixture<Store: Registry>>(
    fixture: &mut F,
) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    let held = one.create(key(A), &attrs(ME)).await.unwrap();
    two.take_over(&listed(&two, A).await, &attrs(OTHER)).await.unwrap();
    assert_conflict(&one.renew(&held).await);
    assert_eq!(listed(&one, A).await.lease.attrs, attrs(OTHER), "the new owner stays");
    fixture.delete(&format!("subnets/{A}"));
    fixture.put(&format!("subnets/{A}"), &value(OTHER));
    assert_conflict(&one.renew(&held).await);
    assert_eq!(listed(&one, A).await.lease.attrs, attrs(OTHER), "flannel stays");
}

pub(crate) async fn a_lease_is_exchanged_in_one_step<F: Fixture<Store: Registry>>(fixture: &mut F) {
    const DUAL: &str = "10.42.1.0-24&fd42:0:0:1::-64";
    let store = fixture.open().await;
    store.create(key(A), &attrs(ME)).await.unwrap();
    let stale = listed(&store, A).await;
    store.take_over(&stale, &attrs(ME)).await.unwrap();
    assert_conflict(&store.exchange(&stale, key(DUAL), &attrs(ME)).await);
    let fresh = listed(&store, A).await;
    let held = store.exchange(&fresh, key(DUAL), &attrs(ME)).await.unwrap();
    assert_full_term(&held);
    assert_eq!(names(&store).await, [DUAL]);
    store.renew(&held).await.unwrap();
    assert_conflict(&store.exchange(&fresh, key(DUAL), &attrs(ME)).await);

    store.create(key(B), &attrs(OTHER)).await.unwrap();
    let mine = listed(&store, DUAL).await;
    let taken = store.exchange(&mine, key("10.42.2.0-24&fd42:0:0:1::-64"), &attrs(ME)).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    assert_eq!(names(&store).await, [DUAL, B], "nothing was given up");
}

pub(crate) async fn garbage_is_rejected_by_name<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let store = fixture.open().await;
    store.create(key(A), &attrs(ME)).await.unwrap();
    fixture.put(&format!("subnets/{B}"), "{not json");
    fixture.put("subnets/10.42.3.0-24", r#"{"PublicIP":"nowhere"}"#);
    fixture.put("subnets/nonsense", &value(OTHER));
    fixture.put("subnets/10.42.4.1-24", &value(OTHER));
    let (leases, mut rejected) = store.list().await.unwrap();
    assert_eq!(leases.iter().map(|listed| listed.lease.key).collect::<Vec<_>>(), [key(A)]);
    rejected.sort_by(|a, b| a.item.cmp(&b.item));
    let rejected: Vec<_> =
        rejected.iter().map(|item| (item.item.rsplit('/').next().unwrap(), item.key)).collect();
    let expected = [
        (B, Some(key(B))),
        ("10.42.3.0-24", Some(key("10.42.3.0-24"))),
        ("10.42.4.1-24", None),
        ("nonsense", None),
    ];
    assert_eq!(rejected, expected);
}

pub(crate) async fn an_outage_is_no_empty_store<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let (store, other) = (fixture.open().await, fixture.open().await);
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    fixture.begin_outage();
    assert!(other.list().await.is_err(), "an empty list would be a lie");
    assert!(other.network_config().await.is_err(), "so would no config");
    assert!(other.create(key(B), &attrs(ME)).await.is_err());
    fixture.end_outage();
    store.renew(&held).await.unwrap();
}
