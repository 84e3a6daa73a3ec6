//! Two agents must not use one public IP.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ovl_agent::store::dir::DirStore;
use ovl_agent::store::etcd::EtcdStore;
use ovl_agent::store::{Registry, Store, StoreError};

use crate::fixture::Fixture;
use crate::secured::options_at;
use crate::values::{ME, OTHER};

const ADDRESS: &str = "OVL_TEST_STORE";

pub(crate) async fn a_second_claimant_is_refused_by_name<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    one.claim_identity(ME.into()).await.unwrap();
    let error = two.claim_identity(ME.into()).await.unwrap_err();
    let StoreError::Refused(text) = &error else { panic!("{error:?}") };
    for part in [&ME.to_string(), &format!("pid {}", std::process::id()), "--public-ip"] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    two.claim_identity(OTHER.into()).await.unwrap();
    assert!(one.list().await.unwrap().0.is_empty() && one.list().await.unwrap().1.is_empty());
}

pub(crate) async fn a_claim_is_made_again_by_its_holder<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    // As an agent does that could not write its new address into its lease at first.
    for address in [ME, ME, OTHER, OTHER] {
        one.claim_identity(address.into()).await.unwrap();
        two.claim_identity(address.into()).await.unwrap_err();
    }
}

pub(crate) async fn a_released_claim_is_free<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    one.claim_identity(ME.into()).await.unwrap();
    one.release().await;
    one.release().await;
    two.claim_identity(ME.into()).await.unwrap();
    one.claim_identity(ME.into()).await.unwrap_err();
}

pub(crate) async fn a_dead_claimant_is_replaced_at_once<F: Fixture<Store: Registry>>(fixture: &mut F) {
    let mut claimant = claimant_process(&fixture.address());
    let pid = format!("pid {}", claimant.id());
    let store = fixture.open().await;
    let error = store.claim_identity(ME.into()).await.unwrap_err().to_string();
    assert!(error.contains(&pid), "'{pid}' is not in: {error}");
    // A supervisor may start the next one before it has waited for the last one, which is a zombie until then.
    claimant.kill().unwrap();
    let mut stdout = BufReader::new(claimant.stdout.take().unwrap());
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    store.claim_identity(ME.into()).await.unwrap();
    claimant.wait().unwrap();
}

/// Another process, which has claimed [`ME`] when this returns.
fn claimant_process(address: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["identity::claimant", "--exact", "--nocapture"])
        .env(ADDRESS, address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("claimed") {
        assert_ne!(lines.read_line(&mut seen).unwrap(), 0, "the claimant ended: {seen}");
    }
    child.stdout = Some(lines.into_inner());
    child
}

/// The body of [`claimant_process`]; run as a test like the others it has nothing to claim.
#[tokio::test]
async fn claimant() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    if let Some(path) = address.strip_prefix("dir:") {
        return claim_until_killed(DirStore::open(Path::new(path)).unwrap()).await;
    }
    claim_until_killed(EtcdStore::connect(&options_at(&address)).await.unwrap()).await;
}

async fn claim_until_killed(store: impl Store) {
    store.claim_identity(ME.into()).await.unwrap();
    println!("claimed");
    // Ends with the test at the latest, whose end of the pipe closes.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}
