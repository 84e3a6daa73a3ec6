//! The file system that a guest runs in: files of this machine, the kernel's modules, and what is done there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::archive;
use super::binaries::Binaries;
use super::files::Files;
use super::kernel::Kernel;
use crate::setup;

/// The first process, and the script that it runs, in the guest.
const INIT: &str = include_str!("init.sh");
const INIT_PATH: &str = "init";
const TESTS_PATH: &str = "ovl-tests";

/// Programs of every system, which no table of tools names, and which busybox's differ from.
const BASE: &[&str] =
    &["sh", "cat", "grep", "sleep", "timeout", "mount", "umount", "unshare", "busybox", "modprobe"];

/// Siblings of the tools.
const FIREWALL: &[&str] =
    &["iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];

/// What the tools read, where it is there.
const DATA: &[&str] = &[
    "/etc/ethertypes",
    "/etc/iproute2",
    "/etc/protocols",
    "/etc/services",
    "/usr/lib/tc",
    "/usr/lib/x86_64-linux-gnu/tc",
    "/usr/lib/x86_64-linux-gnu/xtables",
    "/usr/share/iproute2",
];

/// What the guests of one run have in common.
pub(super) struct Initramfs {
    work: tempfile::TempDir,
}

impl Initramfs {
    /// Archives the tools, and what was built, below `folder`.
    pub(super) fn prepare(folder: &Path, binaries: &Binaries) -> Result<Self> {
        let mut files = Files::default();
        let tools = [setup::NETWORK, setup::INSPECTION].into_iter().flatten().map(|&(program, _)| program);
        for program in tools.chain(BASE.iter().chain(FIREWALL).copied()) {
            files.add_program(program)?;
        }
        for path in DATA {
            files.add_data(Path::new(path))?;
        }
        for path in binaries.paths() {
            files.add(path)?;
        }
        let work = tempfile::tempdir_in(folder).context("create a folder")?;
        let initramfs = Self { work };
        files.archive(&initramfs.tools())?;
        Ok(initramfs)
    }

    /// Makes the initramfs of a guest that runs `script`; the next of this name takes its place.
    pub(super) fn make(&self, kernel: &Kernel, name: &str, script: &str) -> Result<PathBuf> {
        let inside = |name: &str| self.work.path().join(name);
        for (name, text) in [(INIT_PATH, INIT), (TESTS_PATH, script)] {
            let path = inside(name);
            let context = || format!("write {}", path.display());
            fs::write(&path, text).with_context(context)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(context)?;
        }
        let scripts = inside("scripts.cpio");
        archive::of_files(self.work.path(), &[INIT_PATH, TESTS_PATH].map(Path::new), &scripts)?;
        let initramfs = inside(&format!("initramfs-{name}"));
        archive::join(&[&self.tools(), &kernel.modules(), &scripts], &initramfs)?;
        Ok(initramfs)
    }

    fn tools(&self) -> PathBuf {
        self.work.path().join("tools.cpio")
    }
}
