//! What each program takes for one packet by itself, case by case: `tests/tests/prog/speed.rs`.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::metric::{INSTRUCTIONS, Metric, TIME};
use super::results::{Results, Sample};
use crate::{shell, test};

/// Whom these figures are of.
pub(super) const CONTENDER: &str = "ovl";
/// What the lines of figures begin with.
const MARK: &str = "speed: ";
const TEST: &str = "speed::every_case_has_its_time";

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) rounds: usize,
    pub(super) packets: usize,
    pub(super) leases: u32,
}

/// Figures of every program and case.
#[derive(Debug, Default)]
pub(super) struct TestRuns {
    pub(super) results: Results,
    /// Why no instructions are counted, where they are not.
    pub(super) no_instructions: Option<String>,
}

/// Runs all cases, with the tables as full as the leases make them.
pub(super) fn measure(extent: Extent) -> Result<TestRuns> {
    let mut build = cargo_test();
    shell::run_quietly(build.arg("--no-run"), "building the packet tests")
        .context("build the packet tests")?;
    let mut command = cargo_test();
    command.args(["--", "--exact", TEST, "--nocapture"]);
    command.env("OVL_SPEED_ROUNDS", extent.rounds.to_string());
    command.env("OVL_SPEED_PACKETS", extent.packets.to_string());
    command.env("OVL_SPEED_LEASES", extent.leases.to_string());
    let output = command.stdin(Stdio::null()).output().context("run the packet tests")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{TEST} failed ({}); `cargo xtask test prog speed` shows how:\n{}\n{}",
            output.status,
            text.trim(),
            said.trim()
        );
    }
    parse(&text)
}

fn cargo_test() -> Command {
    let mut command = shell::cargo();
    command.args(["test", "--quiet", "-p", "ovl-tests", "--test", "prog"]);
    test::name_artifacts(&mut command);
    command
}

fn parse(text: &str) -> Result<TestRuns> {
    let mut runs = TestRuns::default();
    for line in text.lines().filter_map(|line| line.strip_prefix(MARK)) {
        let figures: Value = serde_json::from_str(line).with_context(|| format!("parse {line:?}"))?;
        if let Some(why) = figures["no_instructions"].as_str() {
            runs.no_instructions = Some(why.to_owned());
            continue;
        }
        let word =
            |member: &str| figures[member].as_str().with_context(|| format!("no {member} in {line:?}"));
        let round = figures["round"].as_u64().with_context(|| format!("no round in {line:?}"))?;
        let workload = format!("{}: {}", word("program")?, word("case")?);
        let mut push = |metric: Metric, value: f64| -> Result<()> {
            let round = usize::try_from(round)?;
            runs.results.push(Sample {
                round,
                workload: workload.clone(),
                contender: CONTENDER,
                metric,
                value,
            });
            Ok(())
        };
        push(TIME, figures["ns"].as_f64().with_context(|| format!("no time in {line:?}"))?)?;
        if let Some(count) = figures["instructions"].as_f64() {
            push(INSTRUCTIONS, count)?;
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_between_what_the_test_harness_says() {
        let text = "\nrunning 1 test\nspeed: {\"no_instructions\":\"No such file\"}\n\
            speed: {\"case\":\"tunnel\",\"instructions\":null,\"ns\":100,\"program\":\"from_pod\",\"round\":0}\n\
            speed: {\"case\":\"tunnel\",\"instructions\":null,\"ns\":120,\"program\":\"from_pod\",\"round\":1}\n.\n";
        let runs = parse(text).unwrap();
        assert_eq!(runs.no_instructions.as_deref(), Some("No such file"));
        let rows = runs.results.rows();
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.workload.as_str(), row.rounds, row.metric), ("from_pod: tunnel", 2, TIME));
        assert!((row.value.median - 110.0).abs() < 1e-9 && row.path_verified);
        assert!(parse("speed: {\"round\":0}").is_err());
    }
}
