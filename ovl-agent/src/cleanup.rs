//! `ovl-agent cleanup`: removes what agents made in this network namespace, and nothing else.
//!
//! What is ours is known by the same marks as in the tables (ARCHITECTURE.md, "Ownership"), without a store: aliases of
//! devices, the protocol number of routes, names and priority of filters, the folder of pins. With `--flannel` also what flanneld leaves
//! when it ends, which is all of it; that has no marks but names, and `subnet.env` for its ranges.
//!
//! Not removed: the clsact qdisc, which others may use; sysctls,
//! whose former values nobody knows; what the CNI plugin made; the lease, which ends by itself.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;
use rtnetlink::Handle;

use crate::cli::{DEFAULT_SOCKET, DEFAULT_SUBNET_FILE};
use crate::{firewall, netlink};

mod devices;
mod files;
mod filters;
mod managers;
mod pins;
mod routes;

use files::Ranges;

/// Options of `cleanup`.
#[expect(clippy::struct_excessive_bools, reason = "flags, one field each")]
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The lease in the store is left to expire, 24 hours after its last renewal; until then this node \
                        gets the same subnet again. Exit status: 0 when everything is gone, also when there was \
                        nothing; 1 when something could not be removed or an agent still runs."
)]
pub struct CleanupArgs {
    /// Also remove what flanneld left: its devices, its routes, its firewall rules.
    #[arg(long)]
    pub flannel: bool,
    /// Only remove what is BPF: the programs, where they are attached, and their maps. Connections go on by the kernel's
    /// own devices. For the step to a version with other maps.
    #[arg(long, conflicts_with = "flannel")]
    pub only_pins: bool,
    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// Remove it even while an agent or flanneld runs here, which may make it again.
    #[arg(long)]
    pub force: bool,
    /// The node's subnet.env, which is removed if anything else is. With --flannel its ranges tell flannel's routes
    /// from others.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_SUBNET_FILE)]
    pub subnet_file: PathBuf,
    /// The CNI configuration that --cni-conf wrote, which is removed: without another one, the node takes no pods.
    #[arg(long, value_name = "FILE")]
    pub cni_conf: Option<PathBuf>,
    /// The socket of the agent, which is removed where an agent that was killed left it.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Removes everything, one line per thing on standard output.
///
/// # Errors
/// Where an agent runs here, and where something could not be removed; the rest is removed all the same.
pub fn run(args: &CleanupArgs) -> Result<()> {
    if !args.force && !args.dry_run {
        let managers =
            managers::managers().context("cannot tell whether an agent runs here; --force goes on")?;
        ensure!(
            managers.is_empty(),
            "{} in this network namespace; stop that first, or --force",
            managers.join(" and ")
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the event loop")?.block_on(clean(args))
}

async fn clean(args: &CleanupArgs) -> Result<()> {
    let handle = netlink::connect()?;
    let ranges = if args.flannel { files::ranges(&args.subnet_file) } else { Ranges::default() };
    let mut report = Report { dry_run: args.dry_run, ..Report::default() };
    if args.flannel && ranges.is_empty() {
        let file = args.subnet_file.display();
        warn(&format!(
            "{file} names no ranges: flannel's routes past its own devices cannot be told and stay"
        ));
    }
    // The reverse of the order in which they are made. The files are last: they say what the rest is.
    match filters::find(&handle).await {
        Ok(found) => report.remove(&handle, found).await,
        Err(error) => report.failed("the tc filters", &error),
    }
    match pins::find() {
        Ok(found) => report.remove(&handle, found).await,
        Err(error) => report.failed("the pinned programs", &error),
    }
    if args.only_pins {
        return report.finish();
    }
    match devices::find(&handle, args.flannel).await {
        Ok(devices) => {
            match routes::find(&handle, &devices, &ranges).await {
                Ok(found) => report.remove(&handle, found).await,
                Err(error) => report.failed("the routes", &error),
            }
            report.remove(&handle, devices.leftovers()).await;
        }
        Err(error) => report.failed("the devices", &error),
    }
    firewall(args, &mut report).await;
    let found_others = report.removed + report.failed > 0;
    report.remove(&handle, files::find(args, found_others)).await;
    report.finish()
}

/// The firewall rules: ours, and with `flannel` also those of flanneld in either mode.
async fn firewall(args: &CleanupArgs, report: &mut Report) {
    // A dry run beside an agent tells what would go once the agent is stopped.
    let also = firewall::Also { in_use: args.force || args.dry_run, flannels: args.flannel };
    let outcome = firewall::remove_all(also, args.dry_run).await;
    for change in outcome.changes {
        report.removed(&format!("the firewall rules in {}", change.place), Ok(()));
    }
    for error in outcome.errors {
        report.failed("firewall rules", &anyhow!(error));
    }
}

/// One thing to remove.
#[derive(Debug)]
struct Leftover {
    what: String,
    how: Removal,
}

/// How to remove it; what has gone by itself meanwhile is a success.
#[derive(Debug)]
enum Removal {
    Filter(crate::bpf::filters::Filter),
    Route(rtnetlink::packet_route::route::RouteMessage),
    Device(u32),
    File(PathBuf),
    Folder(PathBuf),
    Pins(PathBuf),
}

impl Removal {
    async fn carry_out(self, handle: &Handle) -> Result<()> {
        match self {
            Self::Filter(filter) => filter.remove(handle).await,
            Self::Route(route) => routes::remove(handle, route).await,
            Self::Device(ifindex) => devices::remove(handle, ifindex).await,
            Self::File(path) => files::absent_is_success(std::fs::remove_file(path)),
            Self::Folder(path) => files::absent_is_success(std::fs::remove_dir(path)),
            Self::Pins(path) => crate::bpf::pins::remove_folder(&path),
        }
    }
}

/// What was done so far, told as it happens.
#[derive(Debug, Default)]
struct Report {
    dry_run: bool,
    removed: usize,
    failed: usize,
}

impl Report {
    async fn remove(&mut self, handle: &Handle, leftovers: Vec<Leftover>) {
        for Leftover { what, how } in leftovers {
            let result = if self.dry_run { Ok(()) } else { how.carry_out(handle).await };
            self.removed(&what, result);
        }
    }

    /// Tells of one thing that was removed, or would be, or could not be.
    fn removed(&mut self, what: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.removed += 1;
                say(&format!("{} {what}", if self.dry_run { "would remove" } else { "removed" }));
            }
            Err(error) => self.failed(what, &error),
        }
    }

    fn failed(&mut self, what: &str, error: &anyhow::Error) {
        self.failed += 1;
        warn(&format!("could not remove {what}: {error:#}"));
    }

    fn finish(self) -> Result<()> {
        match (self.removed, self.failed) {
            (0, 0) => say("nothing to remove"),
            (_, 0) if self.dry_run => {}
            (_, 0) => say("the lease in the store is left to expire"),
            (removed, failed) => bail!("{failed} of {} things could not be removed", removed + failed),
        }
        Ok(())
    }
}

fn say(line: &str) {
    // Whoever closed standard output does not want to read; removing goes on.
    let _closed = writeln!(std::io::stdout(), "{line}");
}

fn warn(line: &str) {
    // Standard error may be closed; the exit code stands.
    let _closed = writeln!(std::io::stderr(), "{line}");
}
