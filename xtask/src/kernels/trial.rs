//! The tests on one kernel.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use ovl_tests::wait::PATIENCE_VARIABLE;

use super::binaries::Binaries;
use super::core::Choice;
use super::guest::{self, Guest, Ran, Traits};
use super::initramfs::Initramfs;
use super::kernel::Kernel;
use super::qemu::Qemu;
use super::report::{MARK, Suite};
use super::series::Series;
use super::summary::Row;

/// How much of what a dead kernel said is shown.
const CONSOLE_LINES: usize = 40;

/// What is asked of a suite.
pub(super) struct Part<'test> {
    pub(super) name: &'static str,
    pub(super) binary: &'test Path,
    pub(super) tests: Vec<&'test str>,
    pub(super) left_out: usize,
}

impl Part<'_> {
    /// Whether a guest ran it to its end and all was well.
    pub(super) fn is_fine(&self, ran: &Ran) -> bool {
        self.tests.is_empty()
            || ran.report.suite(self.name).is_some_and(|suite| suite.is_fine(self.tests.len()))
    }
}

/// Boots a kernel, runs the tests of the choice, and shows what failed.
pub(super) fn run(
    qemu: &Qemu,
    series: Series,
    kernel: &Kernel,
    initramfs: &Initramfs,
    binaries: &Binaries,
    choice: Choice<'_>,
) -> Result<Row> {
    let parts: Vec<_> = binaries
        .suites
        .iter()
        .map(|suite| {
            let (tests, left_out) = choice.split(series, suite.name, &suite.tests);
            Part { name: suite.name, binary: &suite.binary, tests, left_out: left_out.len() }
        })
        .collect();
    let number: usize = parts.iter().map(|part| part.tests.len()).sum();
    if number == 0 && parts.iter().any(|part| part.left_out > 0) {
        let results = parts.iter().map(|part| cell(part, None)).collect();
        return Ok(Row {
            series,
            release: "not needed".to_owned(),
            boot: None,
            results,
            time: None,
            ok: true,
        });
    }
    if number == 0 {
        bail!("no test of that name runs on {series}: `cargo xtask kernels --list` names those that do");
    }
    // Every suite in a guest of its own, all at the same time: one keeps one core busy.
    let asked: Vec<_> = parts.iter().filter(|part| !part.tests.is_empty()).collect();
    let mut guests = Vec::new();
    for part in &asked {
        let archive = initramfs.make(kernel, part.name, &script(binaries, part))?;
        let traits = Traits { suffix: format!("-{}", part.name), ..Traits::default() };
        guests.push(Guest::start(qemu, kernel, &archive, &traits)?);
    }
    guest::follow(&mut guests, &format!("{} runs {number} tests", kernel.release))?;
    let ran = guests.into_iter().map(Guest::finish).collect::<Result<Vec<_>>>()?;
    let failed: Vec<_> =
        asked.iter().zip(&ran).filter(|(part, ran)| !part.is_fine(ran)).map(|(_, ran)| ran).collect();
    failed.iter().try_for_each(|ran| show(ran))?;
    let suite = |name| ran.iter().find_map(|ran| ran.report.suite(name));
    Ok(Row {
        series,
        release: kernel.release.clone(),
        boot: ran.iter().filter_map(|ran| ran.boot).max(),
        results: parts.iter().map(|part| cell(part, suite(part.name))).collect(),
        time: ran.iter().map(|ran| ran.time).max(),
        ok: failed.is_empty(),
    })
}

/// What the guest does: one test at a time, since they measure and wait with deadlines.
pub(super) fn script(binaries: &Binaries, part: &Part<'_>) -> String {
    let mut script = format!("echo '{MARK} started'\n");
    // Writing to a string can't fail.
    for (name, path) in binaries.environment() {
        let _written = writeln!(script, "export {name}={}", quoted(path));
    }
    // A million would take an emulated machine half an hour.
    let _written = writeln!(script, "export OVL_HOSTILE_PACKETS=10000");
    // Without a processor's help everything takes ten to forty times longer, by the machine's mood.
    let _written = writeln!(script, "export {PATIENCE_VARIABLE}=5");
    let (name, binary, tests) = (part.name, quoted(part.binary), part.tests.join(" "));
    let _written = write!(
        script,
        "echo '{MARK} suite {name}'\n{binary} --test-threads=1 --color=never --include-ignored --exact {tests}\n\
         echo \"{MARK} status $?\"\n"
    );
    script
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Why a run failed, and where to read on.
pub(super) fn show(ran: &Ran) -> Result<()> {
    for suite in &ran.report.suites {
        print!("{}", suite.failures);
    }
    let unfinished = ran.report.suites.iter().find(|suite| suite.status.is_none());
    let place = unfinished.and_then(|suite| suite.last.as_deref()).unwrap_or("no test");
    if ran.hung {
        println!("    the guest said nothing any more and was ended; it ran {place}");
    } else if unfinished.is_some() || ran.report.suites.is_empty() {
        println!("    the guest died; it ran {place}");
    }
    if ran.hung || unfinished.is_some() || ran.report.suites.is_empty() {
        let console = guest::read(&ran.console)?;
        let lines: Vec<_> = console.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default();
        println!("    its kernel's last words ({}):\n{}", ran.console.display(), tail.join("\n"));
    }
    println!("    complete log: {}", ran.log.display());
    Ok(())
}

/// A suite's result in the table.
pub(super) fn cell(part: &Part<'_>, suite: Option<&Suite>) -> String {
    let mut text = match suite {
        _ if part.tests.is_empty() => "none".to_owned(),
        None => "NOT RUN".to_owned(),
        Some(suite) if suite.status.is_none() => {
            format!("ENDED in {}", suite.last.as_deref().unwrap_or("no test"))
        }
        Some(suite) => {
            let mut text = format!("{} ok", suite.passed);
            if !suite.is_fine(part.tests.len()) {
                let _written = write!(text, ", {} FAILED", part.tests.len().saturating_sub(suite.passed));
            }
            text
        }
    };
    if part.left_out > 0 {
        let _written = write!(text, ", {} left out", part.left_out);
    }
    if let Some(suite) = suite.filter(|suite| !suite.time.is_empty()) {
        let _written = write!(text, " ({})", suite.time);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(tests: Vec<&str>, left_out: usize) -> Part<'_> {
        Part { name: "net", binary: Path::new("/target/net"), tests, left_out }
    }

    #[test]
    fn a_suite_that_did_not_run_to_its_end_is_no_success() {
        assert_eq!(cell(&part(vec!["a::b"], 0), None), "NOT RUN");
        let mut suite = Suite { last: Some("a::b".to_owned()), ..Suite::default() };
        assert_eq!(cell(&part(vec!["a::b"], 0), Some(&suite)), "ENDED in a::b");
        suite.status = Some(101);
        assert_eq!(cell(&part(vec!["a::b"], 0), Some(&suite)), "0 ok, 1 FAILED");
        (suite.status, suite.passed, suite.time) = (Some(0), 1, "2.00s".to_owned());
        assert_eq!(cell(&part(vec!["a::b"], 3), Some(&suite)), "1 ok, 3 left out (2.00s)");
        assert_eq!(cell(&part(Vec::new(), 3), None), "none, 3 left out");
    }

    #[test]
    fn quotes_in_paths_reach_the_guest() {
        assert_eq!(quoted(Path::new("/a'b")), r"'/a'\''b'");
    }
}
