//! An etcd that wants a user and a password.

use std::fs;

use ovl_agent::store::etcd::{EtcdOptions, EtcdStore};
use ovl_agent::store::{Registry as _, Store as _, StoreError};
use ovl_tests::etcd::Etcd;
use tempfile::TempDir;

use crate::etcd::{PREFIX, options};
use crate::values::{ME, OTHER, attrs, key, listed, names, value};
use crate::watcher::watching;

const A: &str = "10.42.1.0-24";
const SECRET: &str = "open-sesame";

/// A server where `flannel` may do what an agent does.
pub(crate) struct Guarded {
    pub(crate) server: Etcd,
    _data: TempDir,
}

impl Guarded {
    pub(crate) fn start() -> Self {
        let mut etcd = Self::open_to_all(&[]);
        etcd.enable();
        etcd
    }

    /// With its users, but without asking for them yet.
    fn open_to_all(flags: &[&str]) -> Self {
        let data = TempDir::new().unwrap();
        let server = Etcd::local_with_flags(data.path(), flags).unwrap();
        server.add_user("flannel", SECRET, PREFIX).unwrap();
        Self { server, _data: data }
    }

    fn enable(&mut self) {
        self.server.enable_auth("root-password").unwrap();
    }

    fn options(&self, user: &str, password: &str) -> EtcdOptions {
        EtcdOptions {
            username: Some(user.to_owned()),
            password: Some(password.to_owned()),
            ..options(&[self.server.url()])
        }
    }

    async fn open(&self) -> EtcdStore {
        EtcdStore::connect(&self.options("flannel", SECRET)).await.unwrap()
    }
}

fn assert_refused(error: &StoreError, parts: &[&str]) {
    let StoreError::Refused(text) = error else { panic!("refused, not {error:?}") };
    assert_names(text, parts);
}

/// What an operator of etcd can mend is waited for, as flannel does.
fn assert_waited_for(error: &StoreError, parts: &[&str]) {
    let StoreError::Unavailable(text) = error else { panic!("unavailable, not {error:?}") };
    assert_names(text, parts);
}

fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert!(!text.contains('\n') && !text.contains(SECRET), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once() {
    let etcd = Guarded::start();
    let url = etcd.server.url();
    for (user, password) in [("flannel", "wrong"), ("nobody", SECRET)] {
        let store = EtcdStore::connect(&etcd.options(user, password)).await.unwrap();
        let error = store.network_config().await.unwrap_err();
        assert_refused(&error, &[url, &format!("--etcd-username (user '{user}')"), "--etcd-password"]);
    }
    let store = EtcdStore::connect(&options(&[url])).await.unwrap();
    let error = store.network_config().await.unwrap_err();
    assert_waited_for(&error, &[url, "--etcd-username", "--etcd-password"]);
    for lonely in [
        EtcdOptions { password: None, ..etcd.options("flannel", "") },
        EtcdOptions { username: None, ..etcd.options("", SECRET) },
    ] {
        let Err(error) = EtcdStore::connect(&lonely).await else { panic!("taken: {lonely:?}") };
        assert_refused(&error, &["--etcd-username", "--etcd-password"]);
    }
}

#[tokio::test]
async fn what_a_user_may_not_do_is_named() {
    let etcd = Guarded::start();
    etcd.server.add_user("other", SECRET, "/elsewhere").unwrap();
    let store = EtcdStore::connect(&etcd.options("other", SECRET)).await.unwrap();
    let parts = [etcd.server.url(), "permission denied", "user 'other'", "role", "--etcd-prefix"];
    assert_waited_for(&store.network_config().await.unwrap_err(), &parts);
    assert_waited_for(&store.list().await.unwrap_err(), &parts);
    assert_waited_for(&store.create(key(A), &attrs(ME)).await.unwrap_err(), &parts);
    let terms = etcd.server.etcdctl().words("lease list").run().unwrap();
    assert!(terms.contains("found 0 leases"), "{terms}");
    // The guard against a second agent is not worth a node. Nor does a member that is down make it so.
    store.claim_identity(ME.into()).await.unwrap();
    store.release().await;
    let endpoints = vec![etcd.server.url().to_owned(), "http://127.0.0.1:1".to_owned()];
    let options = EtcdOptions { endpoints, ..etcd.options("other", SECRET) };
    EtcdStore::connect(&options).await.unwrap().claim_identity(ME.into()).await.unwrap();
    etcd.server.grant("other", PREFIX).unwrap();
    assert_eq!(store.network_config().await.unwrap(), None);
}

#[tokio::test]
async fn a_wrong_password_is_refused_also_where_a_member_is_down() {
    let etcd = Guarded::start();
    let endpoints = vec!["http://127.0.0.1:1".to_owned(), etcd.server.url().to_owned()];
    let options = EtcdOptions { endpoints, ..etcd.options("flannel", "wrong") };
    let store = EtcdStore::connect(&options).await.unwrap();
    assert_refused(&store.network_config().await.unwrap_err(), &[etcd.server.url(), "--etcd-password"]);
}

#[tokio::test]
async fn a_user_is_of_no_effect_until_etcd_asks_for_one() {
    let mut etcd = Guarded::open_to_all(&[]);
    let store = etcd.open().await;
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        etcd.enable();
        assert_eq!(names(&store).await, [A]);
        store.renew(&held).await.unwrap();
        store.create(key("10.42.2.0-24"), &attrs(OTHER)).await.unwrap();
        watcher.until("a change", |now| now.leases.len() == 2).await;
    })
    .await;
}

