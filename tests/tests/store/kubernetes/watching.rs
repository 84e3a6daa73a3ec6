//! Hearing of other Nodes, whatever the API server does meanwhile.

use std::time::Duration;

use ovl_agent::store::kubernetes::KubernetesStore;
use ovl_agent::store::{Store as _, Update};
use serde_json::json;
use tokio::sync::mpsc;

use super::leases::{take, vxlan};
use super::{Kubernetes, ME};
use crate::fixture::{Fixture as _, soon};
use crate::proxy::Proxy;
use crate::values::{OTHER, value};
use crate::watcher::{Watcher, watching};

const A: &str = "10.42.1.0-24";
const B: &str = "10.42.2.0-24";
const C: &str = "10.42.3.0-24";
const CONFIG: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#;

fn put(cluster: &Kubernetes, key: &str) {
    cluster.put(&format!("subnets/{key}"), &value(OTHER));
}

async fn until_keys(watcher: &mut Watcher, what: &str, keys: &[&str]) {
    watcher.until(what, |now| now.names() == keys).await;
}

/// Waits until so many watches are open; nothing of the agent's is waited for.
pub(super) async fn until_watches(cluster: &Kubernetes, count: usize) {
    until_server("the watches", || cluster.server.watches() == count).await;
}

/// Waits for what the server has done, or was asked.
async fn until_server(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    soon(what, met).await;
}

/// Node added, changed in one family, without an annotation any more, deleted; those that are no leases don't count.
#[tokio::test]
async fn every_change_of_a_lease_is_told_and_no_other() {
    let cluster = Kubernetes::start();
    let store = cluster.open().await;
    let (send, mut updates) = mpsc::channel(16);
    let script = async {
        let mut next = async || soon("an update", updates.recv()).await.unwrap();
        assert!(matches!(next().await, Update::Snapshot { .. }));
        assert!(matches!(next().await, Update::ConfigChanged));
        let server = &cluster.server;
        server.add_node("plain", &["10.42.9.0/24"]);
        server.add_node("n2", &["10.42.2.0/24", "fd42:0:0:2::/64"]);
        let annotations = [
            ("kube-subnet-manager", Some("true")),
            ("backend-type", Some("vxlan")),
            ("public-ip", Some("192.0.2.12")),
            ("public-ipv6", Some("2001:db8::12")),
        ];
        server.annotate("n2", &annotations);
        let Update::Put(lease) = next().await else { panic!("a lease") };
        assert_eq!(lease.key.to_string(), "10.42.2.0-24&fd42:0:0:2::-64");
        // What kubelet writes every few minutes is nobody's news.
        server.set_condition("n2", "Ready", "Unknown");
        for (suffix, value) in [
            ("public-ipv6", "2001:db8::13"),
            ("public-ip", "192.0.2.13"),
            ("backend-v6-data", r#"{"VNI":1,"VtepMAC":"86:0f:11:3b:72:04"}"#),
        ] {
            server.annotate("n2", &[(suffix, Some(value))]);
            let Update::Put(lease) = next().await else { panic!("a change of one family") };
            assert!(format!("{lease:?}").contains(value.split('"').nth(5).unwrap_or(value)), "{lease:?}");
        }
        // A family of its own is enough.
        server.annotate("n2", &[("public-ip", None)]);
        let Update::Put(lease) = next().await else { panic!("one family") };
        assert!(lease.attrs.public_ip.is_unspecified() && lease.attrs.public_ipv6.is_some());
        server.annotate("n2", &[("kube-subnet-manager", None)]);
        assert!(matches!(next().await, Update::Delete(key) if key == lease.key));
        server.annotate("n2", &[("kube-subnet-manager", Some("true"))]);
        assert!(matches!(next().await, Update::Put(_)));
        server.delete_node("n2");
        assert!(matches!(next().await, Update::Delete(key) if key == lease.key));
    };
    tokio::select! {
        () = store.watch(send) => panic!("the watch ended"),
        () = script => {}
    }
}

#[tokio::test]
async fn another_pod_cidr_is_another_lease_without_a_moment_between() {
    let cluster = Kubernetes::start();
    put(&cluster, A);
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        let mut node = super::node_of(B, &value(OTHER));
        node["metadata"]["name"] = json!(A);
        cluster.server.put_node(A, &node);
        until_keys(watcher, "the other subnet", &[B]).await;
        assert_eq!((watcher.removed.as_slice(), watcher.snapshots), (&[A.to_owned()][..], 2));
    })
    .await;
}

