//! Watches that end, and what etcd has forgotten by then.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use ovl_agent::store::etcd::EtcdStore;
use ovl_agent::store::{Registry as _, Store as _, Update};
use ovl_tests::command::Cmd;
use tokio::sync::mpsc;

use crate::etcd::{PREFIX, RealEtcd, options};
use crate::fixture::{Fixture as _, soon};
use crate::proxy::Proxy;
use crate::values::{ME, OTHER, attrs, key, value};
use crate::watcher::watching;

const A: &str = "10.42.1.0-24";
const B: &str = "10.42.2.0-24";
const C: &str = "10.42.3.0-24";

impl RealEtcd {
    /// Makes etcd forget all but what is there now.
    fn compact(&self) {
        let status = self.etcdctl(&["endpoint", "status", "-w", "fields"]);
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap();
        self.etcdctl(&["compact", revision]);
    }

    /// How often etcd has answered requests of this kind.
    fn answered(&self, method: &str) -> u64 {
        let address = self.server.url().strip_prefix("http://").unwrap().to_owned();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let is_it = |line: &&str| {
            line.starts_with("grpc_server_handled_total")
                && line.contains(&format!("grpc_method=\"{method}\""))
        };
        let counts = text.lines().filter(is_it).map(|line| line.rsplit(' ').next().unwrap());
        counts.map(|count| count.parse::<u64>().unwrap()).sum()
    }
}

fn snapshot(update: Option<Update>) -> Vec<String> {
    let Some(Update::Snapshot { leases, .. }) = update else { panic!("a snapshot, not {update:?}") };
    leases.iter().map(|lease| lease.key.to_string()).collect()
}

#[tokio::test]
async fn what_was_compacted_while_we_were_cut_off_is_not_missed() {
    let etcd = RealEtcd::start();
    let proxy = Proxy::before(etcd.server.url());
    let store = EtcdStore::connect(&options(&[proxy.url()])).await.unwrap();
    etcd.put(&format!("subnets/{A}"), &value(ME));
    etcd.put(&format!("subnets/{B}"), &value(ME));
    let held = store.create(key("10.42.9.0-24"), &attrs(ME)).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        proxy.cut();
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        etcd.delete(&format!("subnets/{A}"));
        etcd.put(&format!("subnets/{B}"), &value(OTHER));
        etcd.put(&format!("subnets/{C}"), &value(OTHER));
        etcd.put("config", "changed");
        // As after an outage that outlasted our lease.
        etcd.etcdctl(&["lease", "revoke", &format!("{:016x}", held.term)]);
        etcd.compact();
        watcher.stays_quiet().await;
        proxy.mend();
        watcher.until("a new snapshot", |now| now.snapshots == 2).await;
        assert_eq!((watcher.names(), watcher.leases[B].clone()), (vec![B, C], OTHER.to_string()));
        assert_eq!(watcher.removed, [A, "10.42.9.0-24"]);
        watcher.until("the config", |now| now.config_changes == 1).await;
        store.renew(&held).await.unwrap();
        watcher.until("our own lease", |now| now.leases.contains_key("10.42.9.0-24")).await;
        assert_eq!(watcher.outages.len(), 1, "{watcher:?}");
    })
    .await;
}

#[tokio::test]
async fn a_compaction_between_the_listing_and_the_watch_is_no_outage() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    etcd.put(&format!("subnets/{A}"), &value(ME));
    let (send, mut updates) = mpsc::channel(1);
    // The snapshot has to wait behind this, after all leases were listed and before they are watched.
    send.send(Update::ConfigChanged).await.unwrap();
    let script = async {
        for _ in 0..3 {
            store.list().await.unwrap();
        }
        etcd.put(&format!("subnets/{B}"), &value(ME));
        etcd.delete(&format!("subnets/{A}"));
        etcd.compact();
        updates.recv().await.unwrap();
        assert_eq!(snapshot(updates.recv().await), [A], "from before");
        assert!(matches!(updates.recv().await, Some(Update::ConfigChanged)));
        assert_eq!(snapshot(soon("the second snapshot", updates.recv()).await), [B]);
        etcd.put(&format!("subnets/{C}"), &value(ME));
        let update = soon("a change", updates.recv()).await;
        assert!(matches!(&update, Some(Update::Put(lease)) if lease.key == key(C)), "{update:?}");
    };
    tokio::select! {
        () = store.watch(send) => panic!("the watch ended"),
        () = script => {}
    }
}

