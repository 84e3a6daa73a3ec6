//! The network config, which in Kubernetes is a file: a ConfigMap that kubelet mounts.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::store::{StoreError, Update};

/// How often it is looked at. Kubelet itself takes about a minute to bring a changed ConfigMap, and puts it in place by
/// turning a symbolic link in the path to another folder, of which a watch on the file would hear nothing.
const LOOK: Duration = Duration::from_secs(1);

/// `--net-config-path`.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
}

/// What tells one version of the file from another: device, inode, size, and time of the last change; `None` where it
/// is not there.
type Mark = Option<(u64, u64, u64, i64, i64)>;

impl ConfigFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Its path, for a person.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Its text; `None` where it is not there or empty.
    pub(super) fn read(&self) -> Result<Option<String>, StoreError> {
        match fs::read_to_string(&self.path) {
            // Between a shell's truncating the file and its writing it, it is empty.
            Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// Reports changes until `updates` is closed.
    pub(super) async fn watch(&self, updates: &mpsc::Sender<Update>) {
        let mut known = self.mark();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = updates.closed() => return,
                _ = look.tick() => {}
            }
            let now = self.mark();
            if now != known {
                known = now;
                if updates.send(Update::ConfigChanged).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What cannot be looked at counts as absent: reading it says why.
    fn mark(&self) -> Mark {
        let metadata = fs::metadata(&self.path).ok()?;
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        Some((metadata.dev(), metadata.ino(), metadata.size(), seconds, nanoseconds))
    }

    fn unavailable(&self, error: &io::Error) -> StoreError {
        StoreError::Unavailable(format!("cannot read {} (--net-config-path): {error}", self.name()))
    }
}
