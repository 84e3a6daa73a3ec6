//! `cargo xtask test`: everything, or one suite.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use ovl_tests::artifacts;

use crate::toolchain::Wanted;
use crate::{ebpf, machine, setup, shell};

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One suite only.
    #[arg(value_enum)]
    suite: Option<Suite>,
    /// Runs only tests whose names contain this.
    filter: Option<String>,
}

/// The test suites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Functions, on any machine.
    Unit,
    /// The lease stores, also against a real etcd.
    Store,
    /// The BPF programs, run by the kernel on packets we make. Needs root.
    Prog,
    /// Agents, pods and real traffic in network namespaces. Needs root.
    Net,
}

/// Runs the suites.
pub(crate) fn run(options: &Options) -> Result<()> {
    let suites = options
        .suite
        .map_or_else(|| vec![Suite::Unit, Suite::Store, Suite::Prog, Suite::Net], |suite| vec![suite]);
    for suite in &suites {
        suite.check_rights()?;
    }
    setup::ensure(&suites.iter().flat_map(|suite| suite.tools()).copied().collect::<Vec<_>>())?;
    // The agent has the object inside, so that even the unit tests can't be built without.
    ebpf::build(Wanted::Auto)?;
    for suite in suites {
        suite.run(options.filter.as_deref())?;
    }
    Ok(())
}

impl Suite {
    fn check_rights(self) -> Result<()> {
        match self {
            Self::Unit | Self::Store => Ok(()),
            Self::Prog => machine::require_root("the suite prog"),
            Self::Net => machine::require_root("the suite net"),
        }
    }

    fn tools(self) -> &'static [&'static [setup::Tool]] {
        match self {
            Self::Unit | Self::Prog => &[],
            Self::Store => &[setup::ETCD],
            Self::Net => &[setup::NETWORK, setup::INSPECTION, setup::ETCD, setup::CONTAINERS],
        }
    }

    fn run(self, filter: Option<&str>) -> Result<()> {
        match self {
            Self::Unit => {
                cargo_test("unit tests", "--workspace --lib --bins", "", filter)?;
                cargo_test("examples in the documentation", "--workspace --doc", "", filter)
            }
            Self::Store => cargo_test("store tests", "-p ovl-tests --test store", "", filter),
            Self::Prog => cargo_test("program tests", "-p ovl-tests --test prog", "", filter),
            Self::Net => {
                shell::step("building the agent");
                shell::run(shell::cargo().args(["build", "--quiet", "-p", "ovl-agent"]))
                    .context("build the agent")?;
                cargo_test("netfilter tests", "-p ovl-tests --test netfilter", "--test-threads=1", filter)?;
                two_at_a_time("network tests", "-p ovl-tests --test harness --test net", filter)
            }
        }
    }
}

fn cargo_test(what: &str, targets: &str, harness_flags: &str, filter: Option<&str>) -> Result<()> {
    shell::step(what);
    shell::run(command(targets, harness_flags).args(filter))
}

/// Tests that wait more than they compute. Beside another one that takes all the cores have, a deadline can be missed: what
/// fails is said, and run again alone, which decides.
fn two_at_a_time(what: &str, targets: &str, filter: Option<&str>) -> Result<()> {
    shell::step(what);
    let all = format!("{targets} --no-fail-fast");
    let (result, output) = shell::run_and_read(command(&all, "--test-threads=2").args(filter))?;
    let failed = failed(&output);
    // A binary that broke off names nothing, and nothing that the other one names makes up for it.
    let has_ended = output.lines().filter(|line| line.starts_with("test result: ")).count();
    if result.is_ok() || failed.is_empty() || has_ended != targets.matches("--test ").count() {
        return result;
    }
    shell::step(&format!("once more, one at a time, what failed beside another test: {}", failed.join(", ")));
    shell::run(command(&all, "--test-threads=1 --exact").args(&failed))
}

fn command(targets: &str, harness_flags: &str) -> Command {
    let mut command = shell::cargo();
    command.args(["test", "--quiet"]).args(targets.split_whitespace()).arg("--");
    command.args(harness_flags.split_whitespace());
    name_artifacts(&mut command);
    command
}

/// The tests that a test binary names at its end.
fn failed(output: &str) -> Vec<&str> {
    let mut failed = Vec::new();
    let mut is_list = false;
    for line in output.lines() {
        match line.strip_prefix("    ") {
            Some(name) if is_list && !name.is_empty() && !name.contains(' ') => failed.push(name),
            _ => is_list = line == "failures:",
        }
    }
    failed
}

/// Tells the tests where the built things are.
pub(crate) fn name_artifacts(command: &mut Command) {
    command.env(artifacts::AGENT_VARIABLE, artifacts::target().join("debug/ovl-agent"));
    command.env(artifacts::BPF_OBJECT_VARIABLE, artifacts::target().join("ovl.bpf.o"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_named_at_the_end() {
        let output = "\
running 3 tests
.
pins::a_pin --- FAILED

failures:

---- pins::a_pin stdout ----
    at ./tests/net/pins.rs:7:5
the log of the agent ends:
    failures: none


failures:
    pins::a_pin
    xdp::natively_over_ipv4

test result: FAILED. 1 passed; 2 failed; 0 ignored
";
        assert_eq!(failed(output), ["pins::a_pin", "xdp::natively_over_ipv4"]);
        assert_eq!(failed("error: could not compile\n"), [""; 0]);
    }
}