/// Ended in its time, broken in the middle of an event: it goes on where it was, and nothing is listed again.
#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let cluster = Kubernetes::start();
    put(&cluster, A);
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        until_watches(&cluster, 1).await;
        cluster.server.end_watches();
        put(&cluster, B);
        until_keys(watcher, "what came meanwhile", &[A, B]).await;
        until_watches(&cluster, 1).await;
        cluster.server.break_watches();
        cluster.delete(&format!("subnets/{A}"));
        until_keys(watcher, "what went meanwhile", &[B]).await;
        let server = &cluster.server;
        assert_eq!((server.count("list nodes"), watcher.snapshots, watcher.outages.len()), (1, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_forgotten_version_is_a_new_list_and_no_outage() {
    let cluster = Kubernetes::start();
    put(&cluster, A);
    put(&cluster, B);
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        until_watches(&cluster, 1).await;
        cluster.server.end_watches();
        cluster.delete(&format!("subnets/{A}"));
        put(&cluster, C);
        cluster.server.expire_watches();
        until_keys(watcher, "the new list", &[B, C]).await;
        assert_eq!((watcher.removed.as_slice(), watcher.outages.len()), (&[A.to_owned()][..], 0));
        // And by its status, as some servers say it.
        until_watches(&cluster, 1).await;
        cluster.server.refuse("watch nodes", 410);
        cluster.server.end_watches();
        put(&cluster, A);
        until_keys(watcher, "another list", &[A, B, C]).await;
        cluster.server.refuse("watch nodes", 0);
        cluster.delete(&format!("subnets/{C}"));
        until_keys(watcher, "the watch", &[A, B]).await;
        assert!(watcher.outages.is_empty(), "{watcher:?}");
    })
    .await;
}

/// In a quiet cluster, only bookmarks say how far it has come; without them, a compaction would cost a list.
#[tokio::test]
async fn a_bookmark_keeps_a_quiet_watch_young() {
    let cluster = Kubernetes::start();
    let mut options = cluster.options();
    options.sets_condition = false;
    cluster.server.add_node(ME, &["10.42.1.0/24"]);
    // Of its own Node alone, so that others' events are none of its.
    let store = KubernetesStore::open(options).await.unwrap();
    let alloc = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"alloc"}}"#;
    take(&store, alloc, &vxlan(false)).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        until_watches(&cluster, 1).await;
        put(&cluster, B);
        let server = &cluster.server;
        server.bookmark();
        until_server("the bookmark", || server.bookmarks_sent() == 1).await;
        // It comes before the end on the same stream.
        server.forget();
        server.end_watches();
        until_server("a second watch", || server.count("watch nodes") == 2).await;
        server.annotate(ME, &[("public-ip", Some("192.0.2.99"))]);
        watcher.until("news of its own", |now| now.leases.get(A).is_some_and(|ip| ip == "192.0.2.99")).await;
        assert_eq!((server.count("list nodes"), watcher.names()), (1, vec![A]), "{watcher:?}");
    })
    .await;
}

#[tokio::test]
async fn a_node_that_was_deleted_while_nobody_watched_is_gone() {
    let mut cluster = Kubernetes::start();
    put(&cluster, A);
    put(&cluster, B);
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        cluster.begin_outage();
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        cluster.delete(&format!("subnets/{A}"));
        cluster.server.forget();
        cluster.end_outage();
        until_keys(watcher, "the one that is left", &[B]).await;
        assert_eq!(watcher.removed, [A]);
    })
    .await;
}

/// Ten seconds without a server: the questions become fewer, and afterwards nothing is listed again.
#[tokio::test]
async fn a_server_that_is_gone_is_spared() {
    let mut cluster = Kubernetes::start();
    put(&cluster, A);
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        until_watches(&cluster, 1).await;
        cluster.server.refuse("watch nodes", 503);
        cluster.server.break_watches();
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        let outage = Duration::from_secs(10);
        let quiet = tokio::time::timeout(outage, watcher.until("anything", |now| now.snapshots > 1)).await;
        assert!(quiet.is_err(), "it is still gone");
        let tries = cluster.server.count("watch nodes");
        assert!((2..=8).contains(&tries), "{tries} questions in {outage:?}");
        put(&cluster, B);
        cluster.server.refuse("watch nodes", 0);
        until_keys(watcher, "what came meanwhile", &[A, B]).await;
        assert_eq!(cluster.server.count("list nodes"), 1);
        assert!(watcher.outages[0].contains("503"), "{watcher:?}");
        cluster.begin_outage();
        watcher.until("another outage", |now| now.outages.len() > 1).await;
        assert!(watcher.removed.is_empty());
    })
    .await;
}

