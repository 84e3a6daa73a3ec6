//! An etcd that speaks TLS.

use std::fs;
use std::path::{Path, PathBuf};

use ovl_agent::store::etcd::{EtcdOptions, EtcdStore};
use ovl_agent::store::{Registry as _, Store as _, StoreError};
use ovl_tests::etcd::{Etcd, Tls};
use tempfile::TempDir;

use crate::certificates::{Authority, Pair, self_signed, self_signed_for_elsewhere};
use crate::etcd::options;
use crate::values::{ME, OTHER, attrs, key, names};
use crate::watcher::watching;

const HERE: &[&str] = &["127.0.0.1", "localhost"];
const A: &str = "10.42.1.0-24";

/// An etcd whose certificate `authority` has signed; its clients need one, too, where `wants_clients`.
pub(crate) struct Secured {
    pub(crate) server: Etcd,
    authority: Authority,
    pub(crate) client: Pair,
    directory: TempDir,
}

impl Secured {
    pub(crate) fn start(wants_clients: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let authority = Authority::new(&directory.path().join("pki"));
        let Pair { cert, key } = authority.issue("server", HERE);
        let client = authority.issue("client", &[]);
        let for_clients = [authority.ca(), client.cert.clone(), client.key.clone()];
        let tls = Tls { cert, key, ca: authority.ca(), client: wants_clients.then_some(for_clients) };
        let server = Etcd::local_with_tls(directory.path(), tls).unwrap();
        Self { server, authority, client, directory }
    }

    /// With the CA alone.
    fn options(&self) -> EtcdOptions {
        EtcdOptions { cafile: Some(self.authority.ca()), ..options(&[self.server.url()]) }
    }

    /// With a client's certificate, too.
    pub(crate) fn options_as(&self, client: &Pair) -> EtcdOptions {
        let Pair { cert, key } = client.clone();
        EtcdOptions { certfile: Some(cert), keyfile: Some(key), ..self.options() }
    }

    fn stranger(&self) -> Authority {
        Authority::new(&self.directory.path().join("stranger"))
    }
}

async fn connect(options: &EtcdOptions) -> EtcdStore {
    EtcdStore::connect(options).await.unwrap()
}

/// What comes of it where it must not work, at the latest with the first request.
async fn failure(options: &EtcdOptions) -> StoreError {
    match EtcdStore::connect(options).await {
        Err(error) => error,
        Ok(store) => store.network_config().await.unwrap_err(),
    }
}

/// That it is waited for, as flannel does, and in one line why: certificates can be replaced without us.
async fn assert_waited_for(options: &EtcdOptions, parts: &[&str]) {
    let error = failure(options).await;
    let StoreError::Unavailable(text) = &error else { panic!("unavailable, not {error:?}") };
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert!(!text.contains('\n') && !text.contains("  "), "{text}");
}

async fn assert_works(options: &EtcdOptions) {
    let store = connect(options).await;
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    store.renew(&held).await.unwrap();
    watching(&store, async |watcher| {
        watcher.first().await;
        assert_eq!(watcher.names(), [A]);
        store.create(key("10.42.2.0-24"), &attrs(OTHER)).await.unwrap();
        watcher.until("a change", |now| now.leases.len() == 2).await;
        assert!(watcher.outages.is_empty(), "{watcher:?}");
    })
    .await;
}

