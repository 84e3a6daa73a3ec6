//! `ovl-agent`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use ovl_agent::cli::{self, Command, Invocation, RunArgs};
use ovl_agent::{agent, cleanup, docker_opts, flows, probe, status, trace};
use tokio::runtime::Runtime;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let Invocation { command, options, warnings } = match cli::from_process() {
        Ok(invocation) => invocation,
        Err(error) => return usage(&error),
    };
    let result = match command {
        Command::Run(args) if args.version => print_version(),
        Command::Run(args) => run(*args, &options, &warnings),
        Command::Status(args) => status::print(&args),
        Command::Probe(args) => match probe::run(&args) {
            Ok(false) => return ExitCode::FAILURE,
            asked => asked.map(drop),
        },
        Command::Flows(args) => flows::print(&args),
        Command::Trace(args) => event_loop().and_then(|runtime| runtime.block_on(trace::run(&args))),
        Command::DockerOpts(args) => {
            event_loop().and_then(|runtime| runtime.block_on(docker_opts::run(&args)))
        }
        Command::Cleanup(args) => cleanup::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code stands.
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs, options: &str, warnings: &[String]) -> Result<()> {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|filter| !filter.is_empty());
    let filter = asked.and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(args.log_filter()));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_env_filter(filter)
        .init();
    info!("ovl-agent {} {options}", env!("CARGO_PKG_VERSION"));
    for warning in warnings {
        warn!("{warning}");
    }
    event_loop()?.block_on(agent::run(args))
}

fn event_loop() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the event loop")
}

/// Prints help or what is wrong with the command line. What is wrong is status 1, as everything that is.
fn usage(error: &clap::Error) -> ExitCode {
    let _closed = error.print();
    if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// On standard error, where those who ask flanneld look for it.
fn print_version() -> Result<()> {
    writeln!(std::io::stderr(), "ovl-agent {}", env!("CARGO_PKG_VERSION")).context("cannot print the version")
}