#[tokio::test]
async fn a_compaction_under_a_watch_is_not_noticed() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        // The config's watch is another one, which might otherwise begin only after the first compaction.
        etcd.put("config", "{}");
        watcher.until("the config", |now| now.config_changes == 1).await;
        for name in [A, B, C] {
            etcd.put(&format!("subnets/{name}"), &value(ME));
            // Once it has brought this, it is a watch of what comes.
            watcher.until("the change", |now| now.leases.contains_key(name)).await;
            etcd.compact();
        }
        assert_eq!((watcher.snapshots, watcher.outages.len()), (1, 0), "{watcher:?}");
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_breaks_for_a_moment_is_no_outage() {
    let etcd = RealEtcd::start();
    let proxy = Proxy::before(etcd.server.url());
    let store = EtcdStore::connect(&options(&[proxy.url()])).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        for round in 2..5 {
            proxy.cut();
            proxy.mend();
            watcher.until("a new snapshot", |now| now.snapshots == round).await;
        }
        assert!(watcher.outages.is_empty(), "{watcher:?}");
    })
    .await;
}

#[tokio::test]
async fn garbage_that_comes_and_goes_is_not_listed_for_at_full_speed() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        let before = etcd.answered("Range");
        let (item, etcdctl) = (format!("{PREFIX}/subnets/nonsense"), etcd.server.etcdctl());
        let churn = format!("for i in $(seq 40); do {etcdctl} put {item} x; {etcdctl} del {item}; done");
        // Beside the watch, not before it.
        let churn = std::thread::spawn(move || {
            Cmd::host("sh").args(["-c", &churn]).env("ETCDCTL_API", "3").run().unwrap();
        });
        watcher.until("a new snapshot", |now| now.snapshots > 1).await;
        let last = tokio::task::spawn_blocking(|| churn.join().unwrap());
        tokio::select! {
            joined = last => joined.unwrap(),
            () = watcher.until("nothing", |_| false) => {}
        }
        etcd.put(&format!("subnets/{A}"), &value(ME));
        watcher.until("what came last", |now| now.names() == [A] && now.rejected.is_empty()).await;
        assert!(watcher.removed.is_empty() && watcher.outages.is_empty(), "{watcher:?}");
        let asked = etcd.answered("Range") - before;
        assert!(asked < 60, "asked {asked} times, where two for each change are 80");
    })
    .await;
}

/// Keys and values of so many leases.
fn many(count: usize) -> Vec<(String, String)> {
    let subnet = |number: usize| format!("10.{}.{}.0-24", 64 + number / 256, number % 256);
    (0..count).map(|number| (format!("{PREFIX}/subnets/{}", subnet(number)), value(OTHER))).collect()
}

#[tokio::test]
async fn a_listing_over_a_slow_link_takes_its_time() {
    let etcd = RealEtcd::start();
    let pairs = many(2500);
    etcd.server.put_all(&pairs).unwrap();
    let bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
    // Longer than other requests may take.
    let proxy = Proxy::slowly_before(etcd.server.url(), bytes / 70);
    let store = EtcdStore::connect(&options(&[proxy.url()])).await.unwrap();
    assert_eq!(store.list().await.unwrap().0.len(), 2500);
}

#[tokio::test]
async fn a_listing_does_not_ask_for_each_lease() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    etcd.server.put_all(&many(2500)).unwrap();
    let before = etcd.answered("Range");
    watching(&store, async |watcher| {
        watcher.first().await;
        assert_eq!(watcher.leases.len(), 2500);
        // The other one is for the config.
        assert_eq!(etcd.answered("Range") - before, 2);
        let (leases, _) = store.list().await.unwrap();
        assert!(leases.is_sorted_by_key(|listed| listed.lease.key) && leases.len() == 2500);
        assert_eq!(etcd.answered("LeaseTimeToLive"), 0);
    })
    .await;
}
