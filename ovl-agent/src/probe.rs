//! `ovl-agent probe`: what this kernel can do for ovl, asked by doing it.
//!
//! Versions tell little about distributions' kernels, and nothing about what a container may do. Everything is asked in
//! a way that leaves nothing: maps and programs go with the process, devices and queueing disciplines are asked for
//! with a value that the kernel refuses once it knows what they are. As for the agent, the kernel may load a module
//! that it has for what is asked.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::cli::ProbeArgs;

mod bpf;
mod feature;
mod links;
mod outlook;
mod page;
mod surroundings;
mod xdp;

use feature::{Answer, Feature, Row};
use outlook::Outlook;

/// Everything that was asked, and what follows from it.
#[derive(Debug, Serialize)]
struct Report {
    /// Version of the agent.
    version: &'static str,
    /// Release of the kernel, which nothing here goes by.
    kernel: String,
    /// The answers.
    features: Vec<Row>,
    /// What an agent would do, by backend.
    backends: Vec<Outlook>,
    /// What `--xdp auto` would choose, for the interfaces that default routes lead out of.
    xdp: Vec<xdp::Outlook>,
}

/// Asks, prints the answers and returns whether vxlan's packets would take the fast path.
pub fn run(args: &ProbeArgs) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (features, xdp) = runtime
        .context("cannot start the event loop")?
        .block_on(async { (ask().await, xdp::outlook().await) });
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let backends = outlook::outlook(&features);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        kernel: release.trim().to_owned(),
        features,
        backends,
        xdp,
    };
    let text = if args.json {
        format!("{}\n", serde_json::to_string(&report).context("cannot write the answers as JSON")?)
    } else {
        page::render(&report)
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the answers")?;
    Ok(report.backends.iter().any(Outlook::is_fast_vxlan))
}

/// A row for every feature, in the order of [`Feature::all`].
async fn ask() -> Vec<Row> {
    let mut answers = bpf::ask();
    answers.extend(links::ask().await);
    answers.extend(surroundings::ask());
    let mut take = |feature: Feature| answers.remove(&feature).unwrap_or_else(Answer::not_asked);
    Feature::all().map(|feature| Row::new(feature, take(feature))).collect()
}
