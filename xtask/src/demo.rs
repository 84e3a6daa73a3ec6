//! `cargo xtask demo`: a cluster on this machine that shows that the overlay works, and how fast.

mod cluster;
mod measure;
mod report;
mod state;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use ovl_tests::traffic;

use crate::demo::measure::Measurement;
use crate::demo::state::State;
use crate::overlay::{Backend, Mode};
use crate::{machine, release, setup, shell};

/// Options of `demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=100))]
    nodes: u8,
    /// Where the leases live: a directory, or a real etcd.
    #[arg(long, value_enum, default_value_t = StoreKind::Dir)]
    store: StoreKind,
    /// How packets travel between the nodes.
    #[arg(long, value_enum, default_value_t = Backend::Vxlan)]
    backend: Backend,
    /// Who moves the packets: BPF programs (compared with the kernel), which is the default where the backend has them,
    /// or the kernel alone.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// How often to measure; the table shows medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Leaves everything running, and says how to look around.
    #[arg(long)]
    keep: bool,
    /// Removes what an earlier `--keep` (or a killed demo) left, and does nothing else.
    #[arg(long, exclusive = true)]
    remove: bool,
}

impl Options {
    /// The mode that was asked for, or the best that the backend has.
    fn mode(&self) -> Mode {
        self.mode.unwrap_or(if self.backend == Backend::Udp { Mode::Kernel } else { Mode::Ebpf })
    }
}

/// The stores the demo can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    /// A directory.
    Dir,
    /// A real etcd on the underlay.
    Etcd,
}

/// Runs the demo, or removes an earlier one.
pub(crate) fn run(options: &Options) -> Result<()> {
    machine::require_root("the demo")?;
    if options.remove {
        return state::remove();
    }
    ensure!(
        options.backend != Backend::Udp || options.mode() == Mode::Kernel,
        "the udp backend has no eBPF mode: its packets are carried by the agents; leave --mode out"
    );
    let agent = prepare(options)?;
    let state = State::begin()?;
    match show(options, agent, &state) {
        Ok(pairs) => {
            if options.keep { state.keep() } else { state.end() }?;
            println!(
                "demo ok: {} nodes, {pairs} pod pairs reachable, mode {}",
                options.nodes,
                options.mode().name()
            );
            Ok(())
        }
        Err(error) => {
            // What the guards could not remove; the reason for the failure is worth more than a failure here.
            if let Err(left) = state.end() {
                eprintln!("could not clean up: {left:#}");
            }
            Err(error)
        }
    }
}

fn prepare(options: &Options) -> Result<PathBuf> {
    setup::ensure(match options.store {
        StoreKind::Dir => &[setup::NETWORK],
        StoreKind::Etcd => &[setup::NETWORK, setup::ETCD],
    })?;
    release::build_agent()
}

/// The demo itself; returns the number of pod pairs that reach each other.
fn show(options: &Options, agent: PathBuf, state: &State) -> Result<usize> {
    shell::step(&format!(
        "{} nodes, store {}, backend {}",
        options.nodes,
        options.store.name(),
        options.backend.name()
    ));
    let mut cluster = cluster::start(options, agent, state)?;
    report::leases(&cluster)?;

    let pairs = traffic::ping_all_pairs(cluster.pods())?;
    println!("    mode {}: {pairs} pod pairs reachable", options.mode().name());
    let measurement = Measurement::run(&mut cluster, options)?;
    report::figures(&measurement, options.backend);
    measurement.verify()?;

    if options.keep {
        report::look_around(&cluster);
        cluster.detach();
    }
    Ok(pairs)
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Etcd => "etcd",
        }
    }
}
