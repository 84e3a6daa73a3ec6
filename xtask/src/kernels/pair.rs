//! Two guests with one kernel, each with the same cards, joined by a wire: what takes a network card with a driver.

use anyhow::{Context as _, Result, ensure};

use super::binaries::Binaries;
use super::guest::{self, Guest};
use super::initramfs::Initramfs;
use super::kernel::Kernel;
use super::qemu::Qemu;
use super::series::Series;
use super::summary::Row;
use super::trial::{Part, cell, script, show};
use super::wire::Wire;

/// What the table of results has.
pub(super) const COLUMNS: [&str; 2] = ["pair, guest 1", "pair, guest 2"];

/// Boots a kernel twice, runs the tests in both guests at the same time, and shows what failed.
pub(super) fn run(
    qemu: &Qemu,
    series: Series,
    kernel: &Kernel,
    initramfs: &Initramfs,
    binaries: &Binaries,
    filter: &str,
) -> Result<Row> {
    let suite = binaries.suites.first().context("nothing was built for two guests")?;
    let tests: Vec<_> = suite.tests.iter().map(String::as_str).filter(|test| test.contains(filter)).collect();
    let number = tests.len();
    ensure!(
        number > 0,
        "no test of two guests has a name with '{filter}'; there are {}",
        suite.tests.join(", ")
    );
    let part = Part { name: suite.name, binary: &suite.binary, tests, left_out: 0 };
    let archive = initramfs.make(kernel, part.name, &script(binaries, &part))?;
    let wire = Wire::lay()?;
    let start = |guest| Guest::start(qemu, kernel, &archive, &wire.traits(guest));
    let mut guests = [start(1)?, start(2)?];
    guest::follow(&mut guests, &format!("two of {} run {number} tests", kernel.release))?;
    let [one, other] = guests.map(Guest::finish);
    let ran = [one?, other?];
    let ok = ran.iter().all(|ran| part.is_fine(ran));
    if !ok {
        for ran in ran.iter().filter(|ran| !part.is_fine(ran)) {
            show(ran)?;
        }
    }
    let results = ran.iter().map(|ran| cell(&part, ran.report.suite(part.name))).collect();
    let [one, other] = &ran;
    let time = Some(one.time.max(other.time));
    Ok(Row { series, release: kernel.release.clone(), boot: one.boot.max(other.boot), results, time, ok })
}
