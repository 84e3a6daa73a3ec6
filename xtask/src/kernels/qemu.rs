//! QEMU: the one on PATH, else the distribution's, unpacked beside the kernels.
//!
//! It is not installed: its packages can be at odds with what is there (a `qemu-utils` of another release has to go for
//! them), and are much for who only wants to run tests.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ovl_tests::command::{Cmd, Place};

use crate::{machine, setup};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// Where Debian's packages have libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// QEMU, ready to run.
pub(super) struct Qemu {
    program: PathBuf,
    /// Where it finds its libraries, if not where all do.
    libraries: Option<OsString>,
}

impl Qemu {
    /// Finds it, or unpacks it below `folder`, where the next run finds it.
    pub(super) fn obtain(folder: &Path) -> Result<Self> {
        if let Some(program) = machine::find_program(PROGRAM) {
            return Ok(Self { program, libraries: None });
        }
        let root = folder.join("qemu");
        let program = root.join("usr/bin").join(PROGRAM);
        if !program.exists() {
            let work = tempfile::tempdir_in(folder).context("create a folder")?;
            let packages = work.path().join("packages");
            fs::create_dir(&packages).context("create a folder for packages")?;
            setup::download_package(PACKAGE, &packages)?;
            let unpacked = work.path().join("root");
            setup::unpack_packages(&packages, &unpacked)?;
            fs::rename(&unpacked, &root).with_context(|| format!("keep QEMU in {}", root.display()))?;
        }
        let libraries = LIBRARIES.map(|part| root.join(part));
        let libraries =
            env::join_paths(libraries).context("a folder with a colon in its name cannot hold QEMU")?;
        Ok(Self { program, libraries: Some(libraries) })
    }

    /// Starts to describe a run of it in `place`.
    pub(super) fn command(&self, place: &Place) -> Cmd {
        let command = place.command(&self.program);
        match &self.libraries {
            Some(libraries) => command.env("LD_LIBRARY_PATH", libraries),
            None => command,
        }
    }
}
