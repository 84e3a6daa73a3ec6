//! etcd as a store: the real one, looked at with `etcdctl`.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ovl_agent::store::etcd::{EtcdOptions, EtcdStore};
use ovl_agent::store::{Registry as _, Store as _, StoreError};
use ovl_tests::etcd::Etcd;
use tempfile::TempDir;

use crate::fixture::{DEADLINE, Fixture, soon};
use crate::proxy::Proxy;
use crate::values::{ME, OTHER, attrs, key, value};
use crate::watcher::watching;

crate::registry_conformance!(RealEtcd);

pub(crate) const PREFIX: &str = "/coreos.com/network";
const A: &str = "10.42.1.0-24";

/// Without certificates and password.
pub(crate) fn options(endpoints: &[&str]) -> EtcdOptions {
    EtcdOptions {
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        prefix: PREFIX.to_owned(),
        ..EtcdOptions::default()
    }
}

/// A server of its own.
pub(crate) struct RealEtcd {
    pub(crate) server: Etcd,
    _data: TempDir,
}

impl RealEtcd {
    pub(crate) fn etcdctl(&self, args: &[&str]) -> String {
        self.server.etcdctl().args(args).run().unwrap()
    }

    /// The etcd leases that exist, each as a hexadecimal number.
    pub(crate) fn terms(&self) -> Vec<String> {
        let text = self.etcdctl(&["lease", "list"]);
        text.lines().skip(1).map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.server.pid().unwrap().cast_signed());
        kill(pid, signal).unwrap();
    }
}

impl Fixture for RealEtcd {
    type Store = EtcdStore;

    fn start() -> Self {
        let data = TempDir::new().unwrap();
        let server =
            Etcd::local(data.path()).expect("a real etcd, of the package etcd-server, and etcd-client");
        Self { server, _data: data }
    }

    async fn open(&self) -> EtcdStore {
        EtcdStore::connect(&options(&[self.server.url()])).await.unwrap()
    }

    fn put(&self, item: &str, value: &str) {
        self.server.put(&format!("{PREFIX}/{item}"), value).unwrap();
    }

    fn delete(&self, item: &str) {
        self.server.delete(&format!("{PREFIX}/{item}")).unwrap();
    }

    fn begin_outage(&mut self) {
        self.server.kill().unwrap();
    }

    fn end_outage(&mut self) {
        self.server.start_again().unwrap();
    }

    fn address(&self) -> String {
        self.server.url().to_owned()
    }
}

#[tokio::test]
async fn keys_values_and_terms_are_flannels() {
    let etcd = RealEtcd::start();
    let held = etcd.open().await.create(key(A), &attrs(ME)).await.unwrap();
    assert_eq!(etcd.server.get(&format!("{PREFIX}/subnets/{A}")).unwrap(), Some(value(ME)));
    let term = format!("{:016x}", held.term);
    assert_eq!(etcd.terms(), [term.as_str()]);
    let state = etcd.etcdctl(&["lease", "timetolive", "--keys", &term]);
    assert!(state.contains("granted with TTL(86400s)") && state.contains(A), "{state}");
}

#[tokio::test]
async fn an_expired_lease_is_free_and_watchers_hear_of_it() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    let granted = etcd.etcdctl(&["lease", "grant", "2"]);
    let term = granted.split_whitespace().nth(1).unwrap();
    etcd.etcdctl(&["put", "--lease", term, &format!("{PREFIX}/subnets/{A}"), &value(OTHER)]);
    watching(&store, async |watcher| {
        watcher.first().await;
        watcher.until("the expiry", |now| now.removed == [A]).await;
    })
    .await;
    store.create(key(A), &attrs(ME)).await.unwrap();
}

#[tokio::test]
async fn a_claim_that_has_expired_is_made_again() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    store.claim_identity(ME.into()).await.unwrap();
    let claim = format!("{PREFIX}/ovl/agents/{ME}");
    assert!(etcd.server.get(&claim).unwrap().is_some());
    assert!(
        etcd.server.keys(&format!("{PREFIX}/subnets")).unwrap().is_empty(),
        "flannel would stumble over it"
    );
    etcd.etcdctl(&["lease", "revoke", &etcd.terms()[0]]);
    assert_eq!(etcd.server.get(&claim).unwrap(), None);
    let back = async {
        let mut ticker = tokio::time::interval(Duration::from_millis(100));
        while etcd.server.get(&claim).unwrap().is_none() {
            ticker.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, back).await.expect("the claim is made again");
    store.release().await;
    assert_eq!(etcd.server.get(&claim).unwrap(), None);
    assert!(etcd.terms().is_empty());
}

