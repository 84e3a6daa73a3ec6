//! The directory store as files, written without the agent's code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A store directory: file names are flannel's keys below the prefix (`config`, `subnets/10.42.3.0-24`).
#[derive(Clone, Debug)]
pub struct DirStore {
    path: PathBuf,
}

impl DirStore {
    /// Creates the directory.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("create the store directory {}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a value in one step, by rename, as every writer of such a store must.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        let file = self.path.join(key);
        let folder = file.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let fresh =
            tempfile::NamedTempFile::new_in(&self.path).context("create a temporary file in the store")?;
        fs::write(fresh.path(), value).with_context(|| format!("write {key}"))?;
        fresh.persist(&file).with_context(|| format!("put {key} in place"))?;
        Ok(())
    }

    /// Reads a value.
    pub fn get(&self, key: &str) -> Result<String> {
        let file = self.path.join(key);
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }

    /// Deletes a value.
    pub fn delete(&self, key: &str) -> Result<()> {
        let file = self.path.join(key);
        fs::remove_file(&file).with_context(|| format!("delete {}", file.display()))
    }

    /// The keys of all leases, sorted.
    pub fn leases(&self) -> Result<Vec<String>> {
        let folder = self.path.join("subnets");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                keys.push(format!("subnets/{name}"));
            }
        }
        keys.sort();
        Ok(keys)
    }
}
