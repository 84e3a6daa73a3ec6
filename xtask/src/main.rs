//! What a person or CI types: `cargo xtask …`.

mod bench;
mod ci;
mod cluster;
mod congestion;
mod demo;
mod ebpf;
mod kernels;
mod log;
mod machine;
mod manifests;
mod median;
mod overlay;
mod path;
mod peer;
mod probe;
mod release;
mod remedy;
mod scale;
mod setup;
mod shell;
mod table;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, shows, tests and checks ovl.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds the BPF object, target/ovl.bpf.o, and sets up what that needs.
    BuildEbpf(ebpf::Options),
    /// Starts nodes, pods and agents on this machine, shows that they reach each other, and measures how fast.
    Demo(demo::Options),
    /// Measures how fast pods talk, beside the kernel alone and the bare network.
    Bench(bench::Options),
    /// Measures what the control plane costs with thousands of leases in etcd.
    Scale(scale::Options),
    /// Runs the tests, everything unless told.
    Test(test::Options),
    /// Runs the tests of what kernels differ in on Debian's kernels, booted in QEMU.
    Kernels(kernels::Options),
    /// Renders what deploy/ has for Kubernetes, with kustomize and Helm, and checks it against the API's schemas.
    Manifests,
    /// Runs what CI runs: format, lints, documentation, manifests, tests, a short demo, a tiny benchmark.
    Ci,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = ovl_tests::interrupt::catch_signals().and_then(|()| match arguments.task {
        Task::BuildEbpf(options) => ebpf::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Scale(options) => scale::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Kernels(options) => kernels::run(&options),
        Task::Manifests => manifests::run(),
        Task::Ci => ci::run(),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