/// Only the answer to a claim is lost: at the start, and again after an expiry.
#[tokio::test]
async fn a_claim_of_our_own_is_not_taken_for_another_agents() {
    let etcd = RealEtcd::start();
    let proxy = Proxy::before(etcd.server.url());
    let store = EtcdStore::connect(&options(&[proxy.url()])).await.unwrap();
    let claim = format!("{PREFIX}/ovl/agents/{ME}");
    let field = |name: &str| -> Option<i64> {
        let fields = etcd.etcdctl(&["get", "-w", "fields", &claim]);
        let line =
            fields.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")).map(str::to_owned));
        line.map(|number| number.parse().unwrap())
    };
    let changed = async |before: Option<i64>| {
        let mut ticker = tokio::time::interval(Duration::from_millis(100));
        while field("ModRevision").is_none_or(|now| Some(now) == before) {
            ticker.tick().await;
        }
    };
    let written_in_vain = async || {
        soon("a claim whose answer is lost", changed(None)).await;
        proxy.cut();
        proxy.mend();
    };

    proxy.lose_answer_to("boot_id");
    let (error, ()) = tokio::join!(store.claim_identity(ME.into()), written_in_vain());
    assert!(matches!(error, Err(StoreError::Unavailable(_))), "{error:?}");
    store.claim_identity(ME.into()).await.unwrap();

    proxy.lose_answer_to("boot_id");
    etcd.etcdctl(&["lease", "revoke", &format!("{:016x}", field("Lease").unwrap())]);
    written_in_vain().await;
    let (created, written) = (field("CreateRevision"), field("ModRevision"));
    soon("the claim in a new term", changed(written)).await;
    assert_eq!(field("CreateRevision"), created, "it must not lapse");
}

/// A claim of an agent that lives, rewritten as if by one in another container: its process cannot be looked at.
fn put_in_another_container(etcd: &RealEtcd, term: &str) {
    let claim = format!("{PREFIX}/ovl/agents/{ME}");
    let mut holder: serde_json::Value =
        serde_json::from_str(&etcd.server.get(&claim).unwrap().unwrap()).unwrap();
    holder["pid_ns"] = 1.into();
    holder["host"] = "container".into();
    etcd.etcdctl(&["put", "--lease", term, &claim, &holder.to_string()]);
}

#[tokio::test]
async fn a_claimant_who_may_be_dead_is_outlived() {
    let etcd = RealEtcd::start();
    let (dead, store) = (etcd.open().await, etcd.open().await);
    dead.claim_identity(ME.into()).await.unwrap();
    let granted = etcd.etcdctl(&["lease", "grant", "4"]);
    put_in_another_container(&etcd, granted.split_whitespace().nth(1).unwrap());
    soon("the claim", store.claim_identity(ME.into())).await.unwrap();
}

#[tokio::test]
async fn a_claimant_who_cannot_be_looked_at_but_lives_is_left_alone() {
    let etcd = RealEtcd::start();
    let (one, two) = (etcd.open().await, etcd.open().await);
    one.claim_identity(ME.into()).await.unwrap();
    put_in_another_container(&etcd, &etcd.terms()[0]);
    let error = soon("the refusal", two.claim_identity(ME.into())).await.unwrap_err();
    let StoreError::Refused(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("on host container") && text.contains("--public-ip"), "{text}");
    assert_eq!(etcd.terms().len(), 1, "nothing is left of the tries");
}

#[tokio::test]
async fn a_server_that_is_stopped_is_noticed() {
    let etcd = RealEtcd::start();
    let store = etcd.open().await;
    store.create(key(A), &attrs(ME)).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        etcd.signal(Signal::SIGSTOP);
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        let error = store.network_config().await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Unavailable(text) if text.contains(etcd.server.url())),
            "{error:?}"
        );
        etcd.signal(Signal::SIGCONT);
        watcher.until("a new snapshot", |now| now.snapshots == 2).await;
        assert!(watcher.removed.is_empty() && watcher.leases.len() == 1, "{watcher:?}");
    })
    .await;
}

#[tokio::test]
async fn a_config_that_changes_in_an_outage_is_noticed() {
    let mut etcd = RealEtcd::start();
    let store = etcd.open().await;
    etcd.put("config", "one");
    watching(&store, async |watcher| {
        watcher.first().await;
        etcd.begin_outage();
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        etcd.end_outage();
        etcd.put("config", "two");
        watcher.until("the config", |now| now.config_changes > 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_member_that_is_down_costs_nothing_but_time() {
    let etcd = RealEtcd::start();
    let dead = "http://127.0.0.1:1";
    let store = EtcdStore::connect(&options(&[dead, etcd.server.url()])).await.unwrap();
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    store.renew(&held).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        etcd.put("subnets/10.42.2.0-24", &value(OTHER));
        watcher.until("a change", |now| now.leases.len() == 2).await;
        assert!(watcher.outages.is_empty(), "{watcher:?}");
    })
    .await;
    let lonely = EtcdStore::connect(&options(&[dead])).await.unwrap();
    let error = lonely.list().await.unwrap_err();
    let StoreError::Unavailable(text) = &error else { panic!("{error:?}") };
    assert_eq!(*text, format!("{dead}: Connection refused (os error 111)"));
}

#[tokio::test]
async fn the_prefix_is_joined_as_flannel_does() {
    let etcd = RealEtcd::start();
    let prefix = "//coreos.com//network/".to_owned();
    let store = EtcdStore::connect(&EtcdOptions { prefix, ..options(&[etcd.server.url()]) }).await.unwrap();
    store.create(key(A), &attrs(ME)).await.unwrap();
    etcd.server.put("/coreos.com/network/config", "one").unwrap();
    assert_eq!(store.network_config().await.unwrap().as_deref(), Some("one"));
    assert_eq!(
        etcd.server.keys(PREFIX).unwrap(),
        [format!("{PREFIX}/config"), format!("{PREFIX}/subnets/{A}")]
    );
}
