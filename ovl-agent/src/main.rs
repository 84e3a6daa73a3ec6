//! `ovl-agent`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use ovl_agent::cli::{self, Command, Invocation, RunArgs, StatusArgs};
use ovl_agent::{agent, status};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let Invocation { command, options, warnings } = match cli::from_process() {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    let result = match command {
        Command::Run(args) if args.version => print_version(),
        Command::Run(args) => run(*args, &options, &warnings),
        Command::Status(args) => print_status(&args),
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(agent::run(args))
}

/// On standard error, where those who ask flanneld look for it.
fn print_version() -> Result<()> {
    writeln!(std::io::stderr(), "ovl-agent {}", env!("CARGO_PKG_VERSION")).context("cannot print the version")
}

fn print_status(args: &StatusArgs) -> Result<()> {
    let status = status::ask(&args.socket)?;
    let text = if args.json { format!("{status}\n") } else { status::render(&status) };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the status")
}