#[tokio::test]
async fn a_ca_alone_is_enough() {
    let etcd = Secured::start(false);
    assert_works(&etcd.options()).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_etcd_wants_one() {
    let etcd = Secured::start(true);
    assert_works(&etcd.options_as(&etcd.client)).await;
    let url = etcd.server.url();
    assert_waited_for(&etcd.options(), &[url, "--etcd-certfile", "--etcd-keyfile"]).await;
    let strange = etcd.stranger().issue("client", &[]);
    let file = strange.cert.display().to_string();
    assert_waited_for(&etcd.options_as(&strange), &[url, "--etcd-certfile", &file]).await;
    let stale = etcd.authority.issue_expired("stale", &[]);
    assert_waited_for(&etcd.options_as(&stale), &[url, "--etcd-certfile"]).await;
}

#[tokio::test]
async fn a_certificate_that_is_its_own_ca_is_taken_as_flannel_takes_it() {
    let directory = TempDir::new().unwrap();
    let Pair { cert, key } = self_signed(directory.path(), HERE);
    let server = Etcd::local_with_tls(
        directory.path(),
        Tls { ca: cert.clone(), cert: cert.clone(), key, client: None },
    )
    .unwrap();
    assert_works(&EtcdOptions { cafile: Some(cert), ..options(&[server.url()]) }).await;
    let other = self_signed(TempDir::new().unwrap().path(), HERE);
    assert!(!other.cert.exists(), "its directory is gone");
    let elsewhere = directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let other = self_signed(&elsewhere, HERE);
    assert_waited_for(
        &EtcdOptions { cafile: Some(other.cert), ..options(&[server.url()]) },
        &[server.url(), "--etcd-cafile"],
    )
    .await;
}

#[tokio::test]
async fn a_certificate_that_is_given_is_not_taken_whatever_is_wrong_with_it() {
    let directory = TempDir::new().unwrap();
    let Pair { cert, key } = self_signed_for_elsewhere(directory.path(), HERE);
    let tls = Tls { ca: cert.clone(), cert: cert.clone(), key, client: None };
    let server = Etcd::local_with_tls(directory.path(), tls).unwrap();
    let options = EtcdOptions { cafile: Some(cert), ..options(&[server.url()]) };
    assert_waited_for(&options, &[server.url(), "NameConstraintViolation"]).await;
}

#[tokio::test]
async fn a_server_with_another_ca_is_named() {
    let etcd = Secured::start(false);
    let url = etcd.server.url();
    let ca = etcd.stranger().ca();
    let wrong = EtcdOptions { cafile: Some(ca.clone()), ..etcd.options() };
    assert_waited_for(&wrong, &[url, "--etcd-cafile", &ca.display().to_string()]).await;
    let system = EtcdOptions { cafile: None, ..etcd.options() };
    assert_waited_for(&system, &[url, "--etcd-cafile", "system"]).await;
}

#[tokio::test]
async fn a_server_with_another_name_is_named() {
    let etcd = Secured::start(false);
    // etcd reads its certificate for each connection.
    etcd.authority.issue("server", &["localhost", "etcd.example"]);
    assert_waited_for(
        &etcd.options(),
        &[etcd.server.url(), "127.0.0.1", "localhost, etcd.example", "--etcd-endpoints"],
    )
    .await;
    let named = etcd.server.url().replace("127.0.0.1", "localhost");
    assert_works(&EtcdOptions { endpoints: vec![named], ..etcd.options() }).await;
}

#[tokio::test]
async fn a_certificate_that_is_out_of_date_is_waited_for() {
    let etcd = Secured::start(false);
    assert_works(&etcd.options()).await;
    etcd.authority.issue_expired("server", HERE);
    let error = failure(&etcd.options()).await;
    let StoreError::Unavailable(text) = &error else { panic!("{error:?}") };
    assert!(text.contains(etcd.server.url()) && text.contains("out of date"), "{text}");
    etcd.authority.issue("server", HERE);
    connect(&etcd.options()).await.list().await.unwrap();
}

#[tokio::test]
async fn certificates_are_read_anew_for_each_connection() {
    let mut etcd = Secured::start(true);
    let mine = etcd.authority.issue("mine", &[]);
    let store = connect(&etcd.options_as(&mine)).await;
    store.create(key(A), &attrs(ME)).await.unwrap();
    etcd.server.kill().unwrap();
    // For a moment, the certificate and the key of a rotation don't go together.
    fs::write(&mine.key, "").unwrap();
    etcd.server.start_again().unwrap();
    store.list().await.unwrap_err();
    let error = store.list().await.unwrap_err();
    let file = mine.key.display().to_string();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(&file)), "{error:?}");
    etcd.authority.issue("mine", &[]);
    assert_eq!(names(&store).await, [A]);
}

