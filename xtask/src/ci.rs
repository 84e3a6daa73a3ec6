//! `cargo xtask ci`: everything that must hold before a change lands, as one command for people and machines.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ovl_tests::netns;

use crate::probe::SYSTEM_RUSTC;
use crate::toolchain::{Choice, Wanted};
use crate::{ebpf, kernels, machine, manifests, setup, shell, test};

/// A named part.
struct Part {
    name: &'static str,
    run: fn() -> Result<()>,
}

const PARTS: &[Part] = &[
    Part { name: "format", run: format },
    Part { name: "BPF object", run: bpf_object },
    Part { name: "lints, host", run: lint_host },
    Part { name: "lints, BPF", run: lint_bpf },
    Part { name: "documentation", run: document },
    Part { name: "manifests", run: manifests::run },
    Part { name: "tests", run: run_tests },
    Part { name: "other kernels", run: kernels::run_for_ci },
    Part { name: "demo, short", run: demo },
    Part { name: "bench, tiny", run: bench },
];

/// Runs all parts, stops at the first that fails, and sums up.
pub(crate) fn run() -> Result<()> {
    machine::require_root("ci")?;
    let namespaces_before = netns::names()?;
    let mut times = Vec::new();
    let mut outcome = Ok(());
    for part in PARTS {
        shell::step(&format!("ci: {}", part.name));
        let start = Instant::now();
        outcome = (part.run)().with_context(|| format!("ci failed at: {}", part.name));
        times.push((part.name, outcome.is_ok(), start.elapsed()));
        if outcome.is_err() {
            break;
        }
    }
    let clean = nothing_left(&namespaces_before);
    summarize(&times);
    outcome.and(clean)?;
    println!("ci ok");
    Ok(())
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"])).context("`cargo fmt` puts it right")
}

fn bpf_object() -> Result<()> {
    ebpf::build(Wanted::Auto)?;
    Ok(())
}

fn lint_host() -> Result<()> {
    shell::run(shell::cargo().args("clippy --quiet --workspace --all-targets -- -D warnings".split(' ')))
}

/// Clippy must come from the compiler that knows the BPF target. Debian has it as rust-web-clippy: that `cargo-clippy`
/// runs whatever `cargo` is on PATH with its own `clippy-driver`.
fn lint_bpf() -> Result<()> {
    let (choice, _) = ebpf::ready_toolchain(Wanted::Auto)?;
    let mut command = match choice {
        Choice::Debian => debian_clippy()?,
        Choice::Rustup => ebpf::cargo(choice)?,
    };
    ebpf::with_bpf_target(&mut command, choice)?;
    command.args("clippy --quiet --release -p ovl-ebpf --bin ovl-bpf -- -D warnings".split(' '));
    shell::run(&mut command)
}

fn debian_clippy() -> Result<Command> {
    let driver = std::path::Path::new(SYSTEM_RUSTC).with_file_name("cargo-clippy");
    if !driver.exists() {
        setup::install_packages(&["rust-web-clippy"])?;
    }
    let mut command = Command::new(driver);
    command.current_dir(ovl_tests::artifacts::workspace());
    Ok(command)
}

fn document() -> Result<()> {
    let mut command = shell::cargo();
    command.args(["doc", "--quiet", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-D warnings");
    shell::run(&mut command)
}

/// The very command that the README gives.
fn run_tests() -> Result<()> {
    shell::run(shell::cargo().args(["xtask", "test"]))
}

fn demo() -> Result<()> {
    shell::run(&mut with_tested_agent("xtask demo --rounds 1"))
}

/// With the agent that the tests have built: optimising it takes six minutes, and no figure is looked at here.
fn with_tested_agent(line: &str) -> Command {
    let mut command = shell::cargo();
    command.args(line.split(' '));
    test::name_artifacts(&mut command);
    command
}

/// Not for its figures: it fails unless every packet took the path that is claimed.
fn bench() -> Result<()> {
    let only =
        "--only ovl-vxlan --only ovl-host-gw --only tcp-stream-1 --only tcp-rr-1-one-core --only tcp-crr";
    let line = format!("xtask bench --rounds 1 --seconds 1 {only}");
    shell::run(&mut with_tested_agent(&line))
}

/// Namespaces of ours that were not there before, but for those of test processes that run beside us.
fn nothing_left(before: &[String]) -> Result<()> {
    let mut left = netns::names()?;
    left.retain(|name| !before.contains(name) && !netns::is_in_use(name));
    if !left.is_empty() {
        bail!("network namespaces were left behind: {}", left.join(", "));
    }
    Ok(())
}

fn summarize(times: &[(&str, bool, Duration)]) {
    println!("\nci, in short:");
    for (name, ok, time) in times {
        println!("    {:<15} {:<7} {:>5} s", name, if *ok { "ok" } else { "FAILED" }, time.as_secs());
    }
}
