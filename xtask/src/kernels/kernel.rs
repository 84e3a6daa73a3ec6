//! A kernel that can be booted: kept with its modules below target/kernels, so that the next run needs no mirror.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::archive;
use super::mirror::Mirror;
use super::series::Series;
use crate::{setup, shell};

/// Folders of modules that the tests may want; file systems and the rest of the drivers are of no use here.
const MODULES: [&str; 6] = ["arch", "crypto", "drivers/net", "drivers/virtio", "lib", "net"];

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// As `uname -r` says it.
    pub(super) release: String,
    folder: PathBuf,
}

impl Kernel {
    /// The newest of its series, from the mirror unless it is here already.
    pub(super) fn obtain(series: Series, mirror: &Mirror, folder: &Path) -> Result<Self> {
        let folder = folder.join(series.name());
        let here = Self::kept(&folder);
        match Self::fetch(series, mirror, &folder, here.as_ref()) {
            Ok(Some(fresh)) => Ok(fresh),
            Ok(None) => here.context("the kernel that was here is gone"),
            Err(error) => {
                ovl_tests::interrupt::check()?;
                let Some(here) = here else { return Err(error) };
                println!("    {} of an earlier run will do: {error:#}", here.release);
                Ok(here)
            }
        }
    }

    /// The compressed kernel.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The modules, as an archive for an initramfs.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("modules.cpio")
    }

    /// Where what belongs to this kernel is kept.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn kept(folder: &Path) -> Option<Self> {
        let mark = fs::read_to_string(folder.join("release")).ok()?;
        // One that was kept with other modules has to be unpacked anew.
        let release = mark.strip_suffix(&Self::mark(""))?.to_owned();
        Some(Self { release, folder: folder.to_owned() })
    }

    /// What is written once everything else of a release is here.
    fn mark(release: &str) -> String {
        format!("{release}\n{}\n", MODULES.join(" "))
    }

    /// The newest that can be downloaded; nothing when that is the one that is here.
    fn fetch(series: Series, mirror: &Mirror, folder: &Path, here: Option<&Self>) -> Result<Option<Self>> {
        let releases = mirror.releases(series)?;
        if releases.is_empty() {
            bail!(
                "Debian's mirror has no kernel {series} any more (the lists' log is in target/xtask); leave this series out"
            );
        }
        let mut last = None;
        for release in releases {
            if here.is_some_and(|here| here.release == release.name) {
                return Ok(None);
            }
            let work = tempfile::tempdir_in(folder.parent().unwrap_or(folder)).context("create a folder")?;
            // A name may stand in the lists without a package behind it.
            match mirror.download(&release, work.path()) {
                Ok(()) => return Self::unpack(&release.name, work.path(), folder).map(Some),
                Err(error) => last = Some(error),
            }
            ovl_tests::interrupt::check()?;
        }
        mirror.forget();
        last.map_or(Ok(None), |error| Err(error.context(format!("no release of {series} can be downloaded"))))
    }

    /// Takes from the packages in `work` what a guest needs, and keeps that in `folder`.
    fn unpack(release: &str, work: &Path, folder: &Path) -> Result<Self> {
        let root = work.join("root");
        setup::unpack_packages(work, &root)?;
        let installed = first([root.join("usr/lib/modules"), root.join("lib/modules")])?.join(release);
        let image = first([root.join(format!("boot/vmlinuz-{release}")), installed.join("vmlinuz")])?;

        let pruned = work.join("pruned");
        let modules = pruned.join("usr/lib/modules").join(release);
        for part in MODULES.map(|part| format!("kernel/{part}")) {
            move_to(&installed.join(&part), &modules.join(&part))?;
        }
        for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            move_to(&installed.join(list), &modules.join(list))?;
        }
        decompress(&modules)?;
        // depmod looks below lib/, the guest's layout is that of today's Debian.
        std::os::unix::fs::symlink("usr/lib", pruned.join("lib")).context("link lib")?;
        shell::run(Command::new("depmod").arg("-b").arg(&pruned).arg(release))?;
        fs::remove_file(pruned.join("lib")).context("remove the link lib")?;

        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        // Written last: without it nothing here counts.
        let mark = folder.join("release");
        if mark.exists() {
            fs::remove_file(&mark).with_context(|| format!("remove {}", mark.display()))?;
        }
        let kernel = Self { release: release.to_owned(), folder: folder.to_owned() };
        archive::of_folder(&pruned, &kernel.modules())?;
        move_to(&image, &kernel.image())?;
        fs::write(&mark, Self::mark(release)).with_context(|| format!("write {}", mark.display()))?;
        Ok(kernel)
    }
}

/// Done once here rather than at every boot, where it takes ten times as long.
fn decompress(modules: &Path) -> Result<()> {
    for (ending, program) in [("xz", "xz --decompress"), ("zst", "zstd --quiet --decompress --rm")] {
        let line = format!("find . -name '*.ko.{ending}' -print0 | xargs -0 -r -n 64 -P 2 {program}");
        shell::run(Command::new("sh").args(["-c", &line]).current_dir(modules))?;
    }
    Ok(())
}

fn first<const N: usize>(paths: [PathBuf; N]) -> Result<PathBuf> {
    let named = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" nor ");
    paths
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("the kernel's packages have neither {named}: has Debian's layout changed?"))
}

fn move_to(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::rename(from, to).with_context(|| format!("move {} to {}", from.display(), to.display()))
}
