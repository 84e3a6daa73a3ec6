//! `cargo xtask scale`: what the control plane costs with thousands of leases in etcd.
//!
//! One real agent on a node of its own, a real etcd, and leases of nodes that are not there. It shows figures beside
//! what was asked for and judges nothing: on a busy machine all of them are larger.

mod etcd_requests;
mod figures;
mod fill;
mod first_sync;
mod idle;
mod lease_change;
mod marks;
mod monitor;
mod process;
mod report;
mod site;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::overlay::{Backend, Mode};
use crate::peer::Overlay;
use crate::scale::figures::Figures;
use crate::setup::Tool;
use crate::{machine, peer, release, setup, shell};

/// What reads etcd's own metrics.
const METRICS: &[Tool] = &[("curl", "curl")];

/// Options of `scale`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many leases other nodes hold; comma-separated, each is measured on its own.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10,1000,5000,10000",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(peer::MOST))
    )]
    leases: Vec<u32>,
    /// How packets would travel between the nodes; comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "vxlan")]
    backend: Vec<Backend>,
    /// Who would move them; comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kernel,ebpf")]
    mode: Vec<Mode>,
    /// Dual stack instead of IPv4.
    #[arg(long)]
    ipv6: bool,
    /// How many leases to add, change and remove one by one.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    changes: u32,
    /// How many seconds to watch the agent do nothing.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    idle: u32,
    /// Writes all figures to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures this agent instead of building one.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

/// Measures.
pub(crate) fn run(options: &Options) -> Result<()> {
    machine::require_root("the benchmark")?;
    ensure!(
        !options.backend.contains(&Backend::Udp),
        "peers of the udp backend are no matter of the kernel, which says when rows are there: leave it out"
    );
    setup::ensure(&[setup::NETWORK, setup::ETCD, METRICS])?;
    let agent = match &options.agent {
        Some(agent) => agent.canonicalize().with_context(|| format!("find {}", agent.display()))?,
        None => release::build_agent()?,
    };
    let mut all = Vec::new();
    for &backend in &options.backend {
        for &mode in &options.mode {
            let overlay = Overlay { backend, ipv6: options.ipv6 };
            let mut figures = Vec::new();
            for &leases in &options.leases {
                shell::step(&format!("{}, mode {}, {leases} leases", overlay.name(), mode.name()));
                figures.push(Figures::measure(options, &agent, overlay, mode, leases)?);
            }
            report::print(overlay, mode, &figures);
            all.push(json!({
                "backend": backend.name(),
                "mode": mode.name(),
                "ipv6": options.ipv6,
                "runs": figures.iter().map(Figures::json).collect::<Vec<_>>(),
            }));
        }
    }
    options.json.as_deref().map_or(Ok(()), |file| write(file, &Value::Array(all)))
}

fn write(file: &Path, value: &Value) -> Result<()> {
    fs::write(file, format!("{value:#}\n")).with_context(|| format!("write {}", file.display()))
}
