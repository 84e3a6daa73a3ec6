//! Archives that the kernel unpacks into its initramfs; it takes several, one after the other.

use std::fs::{self, File};
use std::io::{Write as _, copy};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Archives everything in `folder`.
pub(super) fn of_folder(folder: &Path, archive: &Path) -> Result<()> {
    let mut paths = Vec::new();
    list(folder, &mut paths)?;
    let inside: Vec<_> = paths.iter().filter_map(|path| path.strip_prefix(folder).ok()).collect();
    of_files(folder, &inside, archive)
}

/// Archives these files of `folder`, each after the folders above it: the kernel makes none that is not named.
pub(super) fn of_files(folder: &Path, files: &[&Path], archive: &Path) -> Result<()> {
    let mut names = tempfile::tempfile().context("create a temporary file")?;
    for file in files {
        names.write_all(file.as_os_str().as_bytes()).context("write the list of files")?;
        names.write_all(b"\0").context("write the list of files")?;
    }
    std::io::Seek::rewind(&mut names).context("rewind the list of files")?;
    let output = Command::new("cpio")
        .args(["--null", "--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(folder)
        .stdin(names)
        .stdout(create(archive)?)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .context("run cpio")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("cpio ended with {} for {}: {}", output.status, archive.display(), said.trim());
    }
    Ok(())
}

/// Puts archives one after the other.
pub(super) fn join(archives: &[&Path], into: &Path) -> Result<()> {
    let mut joined = create(into)?;
    for archive in archives {
        let mut part = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
        copy(&mut part, &mut joined).with_context(|| format!("write {}", into.display()))?;
    }
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}

/// What is in a folder, folders before what is in them.
pub(super) fn list(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        paths.push(path.clone());
        if path.is_dir() && !path.is_symlink() {
            list(&path, paths)?;
        }
    }
    Ok(())
}