#[tokio::test]
async fn a_token_that_etcd_forgot_is_bought_again() {
    let mut etcd = Guarded::start();
    let store = etcd.open().await;
    store.claim_identity(ME.into()).await.unwrap();
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    let store = &store;
    watching(store, async |watcher| {
        watcher.first().await;
        etcd.server.kill().unwrap();
        watcher.until("news of the outage", |now| !now.outages.is_empty()).await;
        etcd.server.start_again().unwrap();
        watcher.until("a new snapshot", |now| now.snapshots == 2).await;
        // Where its log goes back far enough, an etcd that was restarted has them all again. Now it hasn't.
        etcd.server.set_password("flannel", SECRET).unwrap();
        store.renew(&held).await.unwrap();
        etcd.server.put(&format!("{PREFIX}/subnets/10.42.2.0-24"), &value(OTHER)).unwrap();
        watcher.until("a change", |now| now.leases.len() == 2).await;
        assert!(watcher.removed.is_empty(), "{watcher:?}");
    })
    .await;
}

#[tokio::test]
async fn a_password_that_is_changed_ends_nothing() {
    let mut etcd = Guarded::start();
    let store = etcd.open().await;
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        etcd.server.set_password("flannel", "another").unwrap();
        assert_refused(&store.list().await.unwrap_err(), &[etcd.server.url(), "--etcd-password"]);
        etcd.server.kill().unwrap();
        etcd.server.start_again().unwrap();
        watcher
            .until("the reason", |now| now.outages.iter().any(|text| text.contains("--etcd-password")))
            .await;
        etcd.server.set_password("flannel", SECRET).unwrap();
        let before = watcher.snapshots;
        watcher.until("a new snapshot", |now| now.snapshots > before).await;
        assert_eq!((watcher.names(), watcher.removed.len()), (vec![A], 0), "{watcher:?}");
    })
    .await;
    store.renew(&held).await.unwrap();
}

#[tokio::test]
async fn an_etcd_that_is_down_at_start_is_waited_for() {
    let mut etcd = Guarded::start();
    etcd.server.kill().unwrap();
    let store = etcd.open().await;
    let error = store.network_config().await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("refused")), "{error:?}");
    etcd.server.start_again().unwrap();
    assert_eq!(store.network_config().await.unwrap(), None);
    store.create(key(A), &attrs(ME)).await.unwrap();
}

#[tokio::test]
async fn a_signed_token_that_is_out_of_date_is_bought_again() {
    let keys = TempDir::new().unwrap();
    let secret = keys.path().join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    // It ends with a whole second: of three there are two at least, in which a new one must be of use.
    let token = format!("jwt,sign-method=HS256,priv-key={},ttl=3s", secret.display());
    let mut etcd = Guarded::open_to_all(&["--auth-token", &token]);
    etcd.enable();
    let store = etcd.open().await;
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    // The token carries the revision of the users, too.
    etcd.server.add_user("another", SECRET, "/elsewhere").unwrap();
    assert_eq!(listed(&store, A).await.lease.attrs, attrs(ME));
    let expiry = tokio::time::sleep(std::time::Duration::from_secs(4));
    expiry.await;
    store.renew(&held).await.unwrap();
    assert_eq!(names(&store).await, [A]);
}