#[tokio::test]
async fn files_that_are_of_no_use_are_named_at_once() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new(directory.path());
    let (one, two) = (authority.issue("one", &[]), authority.issue("two", &[]));
    let file = |name: &str, text: &str| -> PathBuf {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let absent = directory.path().join("absent.pem");
    let garbage = file("garbage.pem", "garbage");
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\nAAA$\n-----END CERTIFICATE-----\n");
    let hollow = file("hollow.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let endpoint = options(&["https://127.0.0.1:1"]);
    let pair = |cert: &Path, key: &Path| EtcdOptions {
        certfile: Some(cert.to_owned()),
        keyfile: Some(key.to_owned()),
        cafile: Some(authority.ca()),
        ..endpoint.clone()
    };
    let ca = |path: &Path| EtcdOptions { cafile: Some(path.to_owned()), ..endpoint.clone() };
    let table = [
        (ca(&absent), "--etcd-cafile", "absent.pem"),
        (ca(&garbage), "--etcd-cafile", "garbage.pem"),
        (ca(&broken), "--etcd-cafile", "broken.pem"),
        (ca(&hollow), "--etcd-cafile", "hollow.pem"),
        (ca(&one.key), "--etcd-cafile", "one.key"),
        (pair(&absent, &one.key), "--etcd-certfile", "absent.pem"),
        (pair(&one.cert, &absent), "--etcd-keyfile", "absent.pem"),
        (pair(&one.cert, &garbage), "--etcd-keyfile", "garbage.pem"),
        (pair(&one.cert, &two.key), "don't go together", "two.key"),
        (EtcdOptions { keyfile: None, ..pair(&one.cert, &one.key) }, "--etcd-certfile", "--etcd-keyfile"),
        (EtcdOptions { certfile: None, ..pair(&one.cert, &one.key) }, "--etcd-keyfile", "--etcd-certfile"),
    ];
    for (options, flag, file) in table {
        let Err(StoreError::Refused(text)) = EtcdStore::connect(&options).await else {
            panic!("taken: {options:?}")
        };
        assert!(text.contains(flag) && text.contains(file) && !text.contains('\n'), "{text}");
    }
}

#[tokio::test]
async fn a_wrong_scheme_is_an_error_that_says_so() {
    let etcd = Secured::start(false);
    let plain = etcd.server.url().replace("https://", "http://");
    assert_waited_for(&options(&[&plain]), &[&plain, "https://"]).await;
    let directory = TempDir::new().unwrap();
    let plain = Etcd::local(directory.path()).unwrap();
    let secured = plain.url().replace("http://", "https://");
    let wrong = EtcdOptions { endpoints: vec![secured.clone()], ..etcd.options() };
    let error = failure(&wrong).await;
    let StoreError::Unavailable(text) = &error else { panic!("{error:?}") };
    assert!(text.contains(&secured) && text.contains("http://"), "{text}");
}

#[tokio::test]
async fn without_a_scheme_a_certificate_of_ours_asks_for_tls_but_a_ca_alone_does_not() {
    let etcd = Secured::start(true);
    let bare = |url: &str| vec![url.split_once("://").unwrap().1.to_owned()];
    let with_pair = etcd.options_as(&etcd.client);
    assert_works(&EtcdOptions { endpoints: bare(etcd.server.url()), ..with_pair }).await;
    let directory = TempDir::new().unwrap();
    let plain = Etcd::local(directory.path()).unwrap();
    assert_works(&EtcdOptions { endpoints: bare(plain.url()), ..etcd.options() }).await;
}

#[tokio::test]
async fn each_member_has_a_scheme_of_its_own() {
    let etcd = Secured::start(false);
    let stranger = Etcd::local_with_tls(&etcd.directory.path().join("stranger"), {
        let authority = etcd.stranger();
        let Pair { cert, key } = authority.issue("server", HERE);
        Tls { cert, key, ca: authority.ca(), client: None }
    })
    .unwrap();
    // One whose certificate is no good and one that is down cost nothing but time.
    let endpoints = [stranger.url(), "http://127.0.0.1:1", etcd.server.url()];
    let endpoints = endpoints.iter().map(ToString::to_string).collect();
    let store = connect(&EtcdOptions { endpoints, ..etcd.options() }).await;
    store.create(key(A), &attrs(ME)).await.unwrap();
    // Where the one that is left is down, the other one's certificate is not the last word.
    let endpoints = vec![stranger.url().to_owned(), "http://127.0.0.1:1".to_owned()];
    let error = failure(&EtcdOptions { endpoints, ..etcd.options() }).await;
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("--etcd-cafile")), "{error:?}");
}
