//! A directory as the store: embedded, nothing to install. `config` and `subnets/<lease>` are files with flannel's
//! key names and flannel's JSON.
//!
//! Every change happens under an exclusive lock on `.lock`, and replaces a whole file by renaming; so a reader never
//! sees half a value, and of two claimants one wins. A lease is good for [`LEASE_TTL`] from the file's modification
//! time; an expired one is nobody's.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipnet::IpNet;
use tokio::sync::mpsc;

use super::{Held, LEASE_TTL, Listed, Registry, Rejected, Store, StoreError, Update, acquire};
use crate::family::ByFamily;
use crate::lease::{Lease, LeaseAttrs, LeaseKey};
use crate::network::Network;

mod lock;
mod read;
mod watch;

/// The store.
#[derive(Debug)]
pub struct DirStore {
    path: PathBuf,
    /// The lock of our public IP, which the kernel frees whatever way the process ends.
    /// The public IP that is claimed, with the lock that says so.
    identity: RefCell<Option<(IpAddr, File)>>,
}

impl DirStore {
    /// Opens the store in `path`, which must exist and be writable.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let refused = |path: &Path, error: Error| {
            StoreError::Refused(format!(
                "{}: {error}; name a directory that exists and that this agent may write",
                path.display()
            ))
        };
        let metadata = fs::metadata(path).map_err(|error| refused(path, error))?;
        if !metadata.is_dir() {
            return Err(refused(path, ErrorKind::NotADirectory.into()));
        }
        for folder in ["subnets", "agents"] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).map_err(|error| refused(&folder, error))?;
        }
        // What exists may still be read-only.
        let probe = path.join("subnets");
        temporary_in(&probe).map_err(|error| refused(&probe, error))?;
        let lock = path.join(".lock");
        lock::open(&lock).map_err(|error| refused(&lock, error))?;
        Ok(Self { path: path.to_owned(), identity: RefCell::default() })
    }

    fn subnets(&self) -> PathBuf {
        self.path.join("subnets")
    }

    fn file_of(&self, key: LeaseKey) -> PathBuf {
        self.subnets().join(key.to_string())
    }

    fn conflict(&self, key: LeaseKey) -> StoreError {
        StoreError::Conflict(self.file_of(key).display().to_string())
    }

    /// Held while something is changed.
    async fn lock(&self) -> Result<File, StoreError> {
        let path = self.path.join(".lock");
        lock::exclusive(&path).await.map_err(|error| unavailable(&path, &error))
    }

    /// That the file still is what it was when it had `revision`.
    fn check(&self, key: LeaseKey, revision: i64) -> Result<(), StoreError> {
        let path = self.file_of(key);
        match fs::metadata(&path) {
            Ok(metadata) if read::revision_of(&metadata) == revision => Ok(()),
            Ok(_) => Err(self.conflict(key)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.conflict(key)),
            Err(error) => Err(unavailable(&path, &error)),
        }
    }

    /// That no lease but `except` has addresses in common with `key`. An expired one is nobody's; one that cannot be read
    /// may be somebody's.
    fn check_free(&self, key: LeaseKey, except: Option<LeaseKey>) -> Result<(), StoreError> {
        let (leases, rejected) = read::all(&self.subnets())?;
        let keys = leases.iter().map(|listed| listed.lease.key);
        let mut keys = keys.chain(rejected.iter().filter_map(|item| item.key));
        if keys.any(|other| Some(other) != except && other.overlaps(&key)) {
            return Err(self.conflict(key));
        }
        Ok(())
    }

    /// Puts a new value in place, which starts a new term.
    fn write(&self, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let text = serde_json::to_vec(attrs).map_err(|error| StoreError::Refused(error.to_string()))?;
        let (path, now) = (self.file_of(key), SystemTime::now());
        let write = || -> Result<fs::Metadata, Error> {
            let mut temporary = temporary_in(&self.subnets())?;
            temporary.write_all(&text)?;
            // The kernel's own time stamp may be as coarse as a clock tick, which would make revisions alike.
            temporary.as_file().set_modified(now)?;
            // A power cut after the rename must not leave an empty file.
            temporary.as_file().sync_all()?;
            temporary.persist(&path)?.metadata()
        };
        let metadata = write().map_err(|error| unavailable(&path, &error))?;
        let lease = Lease { key, attrs: attrs.clone() };
        Ok(Held {
            lease,
            expires: now.checked_add(LEASE_TTL),
            revision: read::revision_of(&metadata),
            term: 0,
            overwritten: ByFamily::default(),
        })
    }
}

