//! The command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bpf::TcAttach;
use crate::cleanup::CleanupArgs;

/// Node agent of the ovl overlay network: a drop-in for flanneld whose data plane is eBPF.
#[derive(Debug, Parser)]
#[command(name = "ovl-agent", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without one, `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take a lease and keep this node's tables equal to the leases (the default).
    Run(Box<RunArgs>),
    /// Ask a running agent what it is doing.
    Status(StatusArgs),
    /// Remove what agents made on this node: devices, routes, filters, firewall rules and files.
    Cleanup(CleanupArgs),
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Who moves the packets.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Data plane")]
    pub mode: Mode,
    /// Exit instead of falling back to the kernel path where --mode asks for eBPF and it does not work.
    #[arg(long, help_heading = "Data plane")]
    pub strict: bool,
    /// When packets may take the fast path. `always` skips netfilter for them: for clusters without network policies
    /// and without services.
    #[arg(long, value_enum, default_value = "off", help_heading = "Data plane")]
    pub fast_path: FastPath,
    /// The bridge whose ports are the pods.
    #[arg(long, value_name = "NAME", default_value = "cni0", help_heading = "Data plane")]
    pub pod_bridge: String,
    /// How to attach the programs.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Data plane")]
    pub tc_attach: TcAttach,
    /// Load the programs from this file instead of from this binary.
    #[arg(long, value_name = "FILE", help_heading = "Data plane")]
    pub bpf_object: Option<PathBuf>,

    /// Where the leases live: `dir:PATH` for a directory on this machine. Without it, etcd.
    #[arg(long, value_name = "STORE", conflicts_with_all = ["etcd_endpoints", "etcd_prefix"], help_heading = "Store")]
    pub store: Option<StoreArg>,
    /// Comma-separated etcd URLs.
    #[arg(
        long,
        value_name = "URLS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        help_heading = "Store"
    )]
    pub etcd_endpoints: Vec<String>,
    /// Prefix of the network's keys in etcd.
    #[arg(long, value_name = "PREFIX", default_value = "/coreos.com/network", help_heading = "Store")]
    pub etcd_prefix: String,

    /// Interface of the underlay, by name or by one of its addresses. Without it, the one that has --public-ip, else
    /// the one of the default route.
    #[arg(long, value_name = "NAME|IP", help_heading = "Node")]
    pub iface: Option<String>,
    /// Address that the other nodes send to. Without it, the interface's.
    #[arg(long, value_name = "IP", help_heading = "Node")]
    pub public_ip: Option<Ipv4Addr>,
    /// File to write the node's subnet to, for the CNI plugin.
    #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env", help_heading = "Node")]
    pub subnet_file: PathBuf,
    /// Socket that `ovl-agent status` asks.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, help_heading = "Node")]
    pub socket: PathBuf,
}

const DEFAULT_SOCKET: &str = "/run/ovl/agent.sock";

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

/// Who moves the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// eBPF where it works, else the kernel's own devices.
    Auto,
    /// eBPF; where it does not work, a warning and the kernel's own devices.
    Ebpf,
    /// The kernel's own devices only.
    Kernel,
}

/// When packets may take the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FastPath {
    /// Never; the programs only count.
    Off,
    /// Whenever sender and receiver are known.
    Always,
}

impl FastPath {
    /// The name of the option's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Always => "always",
        }
    }
}

/// A store other than etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreArg {
    /// A directory.
    Dir(PathBuf),
}

impl FromStr for StoreArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("dir", path)) if path.starts_with('/') => Ok(Self::Dir(path.into())),
            Some(("dir", _)) => Err("the path after dir: must be absolute".to_owned()),
            _ => Err("expected dir:PATH, such as dir:/var/lib/ovl".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"ovl-agent").chain(args))
    }

    #[test]
    fn run_is_the_default_and_takes_the_same_options() {
        let bare = parse(&["--mode", "kernel", "--store", "dir:/x"]).expect("valid");
        assert!(bare.command.is_none());
        assert_eq!(bare.run.mode, Mode::Kernel);
        let named = parse(&["run", "--mode", "kernel", "--store", "dir:/x"]).expect("valid");
        let Some(Command::Run(run)) = named.command else { panic!("run was asked for") };
        assert_eq!(run.store, Some(StoreArg::Dir("/x".into())));
    }

    #[test]
    fn the_fast_path_is_off_unless_asked_for() {
        assert_eq!(parse(&[]).expect("valid").run.fast_path, FastPath::Off);
    }

    #[test]
    fn bad_values_are_refused_and_named() {
        let table: [&[&str]; 6] = [
            &["--nonsense"],
            &["--mode", "fast"],
            &["--store", "file:/x"],
            &["--store", "dir:x"],
            &["--public-ip", "10.0.0.0/8"],
            &["--store", "dir:/x", "--etcd-endpoints", "http://127.0.0.1:2379"],
        ];
        for args in table {
            let error = parse(args).expect_err(args[0]);
            assert!(error.use_stderr(), "{args:?}");
            let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
            assert!(first_line.contains(args[0]) || first_line.contains("--store"), "{first_line}");
        }
    }
}
