//! Reading leases: what is garbage is rejected by name, what has expired is passed over.

use std::fs::{self, File, Metadata};
use std::io::{Error, ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::SystemTime;

use super::unavailable;
use crate::lease::{Lease, LeaseKey};
use crate::store::{LEASE_TTL, Listed, Rejected, StoreError};

/// More than any lease; so that a huge file is garbage and not our memory.
const MAX_SIZE: u64 = 1 << 20;

/// Everything in `folder`, sorted.
pub(super) fn all(folder: &Path) -> Result<(Vec<Listed>, Vec<Rejected>), StoreError> {
    let failed = |error: Error| unavailable(folder, &error);
    let (mut leases, mut rejected) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Not a lease yet: somebody is writing it.
        if name.starts_with('.') {
            continue;
        }
        match lease(&entry.path(), &name) {
            Ok(lease) => leases.extend(lease),
            Err(item) => rejected.push(item),
        }
    }
    leases.sort_by_key(|listed: &Listed| listed.lease.key);
    rejected.sort_by(|a: &Rejected, b| a.item.cmp(&b.item));
    Ok((leases, rejected))
}

/// Reads one lease; `None` where it is absent or has expired.
pub(super) fn lease(path: &Path, name: &str) -> Result<Option<Listed>, Rejected> {
    let key = name.parse::<LeaseKey>();
    let revision = fs::metadata(path).map_or(0, |metadata| revision_of(&metadata));
    let rejected = |reason: String| Rejected {
        key: key.as_ref().ok().copied(),
        item: path.display().to_string(),
        reason,
        revision,
        term: 0,
    };
    let key = key.as_ref().map_err(|error| rejected(error.to_string()))?;
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(rejected(error.to_string())),
    };
    let metadata = file.metadata().map_err(|error| rejected(error.to_string()))?;
    if !metadata.is_file() {
        return Err(rejected("not a regular file".to_owned()));
    }
    // A time in the future is a clock that was set back; the lease is as good as new.
    let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    if age.is_some_and(|age| age > LEASE_TTL) {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut text).map_err(|error| rejected(error.to_string()))?;
    let attrs = serde_json::from_slice(&text).map_err(|error| rejected(format!("not a lease: {error}")))?;
    let lease = Lease { key: *key, attrs };
    Ok(Some(Listed { lease, revision: revision_of(&metadata), term: 0 }))
}

/// What changes with every write: each makes a new file with a time of its own. The inode tells two files apart that
/// were written while the clock was set back.
pub(super) fn revision_of(metadata: &Metadata) -> i64 {
    let time = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
    time ^ metadata.ino().cast_signed().rotate_left(40)
}

/// Opens without waiting, as a FIFO of that name would otherwise have us do.
fn open(path: &Path) -> Result<File, Error> {
    fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}