impl Store for DirStore {
    fn describe(&self) -> String {
        format!("store {}", self.path.display())
    }

    fn config_place(&self) -> String {
        self.path.join("config").display().to_string()
    }

    async fn network_config(&self) -> Result<Option<String>, StoreError> {
        let path = self.path.join("config");
        match fs::read_to_string(&path) {
            // Between a shell's truncating the file and its writing it, it is empty.
            Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
            // A directory that is gone has not lost its config.
            Err(error) if error.kind() == ErrorKind::NotFound && self.path.is_dir() => Ok(None),
            Err(error) => Err(unavailable(&path, &error)),
        }
    }

    async fn claim_identity(&self, public_ip: IpAddr) -> Result<(), StoreError> {
        if self.identity.borrow().as_ref().is_some_and(|(held, _)| *held == public_ip) {
            return Ok(());
        }
        let path = self.path.join("agents").join(public_ip.to_string());
        let claim = lock::claim(&path).map_err(|error| unavailable(&path, &error))?;
        match claim {
            lock::Claim::Ours(file) => {
                self.identity.replace(Some((public_ip, file)));
                Ok(())
            }
            lock::Claim::Theirs(holder) => Err(StoreError::Refused(format!(
                "public IP {public_ip} is already used by {holder} on the {}; stop that one, or give this node its \
                 own with {}",
                self.describe(),
                super::public_ip_flag(public_ip)
            ))),
        }
    }

    async fn release(&self) {
        self.identity.replace(None);
    }

    async fn acquire(
        &self,
        network: &Network,
        me: &LeaseAttrs,
        previous: ByFamily<IpNet>,
    ) -> Result<Held, StoreError> {
        acquire(self, network, me, previous, &mut rand::rng()).await
    }

    async fn advertise(&self, held: &Held, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        self.take_over(&Listed::from(held), attrs).await
    }

    async fn renew(&self, held: &Held) -> Result<Held, StoreError> {
        let _lock = self.lock().await?;
        self.check(held.lease.key, held.revision)?;
        self.write(held.lease.key, &held.lease.attrs)
    }

    async fn watch(&self, updates: mpsc::Sender<Update>) {
        watch::run(self, &updates).await;
    }
}

impl Registry for DirStore {
    async fn list(&self) -> Result<(Vec<Listed>, Vec<Rejected>), StoreError> {
        read::all(&self.subnets())
    }

    async fn create(&self, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let _lock = self.lock().await?;
        self.check_free(key, None)?;
        self.write(key, attrs)
    }

    async fn take_over(&self, listed: &Listed, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let _lock = self.lock().await?;
        self.check(listed.lease.key, listed.revision)?;
        self.write(listed.lease.key, attrs)
    }

    async fn exchange(&self, listed: &Listed, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let _lock = self.lock().await?;
        self.check(listed.lease.key, listed.revision)?;
        self.check_free(key, Some(listed.lease.key))?;
        // Both names for a moment: who lists then finds two leases of one node, which is no harm.
        let held = self.write(key, attrs)?;
        let path = self.file_of(listed.lease.key);
        if listed.lease.key != key {
            fs::remove_file(&path).map_err(|error| unavailable(&path, &error))?;
        }
        Ok(held)
    }
}

/// A file that readers pass over, because its name starts with a dot.
fn temporary_in(folder: &Path) -> Result<tempfile::NamedTempFile, Error> {
    tempfile::Builder::new().prefix(".").permissions(fs::Permissions::from_mode(0o644)).tempfile_in(folder)
}

fn unavailable(path: &Path, error: &Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", path.display()))
}
