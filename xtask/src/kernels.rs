//! `cargo xtask kernels`: the tests of what kernels differ in, on Debian's kernels, each booted in QEMU.

mod archive;
mod binaries;
mod core;
mod files;
mod guest;
mod initramfs;
mod kernel;
mod mirror;
mod pair;
mod qemu;
mod release;
mod report;
mod series;
mod summary;
mod trial;
mod wire;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ovl_tests::{artifacts, interrupt};

use crate::kernels::binaries::{Binaries, PAIR, SUITES};
use crate::kernels::core::Choice;
use crate::kernels::initramfs::Initramfs;
use crate::kernels::kernel::Kernel;
use crate::kernels::mirror::Mirror;
use crate::kernels::qemu::Qemu;
use crate::kernels::series::Series;
use crate::kernels::summary::Row;
use crate::{setup, shell};

/// Options of `kernels`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The kernels' series; all unless told.
    #[arg(value_enum, value_name = "VERSION")]
    versions: Vec<Series>,
    /// Runs only tests whose names contain this.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    /// Runs every test, also those that are not in the core or are left out for a kernel.
    #[arg(long)]
    all: bool,
    /// Says which tests would run, and which are left out and why.
    #[arg(long)]
    list: bool,
    /// Runs what takes two machines instead, on the newest kernel unless told: XDP in the driver of network cards
    /// (virtio_net) that a wire joins.
    #[arg(long, conflicts_with_all = ["all", "list"])]
    pair: bool,
}

/// Runs the tests on the chosen kernels, or lists them.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.pair {
        let place = Place::open()?;
        let versions = match options.versions.as_slice() {
            [] => vec![place.newest()?],
            chosen => chosen.to_vec(),
        };
        if let Some(old) = versions.iter().find(|series| **series < Series::V6_1) {
            bail!("--pair is about XDP, which takes Linux 5.18; {old} has none to test");
        }
        return place.run_pairs(&versions, &options.filter);
    }
    let versions = if options.versions.is_empty() { &Series::ALL[..] } else { &options.versions };
    let choice = Choice { filter: &options.filter, all: options.all };
    if options.list {
        let binaries = Binaries::build(&SUITES)?;
        for &series in versions {
            print!("{}", choice.listing(series, &binaries.suites));
        }
        return Ok(());
    }
    let place = Place::open()?;
    place.run(versions, choice)
}

/// Runs the tests on the oldest kernel that has the whole fast path, and on the newest that the mirror has what takes two
/// machines, which meets most of it again: with the cards that XDP likes best, for the time that the others take.
pub(crate) fn run_for_ci() -> Result<()> {
    let place = Place::open()?;
    let newest = place.newest()?;
    place.run(&[Series::V6_1], Choice { filter: "", all: false })?;
    place.run_pairs(&[newest], "without_offloads")
}

/// Where kernels and logs are kept, for one run at a time.
struct Place {
    folder: PathBuf,
    mirror: Mirror,
    qemu: Qemu,
    _lock: File,
}

impl Place {
    fn open() -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the kernels are for x86-64, and run the programs that are built here");
        }
        setup::ensure(&[setup::NETWORK, setup::INSPECTION, setup::KERNELS])?;
        let folder = artifacts::target().join("kernels");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let lock = lock(&folder.join("lock"))?;
        let mirror = Mirror::open(folder.join("apt"))?;
        let qemu = Qemu::obtain(&folder)?;
        Ok(Self { folder, mirror, qemu, _lock: lock })
    }

    fn newest(&self) -> Result<Series> {
        for series in Series::ALL.into_iter().rev() {
            match self.kernel(series) {
                Ok(_) => return Ok(series),
                Err(error) => println!("    no kernel {series}: {error:#}"),
            }
            interrupt::check()?;
        }
        bail!("no kernel of any series can be had")
    }

    fn kernel(&self, series: Series) -> Result<Kernel> {
        Kernel::obtain(series, &self.mirror, &self.folder)
    }

    fn run(&self, versions: &[Series], choice: Choice<'_>) -> Result<()> {
        let binaries = Binaries::build(&SUITES)?;
        let initramfs = Initramfs::prepare(&self.folder, &binaries)?;
        self.each(versions, &SUITES, |series, kernel| {
            trial::run(&self.qemu, series, kernel, &initramfs, &binaries, choice)
        })
    }

    fn run_pairs(&self, versions: &[Series], filter: &str) -> Result<()> {
        let binaries = Binaries::build(&[PAIR])?;
        let initramfs = Initramfs::prepare(&self.folder, &binaries)?;
        self.each(versions, &pair::COLUMNS, |series, kernel| {
            pair::run(&self.qemu, series, kernel, &initramfs, &binaries, filter)
        })
    }

    fn each(
        &self,
        versions: &[Series],
        columns: &[&str],
        run: impl Fn(Series, &Kernel) -> Result<Row>,
    ) -> Result<()> {
        let mut rows = Vec::new();
        for &series in versions {
            shell::step(&format!("kernel {series}"));
            let row = self.kernel(series).and_then(|kernel| run(series, &kernel));
            interrupt::check()?;
            rows.push(row.unwrap_or_else(|error| {
                println!("    failed: {error:#}");
                Row::without_guest(series, columns)
            }));
        }
        summary::print(columns, &rows)
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!("another `cargo xtask kernels` is running here (it holds {})", path.display());
    }
    Ok(file)
}
