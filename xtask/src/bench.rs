//! `cargo xtask bench`: how fast the overlay is, beside what the kernel does alone and what the machine can do at all.
//!
//! Contenders take turns within a round, and what counts is how they compare within it: on a machine that does other
//! things as well, nothing else means anything. No round counts whose packets took another path than is claimed.

mod agents;
mod checks;
mod claim;
mod contender;
mod cpu;
mod facts;
mod findings;
mod flows;
mod json;
mod metric;
mod plan;
mod plot;
mod program_runs;
mod progress;
mod report;
mod results;
mod rules;
mod schedule;
mod session;
mod site;
mod tables;
mod test_runs;
mod workload;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::bench::findings::Findings;
use crate::bench::plan::Plan;
use crate::bench::session::Session;
use crate::bench::site::Ballast;
use crate::setup::Tool;
use crate::toolchain::Wanted;
use crate::{congestion, ebpf, machine, peer, release, setup, shell, table};

/// What the checks need beside what makes the traffic.
const CHECKS: &[Tool] = &[("ethtool", "ethtool"), ("chrt", "util-linux"), ("bpftool", "bpftool")];

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The rows that matter most, two rounds: a few minutes.
    #[arg(long)]
    quick: bool,
    /// How many rounds; 5 unless told, 2 with --quick.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// How long each measurement takes; 3 unless told, 1 with --quick.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: Option<u16>,
    /// Only what programs take by themselves, packet by packet.
    #[arg(long, conflicts_with = "only")]
    prog: bool,
    /// Only contenders or workloads with this name, or with this in their names; may be given several times. What
    /// others are compared with is measured in any case.
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// More firewall rules in the forward path, which no packet fits.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(rules::MOST)))]
    rules: u32,
    /// Leases of other nodes in the store, and so in tables and maps.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(peer::MOST)))]
    leases: u32,
    /// Flows that are open while others are measured.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: u32,
    /// What TCP goes by: cubic unless told. One that paces, like bbr, measures its own clock more than the path.
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Writes all rows to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a report with plots, and what machine it is about, into this folder, too.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// Measures, and shows what came of it.
pub(crate) fn run(options: &Options) -> Result<()> {
    machine::require_root("the benchmark")?;
    let plan = Plan::of(options, congestion::choose(options.congestion.as_deref())?)?;
    setup::ensure(&[setup::NETWORK, CHECKS])?;
    let mut findings = Findings::default();
    if options.prog {
        ebpf::build(Wanted::Auto)?;
    } else {
        let agent = release::build_agent()?;
        shell::step(&plan.describe());
        findings = Session::run(&plan, &agent)?;
    }
    if options.only.is_empty() {
        shell::step("programs by themselves");
        findings.add_test_runs(plan.extent())?;
    }
    let rows = findings.rows();
    show(&findings);
    if let Some(file) = &options.json {
        json::write(file, &rows)?;
    }
    if let Some(folder) = &options.report {
        report::write(folder, &plan.describe(), &findings)?;
    }
    if !findings.failures.is_empty() {
        let list: Vec<_> = findings.failures.iter().map(|failure| format!("\n    {failure}")).collect();
        bail!("{} measurements do not count:{}", list.len(), list.concat());
    }
    println!("bench ok: {} rows, every path verified", rows.len());
    Ok(())
}

fn show(findings: &Findings) {
    for table in findings.tables() {
        println!("\n    {}\n\n{}", table.title, table::format(&table.rows, true));
    }
    for note in &findings.notes {
        println!("    {note}");
    }
}

impl Options {
    fn ballast(&self) -> Ballast {
        Ballast { rules: self.rules, leases: self.leases, flows: self.flows }
    }
}
