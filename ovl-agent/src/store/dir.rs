//! A directory as the store: embedded, nothing to install. `config` and `subnets/<lease>` are files with flannel's
//! key names and flannel's JSON.
//!
//! Every change happens under an exclusive lock on `.lock`, and replaces a whole file by renaming; so a reader never
//! sees half a value, and of two claimants one wins. A lease is good for [`LEASE_TTL`] from the file's modification
//! time; an expired one is nobody's.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::{Held, LEASE_TTL, Listed, Rejected, Store, StoreError, Update};
use crate::lease::{Lease, LeaseAttrs, LeaseKey};

mod watch;

/// The store.
#[derive(Debug)]
pub struct DirStore {
    path: PathBuf,
    /// The lock of our public IP, which the kernel frees whatever way the process ends.
    identity: Option<File>,
}

/// Everything in `subnets/`.
pub(super) struct Listing {
    leases: Vec<Listed>,
    rejected: Vec<Rejected>,
}

impl DirStore {
    /// Opens the store in `path`, which must exist and be writable.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let refused = |what: &str, error: std::io::Error| {
            StoreError::Refused(format!(
                "{what}: {error}; name a directory that exists and that this agent may write"
            ))
        };
        if !path.is_dir() {
            return Err(refused(&path.display().to_string(), ErrorKind::NotADirectory.into()));
        }
        for folder in ["subnets", "agents"] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).map_err(|error| refused(&folder.display().to_string(), error))?;
        }
        let store = Self { path: path.to_owned(), identity: None };
        store.lock().map_err(|error| StoreError::Refused(error.to_string()))?;
        Ok(store)
    }

    fn subnets(&self) -> PathBuf {
        self.path.join("subnets")
    }

    fn file_of(&self, key: LeaseKey) -> PathBuf {
        self.subnets().join(key.to_string())
    }

    /// Held while something is changed.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.path.join(".lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| unavailable(&path, &error))?;
        file.lock().map_err(|error| unavailable(&path, &error))?;
        Ok(file)
    }

    fn read_all(&self) -> Result<Listing, StoreError> {
        let folder = self.subnets();
        let entries = fs::read_dir(&folder).map_err(|error| unavailable(&folder, &error))?;
        let mut listing = Listing { leases: Vec::new(), rejected: Vec::new() };
        for entry in entries {
            let entry = entry.map_err(|error| unavailable(&folder, &error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Ours, half written.
            if name.starts_with('.') {
                continue;
            }
            match read_lease(&entry.path(), &name) {
                Ok(lease) => listing.leases.extend(lease),
                Err(rejected) => listing.rejected.push(rejected),
            }
        }
        listing.leases.sort_by_key(|listed| listed.lease.key);
        listing.rejected.sort_by(|a, b| a.item.cmp(&b.item));
        Ok(listing)
    }

    /// Whether the file still is what it was when it had `revision`.
    fn check(&self, key: LeaseKey, revision: i64) -> Result<(), StoreError> {
        let conflict = || StoreError::Conflict(self.file_of(key).display().to_string());
        match fs::metadata(self.file_of(key)) {
            Ok(metadata) if revision_of(&metadata) == revision => Ok(()),
            Ok(_) => Err(conflict()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(conflict()),
            Err(error) => Err(unavailable(&self.file_of(key), &error)),
        }
    }

    fn write(&self, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let path = self.file_of(key);
        let failed = |error: &std::io::Error| unavailable(&path, error);
        let text = serde_json::to_vec(attrs).map_err(|error| StoreError::Refused(error.to_string()))?;
        let mut file = tempfile::Builder::new()
            .prefix(".")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(self.subnets())
            .map_err(|error| failed(&error))?;
        file.write_all(&text).map_err(|error| failed(&error))?;
        let file = file.persist(&path).map_err(|error| failed(&error.error))?;
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        let expires = metadata.modified().ok().and_then(|time| time.checked_add(LEASE_TTL));
        let lease = Lease { key, attrs: attrs.clone() };
        Ok(Held { lease, expires, revision: revision_of(&metadata), term: 0 })
    }
}

impl Store for DirStore {
    fn describe(&self) -> String {
        format!("store {}", self.path.display())
    }

    async fn network_config(&self) -> Result<Option<String>, StoreError> {
        let path = self.path.join("config");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable(&path, &error)),
        }
    }

    async fn claim_identity(&mut self, public_ip: Ipv4Addr) -> Result<(), StoreError> {
        let path = self.path.join("agents").join(public_ip.to_string());
        let failed = |error: &std::io::Error| unavailable(&path, error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let holder = match file.read_to_string(&mut pid) {
                    Ok(_) if !pid.trim().is_empty() => format!("the ovl-agent with pid {}", pid.trim()),
                    _ => "another ovl-agent".to_owned(),
                };
                return Err(StoreError::Refused(format!(
                    "public IP {public_ip} is in use by {holder} on {}; stop it, or give this node its own --public-ip",
                    self.path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let pid = std::process::id().to_string();
        file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(|error| failed(&error))?;
        self.identity = Some(file);
        Ok(())
    }

    async fn release(&mut self) {
        self.identity = None;
    }

    async fn list(&self) -> Result<(Vec<Listed>, Vec<Rejected>), StoreError> {
        let listing = self.read_all()?;
        Ok((listing.leases, listing.rejected))
    }

    async fn create(&self, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let _lock = self.lock()?;
        let name = key.to_string();
        // An expired lease is nobody's; one that cannot be read may be somebody's.
        match read_lease(&self.file_of(key), &name) {
            Ok(None) => self.write(key, attrs),
            Ok(Some(_)) | Err(_) => Err(StoreError::Conflict(self.file_of(key).display().to_string())),
        }
    }

    async fn take_over(&self, listed: &Listed, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let _lock = self.lock()?;
        self.check(listed.lease.key, listed.revision)?;
        self.write(listed.lease.key, attrs)
    }

    async fn renew(&self, held: &Held) -> Result<Held, StoreError> {
        let _lock = self.lock()?;
        self.check(held.lease.key, held.revision)?;
        self.write(held.lease.key, &held.lease.attrs)
    }

    async fn remove(&self, listed: &Listed) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.check(listed.lease.key, listed.revision)?;
        let path = self.file_of(listed.lease.key);
        fs::remove_file(&path).map_err(|error| unavailable(&path, &error))
    }

    async fn watch(&self, updates: mpsc::Sender<Update>) {
        watch::run(self, &updates).await;
    }
}

/// Reads one lease; `None` where it is absent or expired.
fn read_lease(path: &Path, name: &str) -> Result<Option<Listed>, Rejected> {
    let key = name.parse::<LeaseKey>();
    let rejected = |reason: String| Rejected {
        key: key.as_ref().ok().copied(),
        item: path.display().to_string(),
        reason,
    };
    let key = key.as_ref().map_err(|error| rejected(error.to_string()))?;
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(rejected(error.to_string())),
    };
    let metadata = file.metadata().map_err(|error| rejected(error.to_string()))?;
    let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    if age.is_some_and(|age| age > LEASE_TTL) {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| rejected(error.to_string()))?;
    let attrs = serde_json::from_str(&text).map_err(|error| rejected(format!("not a lease: {error}")))?;
    let lease = Lease { key: *key, attrs };
    Ok(Some(Listed { lease, revision: revision_of(&metadata), term: 0 }))
}

/// What changes with every write: each makes a new file, and inode numbers are only used again later, at another time.
fn revision_of(metadata: &fs::Metadata) -> i64 {
    let time = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
    time ^ metadata.ino().cast_signed().rotate_left(40)
}

fn unavailable(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", path.display()))
}
