//! The directory as a store.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ovl_agent::family::ByFamily;
use ovl_agent::store::dir::DirStore;
use ovl_agent::store::{LEASE_TTL, Registry as _, Store as _, StoreError, acquire};
use tempfile::TempDir;

use crate::fixture::Fixture;
use crate::values::{ME, OTHER, attrs, key, listed, names, network, value};
use crate::watcher::watching;

crate::registry_conformance!(Directory);

/// A directory in a directory of its own.
struct Directory {
    parent: TempDir,
}

impl Directory {
    fn path(&self) -> PathBuf {
        self.parent.path().join("store")
    }

    fn away(&self) -> PathBuf {
        self.parent.path().join("away")
    }
}

impl Fixture for Directory {
    type Store = DirStore;

    fn start() -> Self {
        let directory = Self { parent: TempDir::new().unwrap() };
        fs::create_dir(directory.path()).unwrap();
        directory
    }

    async fn open(&self) -> DirStore {
        DirStore::open(&self.path()).unwrap()
    }

    fn put(&self, item: &str, value: &str) {
        fs::write(self.path().join(item), value).unwrap();
    }

    fn delete(&self, item: &str) {
        fs::remove_file(self.path().join(item)).unwrap();
    }

    fn begin_outage(&mut self) {
        fs::rename(self.path(), self.away()).unwrap();
    }

    fn end_outage(&mut self) {
        fs::rename(self.away(), self.path()).unwrap();
    }

    fn address(&self) -> String {
        format!("dir:{}", self.path().display())
    }
}

fn age(path: &Path, age: Duration) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

const A: &str = "10.42.1.0-24";

#[tokio::test]
async fn our_own_value_written_again_is_a_conflict_and_taken_over() {
    let directory = Directory::start();
    let store = directory.open().await;
    let held = store.create(key("10.42.1.0-24"), &attrs(ME)).await.unwrap();
    directory.delete("subnets/10.42.1.0-24");
    directory.put("subnets/10.42.1.0-24", &value(ME));
    assert!(matches!(store.renew(&held).await, Err(StoreError::Conflict(_))));
    let again =
        acquire(&store, &network(20), &attrs(ME), ByFamily::default(), &mut rand::rng()).await.unwrap();
    assert_eq!(again.lease, held.lease);
    store.renew(&again).await.unwrap();
}

#[tokio::test]
async fn keys_and_values_are_flannels() {
    let directory = Directory::start();
    directory.open().await.create(key(A), &attrs(ME)).await.unwrap();
    let file = directory.path().join("subnets").join(A);
    assert_eq!(fs::read_to_string(file).unwrap(), value(ME));
}

#[tokio::test]
async fn an_expired_lease_is_free() {
    let directory = Directory::start();
    let store = directory.open().await;
    directory.put(&format!("subnets/{A}"), &value(OTHER));
    directory.put("subnets/10.42.2.0-24", "expired garbage is nobody's either");
    let file = directory.path().join("subnets").join(A);
    age(&file, LEASE_TTL.saturating_sub(Duration::from_mins(1)));
    assert_eq!(names(&store).await, [A]);
    store.create(key(A), &attrs(ME)).await.unwrap_err();
    for name in [A, "10.42.2.0-24"] {
        age(&directory.path().join("subnets").join(name), LEASE_TTL + Duration::from_secs(1));
        assert!(!names(&store).await.contains(&name.to_owned()));
        store.create(key(name), &attrs(ME)).await.unwrap();
        assert_eq!(listed(&store, name).await.lease.attrs, attrs(ME));
    }
}

#[tokio::test]
async fn an_expiry_is_noticed_by_a_watch() {
    let directory = Directory::start();
    let store = directory.open().await;
    directory.put(&format!("subnets/{A}"), &value(OTHER));
    watching(&store, async |watcher| {
        watcher.first().await;
        age(&directory.path().join("subnets").join(A), LEASE_TTL + Duration::from_secs(1));
        watcher.until("the expiry", |now| now.leases.is_empty()).await;
    })
    .await;
}

#[tokio::test]
async fn a_renewed_lease_starts_anew() {
    let directory = Directory::start();
    let store = directory.open().await;
    let file = directory.path().join("subnets").join(A);
    let held = store.create(key(A), &attrs(ME)).await.unwrap();
    store.renew(&held).await.unwrap();
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    assert!(SystemTime::now().duration_since(modified).unwrap() < Duration::from_mins(1));
}

#[tokio::test]
async fn odd_files_block_nothing() {
    let directory = Directory::start();
    let store = directory.open().await;
    let subnets = directory.path().join("subnets");
    fs::write(subnets.join(".half-written"), "{").unwrap();
    fs::create_dir(subnets.join("10.42.2.0-24")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", subnets.join("10.42.3.0-24")).unwrap();
    nix::unistd::mkfifo(&subnets.join("10.42.4.0-24"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    store.create(key(A), &attrs(ME)).await.unwrap();
    let (leases, rejected) = store.list().await.unwrap();
    assert_eq!(leases.len(), 1);
    let rejected: Vec<_> = rejected.iter().filter_map(|item| item.key).collect();
    assert_eq!(rejected, [key("10.42.2.0-24"), key("10.42.4.0-24")]);
}

#[tokio::test]
async fn an_empty_config_is_not_written_yet() {
    let directory = Directory::start();
    let store = directory.open().await;
    directory.put("config", "\n");
    assert_eq!(store.network_config().await.unwrap(), None);
}

#[tokio::test]
async fn a_lock_that_is_never_freed_is_an_error() {
    let directory = Directory::start();
    let store = directory.open().await;
    let lock = fs::File::open(directory.path().join(".lock")).unwrap();
    lock.lock().unwrap();
    let error = store.create(key(A), &attrs(ME)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(".lock")), "{error:?}");
    lock.unlock().unwrap();
    store.create(key(A), &attrs(ME)).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_named() {
    let directory = Directory::start();
    directory.put("file", "");
    // A read-only file system: root writes through permissions, but not through this.
    for path in [directory.path().join("absent"), directory.path().join("file"), "/proc/sys".into()] {
        let error = DirStore::open(&path).unwrap_err();
        let StoreError::Refused(text) = &error else { panic!("{error:?}") };
        assert!(text.contains(&path.display().to_string()) && text.contains("may write"), "{text}");
    }
}