#[tokio::test]
async fn half_a_node_is_named_and_what_was_known_of_it_stays() {
    let cluster = Kubernetes::start();
    put(&cluster, A);
    put(&cluster, B);
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        let mut odd = super::node_of(A, &value(OTHER));
        odd["spec"]["podCIDRs"] = json!([7]);
        cluster.server.put_node(A, &odd);
        watcher.until("the garbage", |now| now.rejected.contains(A)).await;
        until_watches(&cluster, 1).await;
        cluster.server.expire_watches();
        watcher.until("a new list", |now| now.snapshots == 2).await;
        assert!(watcher.rejected.contains(A) && watcher.removed.is_empty(), "{watcher:?}");
        put(&cluster, A);
        watcher.until("sense", |now| now.rejected.is_empty()).await;
        until_keys(watcher, "both", &[A, B]).await;
        assert!(watcher.removed.is_empty());
    })
    .await;
}

/// The lease stands, but the condition does not: the agent hears of its lease, and its renewal puts it right.
#[tokio::test]
async fn our_own_node_is_watched_for_more_than_its_lease() {
    let cluster = Kubernetes::start();
    cluster.server.add_node(ME, &["10.42.1.0/24"]);
    let store = cluster.open().await;
    let held = take(&store, CONFIG, &vxlan(false)).await.unwrap();
    store.report(&ovl_agent::store::DataPlane::Works).await.unwrap();
    let (send, mut updates) = mpsc::channel(16);
    let script = async {
        let mut next = async || soon("an update", updates.recv()).await.unwrap();
        assert!(matches!(next().await, Update::Snapshot { .. }));
        assert!(matches!(next().await, Update::ConfigChanged));
        let server = &cluster.server;
        server.set_condition(ME, "NetworkUnavailable", "True");
        assert!(matches!(next().await, Update::Put(lease) if lease == held.lease));
        store.renew(&held).await.unwrap();
        assert_eq!(server.condition(ME, "NetworkUnavailable").unwrap().0, "False");
        server.annotate(ME, &[("public-ip-overwrite", Some("203.0.113.9"))]);
        assert!(matches!(next().await, Update::Put(lease) if lease == held.lease));
        let held = store.renew(&held).await.unwrap();
        assert!(matches!(next().await, Update::Put(lease) if lease == held.lease));
    };
    tokio::select! {
        () = store.watch(send) => panic!("the watch ended"),
        () = script => {}
    }
}

/// Kubelet mounts a ConfigMap so that `..data` is a link to the folder of the moment.
#[tokio::test]
async fn a_config_map_that_is_swapped_is_read_again() {
    let cluster = Kubernetes::start();
    let folder = cluster.folder.path();
    for (version, text) in [("..1", "one"), ("..2", "two")] {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("net-conf.json"), text).unwrap();
    }
    let turn = |version: &str| {
        std::os::unix::fs::symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    turn("..1");
    std::os::unix::fs::symlink("..data/net-conf.json", cluster.config()).unwrap();
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        turn("..2");
        watcher.until("the new config", |now| now.config_changes == 1).await;
        assert_eq!(store.network_config().await.unwrap().as_deref(), Some("two"));
        std::fs::remove_file(cluster.config()).unwrap();
        watcher.until("that it is gone", |now| now.config_changes == 2).await;
        assert_eq!(store.network_config().await.unwrap(), None);
    })
    .await;
}

/// A link that brings a page in many pieces, none of which ends with a line.
#[tokio::test]
async fn a_slow_link_is_only_slow() {
    let cluster = Kubernetes::start();
    for number in 0..30 {
        cluster.server.add_node(&format!("plain-{number}"), &["10.42.9.0/24"]);
    }
    put(&cluster, A);
    let slow = Proxy::slowly_before(&cluster.server.url(), 30_000);
    let mut options = cluster.options();
    options.api_url = slow.url().to_owned();
    let store = KubernetesStore::open(options).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        until_watches(&cluster, 1).await;
        for number in 0..10 {
            cluster.server.set_condition(&format!("plain-{number}"), "Ready", "Unknown");
        }
        put(&cluster, B);
        until_keys(watcher, "what came after much that does not matter", &[A, B]).await;
        assert_eq!((watcher.snapshots, watcher.outages.len()), (1, 0));
    })
    .await;
}

/// A server that accepts questions and says nothing is as good as gone.
#[tokio::test]
async fn a_server_that_hangs_is_an_outage() {
    let cluster = Kubernetes::start();
    put(&cluster, A);
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        until_watches(&cluster, 1).await;
        cluster.server.hang(true);
        cluster.server.break_watches();
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        assert!(watcher.outages[0].contains("does not answer within 30 s"), "{watcher:?}");
        cluster.server.hang(false);
        put(&cluster, B);
        until_keys(watcher, "what came meanwhile", &[A, B]).await;
        assert!(watcher.removed.is_empty());
    })
    .await;
}
