//! The command line: flanneld's flags in Go's syntax and its environment variables, beside our own, and our
//! subcommands.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod check;
mod environment;
mod go;
mod run;
#[cfg(test)]
mod tests;
mod value;

pub use run::RunArgs;
pub use value::{FastPath, Mode, Secret, SourceCheck, StoreArg, Xdp};

use crate::cleanup::CleanupArgs;
use crate::docker_opts::DockerOptsArgs;
use crate::flows::Filter;
use crate::trace::TraceArgs;

/// Node agent of the ovl overlay network: a drop-in for flanneld whose data plane is eBPF.
#[derive(Debug, Parser)]
#[command(
    name = "ovl-agent",
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    after_help = "Flags are written as flanneld takes them: -flag and --flag are the same, and booleans take their \
                  value with '=' only. Every flag of `run` can also be an environment variable: FLANNELD_ and the \
                  flag's name in capitals with _ for -, such as FLANNELD_IP_MASQ=true. The command line wins."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take a lease and keep this node's tables equal to the leases (the default).
    Run(Box<RunArgs>),
    /// Ask a running agent what it is doing.
    Status(StatusArgs),
    /// List the flows on the fast path of a running agent, busiest first.
    Flows(FlowsArgs),
    /// Ask this kernel what it can do for ovl. Nothing is changed; the kernel may load modules that it has.
    #[command(
        after_help = "Exit status: 0 where vxlan's packets would take the fast path with the defaults of `run`, \
                            1 where not. What needs rights that the process lacks shows as '?'."
    )]
    Probe(ProbeArgs),
    /// Show what the programs decide about single packets, and why, while it runs.
    Trace(TraceArgs),
    /// Write options for Docker's daemon from subnet.env, as mk-docker-opts.sh does.
    DockerOpts(DockerOptsArgs),
    /// Remove what agents made on this node: devices, routes, filters, firewall rules and files.
    Cleanup(CleanupArgs),
}

/// Where a running agent answers.
pub const DEFAULT_SOCKET: &str = "/run/ovl/agent.sock";
/// flannel's place for `subnet.env`.
pub(crate) const DEFAULT_SUBNET_FILE: &str = "/run/flannel/subnet.env";

/// Options of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Socket of the agent.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
    /// All peers and everything that was rejected, not only the first few.
    #[arg(long, conflicts_with = "json")]
    pub all: bool,
}

/// Options of `flows`.
#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    /// Socket of the agent.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// One JSON object with all flows instead of a table.
    #[arg(long)]
    pub json: bool,
    /// All flows, not only the first 50.
    #[arg(long, conflicts_with = "json")]
    pub all: bool,
    /// Only flows that fit all these words: an address or a range, `tcp`, `udp` or `icmp`, a port.
    pub filter: Vec<Filter>,
}

/// Options of `probe`.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What the command line and the environment ask for.
#[derive(Debug)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// The options of `run` that differ from the default, for the log: without secrets.
    pub options: String,
    /// What was asked for and has no effect: one sentence each, for the log.
    pub warnings: Vec<String>,
}

/// Reads a command line, program name first; `variable` looks up environment variables.
///
/// # Errors
/// Help as well as usage errors; they know their exit status and where they are to be printed.
pub fn parse(
    argv: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, clap::Error> {
    let mut command = command();
    let mut line = go::rewrite(&command, argv);
    if let Some(reason) = line.stray.take() {
        return Err(command.error(ErrorKind::UnknownArgument, reason));
    }
    let mut environment = Vec::new();
    if line.is_run() {
        environment = environment::missing(&mut command, &line.given, variable)?;
        let tokens = environment.iter().map(environment::Setting::token);
        line.argv.splice(line.flags_at..line.flags_at, tokens);
    }
    let matches = command.try_get_matches_from_mut(&line.argv)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let mut run = match cli.command {
        None => cli.run,
        Some(Command::Run(run)) => *run,
        Some(
            other @ (Command::Status(_)
            | Command::Flows(_)
            | Command::Probe(_)
            | Command::Trace(_)
            | Command::DockerOpts(_)
            | Command::Cleanup(_)),
        ) => {
            return Ok(Invocation { command: other, options: String::new(), warnings: Vec::new() });
        }
    };
    let run_matches = matches.subcommand_matches("run").unwrap_or(&matches);
    let asked = check::Asked { command: &command, matches: run_matches, environment: &environment };
    let warnings = if run.version {
        Vec::new()
    } else {
        asked.check(&mut run).map_err(|reason| command.clone().error(ErrorKind::ValueValidation, reason))?
    };
    Ok(Invocation { options: asked.options(), command: Command::Run(Box::new(run)), warnings })
}

/// clap's description of the command line, with flags that take Go's forms.
fn command() -> clap::Command {
    let mut command = Cli::command().mut_args(go::adapt).mut_subcommand("run", |run| run.mut_args(go::adapt));
    command.build();
    command
}

/// The same with what the process was started with.
pub fn from_process() -> Result<Invocation, clap::Error> {
    parse(std::env::args_os(), |name| std::env::var_os(OsStr::new(name)))
}
