//! Files that others read while we write them.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Replaces a file atomically, readable for everybody; a reader sees the old one or the new one. Its folder is made where
/// it is missing. The temporary file beside it begins with a dot and has no extension, so that nobody who takes all files
/// of the folder (`*.conflist`, say) takes it.
///
/// # Errors
/// Where the folder cannot be made or written to; what was there stays.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let folder = path.parent().with_context(|| format!("{} is not a file's path", path.display()))?;
    fs::create_dir_all(folder).with_context(context)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.as_file().set_permissions(Permissions::from_mode(0o644)).with_context(context)?;
    file.persist(path).with_context(context)?;
    Ok(())
}

/// Whether a file says exactly this.
pub fn says(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes == text.as_bytes())
}
