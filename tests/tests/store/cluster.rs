//! A cluster of three, members of which come and go.

use ovl_agent::store::etcd::EtcdStore;
use ovl_agent::store::{Registry as _, Store as _, StoreError};
use ovl_tests::etcd::Etcd;
use ovl_tests::wait::wait_for;
use tempfile::TempDir;

use crate::etcd::{PREFIX, options};
use crate::fixture::DEADLINE;
use crate::values::{ME, OTHER, attrs, key, names, value};
use crate::watcher::watching;

const A: &str = "10.42.1.0-24";
const B: &str = "10.42.2.0-24";
const C: &str = "10.42.3.0-24";

/// Also while the members choose another leader.
fn put(member: &Etcd, name: &str) {
    let put = || Ok(member.put(&format!("{PREFIX}/subnets/{name}"), &value(OTHER)).is_ok());
    wait_for("a leader", DEADLINE, put).unwrap();
}

#[tokio::test]
async fn members_may_go_one_by_one_but_not_most_of_them() {
    let data = TempDir::new().unwrap();
    let mut members = Etcd::local_cluster(data.path(), 3).unwrap();
    let urls: Vec<_> = members.iter().map(|member| member.url().to_owned()).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let store = EtcdStore::connect(&options(&urls)).await.unwrap();
    store.claim_identity(ME.into()).await.unwrap();
    let mut held = store.create(key(A), &attrs(ME)).await.unwrap();
    let store = &store;
    watching(store, async |watcher| {
        watcher.first().await;
        // A rolling restart; one of the three leads.
        for index in 0..3 {
            members[index].kill().unwrap();
            let name = format!("10.42.{}.0-24", 10 + index);
            put(&members[(index + 1) % 3], &name);
            watcher.until("a change", |now| now.leases.contains_key(&name)).await;
            held = store.renew(&held).await.unwrap();
            members[index].start_again().unwrap();
        }
        assert!(watcher.outages.is_empty() && watcher.removed.is_empty(), "{watcher:?}");
        let before = watcher.leases.clone();
        // Without most of them there is no leader, and the one that is left must not be believed.
        members[0].kill().unwrap();
        members[1].kill().unwrap();
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        let error = store.list().await.unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(urls[2])), "{error:?}");
        assert!(matches!(store.renew(&held).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.create(key(C), &attrs(ME)).await, Err(StoreError::Unavailable(_))));
        let snapshots = watcher.snapshots;
        members[0].start_again().unwrap();
        watcher.until("a new snapshot", |now| now.snapshots > snapshots).await;
        assert_eq!(watcher.leases, before);
        put(&members[2], B);
        watcher.until("a change", |now| now.leases.contains_key(B)).await;
        held = store.renew(&held).await.unwrap();
        assert!(watcher.removed.is_empty(), "{watcher:?}");
    })
    .await;
    assert!(names(store).await.contains(&A.to_owned()));
    let terms = members[2].etcdctl().words("lease list").run().unwrap();
    assert!(terms.contains("found 2 leases"), "the lease's and the claim's: {terms}");
}
