//! Hearing of changes.

use ovl_agent::store::{Store as _, Update};
use tokio::sync::mpsc;

use crate::fixture::{Fixture, soon};
use crate::values::{ME, OTHER, value};
use crate::watcher::watching;

const A: &str = "10.42.1.0-24";
const B: &str = "10.42.2.0-24";

pub(crate) async fn a_snapshot_comes_first_then_changes<F: Fixture>(fixture: &mut F) {
    let store = fixture.open().await;
    fixture.put(&format!("subnets/{A}"), &value(ME));
    fixture.put("config", "one");
    watching(&store, async |watcher| {
        watcher.first().await;
        assert_eq!(watcher.names(), [A]);
        fixture.put(&format!("subnets/{B}"), &value(OTHER));
        watcher.until("the second lease", |now| now.names() == [A, B]).await;
        fixture.put(&format!("subnets/{A}"), &value(OTHER));
        watcher.until("its new holder", |now| now.leases[A] == OTHER.to_string()).await;
        assert!(watcher.removed.is_empty());
        fixture.delete(&format!("subnets/{B}"));
        watcher.until("the removal", |now| now.names() == [A]).await;
        assert_eq!(watcher.removed, [B]);
        assert_eq!(watcher.config_changes, 0, "nobody has touched it");
        fixture.put("config", "two");
        watcher.until("the config", |now| now.config_changes > 0).await;
        assert!(watcher.outages.is_empty(), "{watcher:?}");
    })
    .await;
}

pub(crate) async fn a_config_written_before_the_first_snapshot_is_noticed<F: Fixture>(fixture: &mut F) {
    let store = fixture.open().await;
    fixture.put("config", "one");
    assert_eq!(store.network_config().await.unwrap().as_deref(), Some("one"));
    // An agent takes its lease now, which may take a while.
    fixture.put("config", "two");
    let (send, mut updates) = mpsc::channel(1);
    let news = async { while !matches!(updates.recv().await.unwrap(), Update::ConfigChanged) {} };
    tokio::select! {
        () = store.watch(send) => panic!("the watch ended"),
        () = soon("the config", news) => {}
    }
}

pub(crate) async fn garbage_disturbs_nothing_else<F: Fixture>(fixture: &mut F) {
    let store = fixture.open().await;
    fixture.put("subnets/nonsense", "{}");
    fixture.put(&format!("subnets/{A}"), &value(ME));
    fixture.put(&format!("subnets/{B}"), &value(OTHER));
    watching(&store, async |watcher| {
        watcher.first().await;
        assert_eq!(watcher.names(), [A, B]);
        assert_eq!(Vec::from_iter(&watcher.rejected), ["nonsense"]);
        fixture.put("subnets/10.42.9.0-24", "{not json");
        fixture.put(&format!("subnets/{B}"), "what was good can turn bad");
        watcher.until("both to be rejected", |now| now.rejected.len() == 3).await;
        assert!(watcher.removed.is_empty() && watcher.leases.contains_key(A), "{watcher:?}");
        fixture.put(&format!("subnets/{B}"), &value(ME));
        watcher
            .until("a good value again", |now| {
                now.leases.get(B).is_some_and(|holder| *holder == ME.to_string())
            })
            .await;
        fixture.delete("subnets/nonsense");
        watcher.until("the garbage to be forgotten", |now| !now.rejected.contains("nonsense")).await;
        assert!(watcher.removed.is_empty() && watcher.outages.is_empty(), "{watcher:?}");
    })
    .await;
}

pub(crate) async fn an_outage_removes_nothing<F: Fixture>(fixture: &mut F) {
    let store = fixture.open().await;
    fixture.put("config", "one");
    fixture.put(&format!("subnets/{A}"), &value(ME));
    fixture.put(&format!("subnets/{B}"), &value(OTHER));
    watching(&store, async |watcher| {
        watcher.first().await;
        let before = watcher.leases.clone();
        fixture.begin_outage();
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        watcher.stays_quiet().await;
        fixture.end_outage();
        watcher.until("a new snapshot", |now| now.snapshots == 2).await;
        assert_eq!(watcher.leases, before);
        assert!(watcher.removed.is_empty(), "{watcher:?}");
        assert_eq!(watcher.outages.len(), 1, "told once: {watcher:?}");
        assert!(!watcher.outages[0].contains('\n'), "{watcher:?}");
        assert_eq!(watcher.config_changes, 0);
        fixture.put("subnets/10.42.3.0-24", &value(OTHER));
        watcher.until("news after the outage", |now| now.leases.len() == 3).await;
        fixture.put("config", "two");
        watcher.until("the config", |now| now.config_changes > 0).await;
    })
    .await;
}

pub(crate) async fn it_ends_when_nobody_listens<F: Fixture>(fixture: &mut F) {
    let store = fixture.open().await;
    let (send, mut updates) = mpsc::channel(1);
    let hang_up = async {
        updates.recv().await.unwrap();
        drop(updates);
    };
    soon("the watch to end", async { tokio::join!(store.watch(send), hang_up) }).await;
}
