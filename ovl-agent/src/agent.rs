//! The loop: everything that happens only says "look again", and looking again is one full reconcile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rtnetlink::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use crate::backend::Backend;
use crate::cli::{RunArgs, StoreArg};
use crate::control::{Control, answer};
use crate::instance::Instance;
use crate::lease::{LeaseAttrs, LeaseKey};
use crate::netlink;
use crate::network::Network;
use crate::node::Node;
use crate::startup;
use crate::store::dir::DirStore;
use crate::store::etcd::EtcdStore;
use crate::store::{Held, Rejected, Store};
use crate::subnet_env::SubnetEnv;
use crate::sysctl;
use crate::tables::Tables;
use crate::underlay::{self, Choice};
use crate::view::View;

mod pass;
mod report;
mod term;

use term::{NextTerm, TermFuture, settled};

/// A full pass when nothing happened: what was changed by hand without an event comes back within this time.
const RESYNC: Duration = Duration::from_secs(3);
/// At least this long between two passes, so that a burst of events is one pass.
const SPACING: Duration = Duration::from_millis(20);
/// The same while passes don't come to rest: the kernel may make an event of a change that it half made, and somebody
/// may undo what we do. News from the store are not held up by it.
const SPACING_WHILE_RESTLESS: Duration = Duration::from_secs(1);
/// So many passes in a row that changed something are no burst any more.
const RESTLESS: u32 = 10;
/// How often the programs are told that we are alive.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often our lease is renewed; it is good for 24 hours.
const RENEW: Duration = Duration::from_hours(1);
/// When to try again after a renewal that failed.
const RENEW_RETRY: Duration = Duration::from_mins(1);

/// Runs the agent until it is told to stop.
pub async fn run(args: RunArgs) -> Result<()> {
    let mut signals = Signals::catch()?;
    match &args.store {
        Some(StoreArg::Dir(path)) => {
            let store = DirStore::open(path).context("cannot use --store")?;
            Box::pin(run_on(store, args, &mut signals)).await
        }
        None => {
            let store = EtcdStore::connect(&args.etcd_endpoints, &args.etcd_prefix).await?;
            Box::pin(run_on(store, args, &mut signals)).await
        }
    }
}

async fn run_on<S: Store>(mut store: S, args: RunArgs, signals: &mut Signals) -> Result<()> {
    let result = run_until_told(&mut store, args, signals).await;
    store.release().await;
    result
}

async fn run_until_told<S: Store>(store: &mut S, args: RunArgs, signals: &mut Signals) -> Result<()> {
    let started = tokio::select! {
        agent = Agent::start(store, args) => Some(agent?),
        () = signals.wait() => None,
    };
    let Some((mut agent, control)) = started else {
        info!("told to stop before there was a lease");
        return Ok(());
    };
    agent.serve(store, &control, signals).await;
    if let Some(fast_path) = &mut agent.tables.fast_path {
        fast_path.detach().await;
    }
    info!("stopped; device, routes and lease stay, and so does the traffic");
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Everything the loop knows.
struct Agent {
    args: RunArgs,
    handle: Handle,
    network: Network,
    backend: Backend,
    node: Node,
    attrs: LeaseAttrs,
    held: Held,
    view: View,
    tables: Tables,
    mode_reason: String,
    store_name: String,
    store_error: Option<String>,
    rejected_items: Vec<Rejected>,
    rejected_leases: BTreeMap<LeaseKey, String>,
    errors: Vec<String>,
    changes_in_a_row: u32,
    subnet_env: Option<SubnetEnv>,
    _instances: Vec<Instance>,
}

impl Agent {
    async fn start<S: Store>(store: &mut S, args: RunArgs) -> Result<(Self, Control)> {
        sysctl::warn_unless_forwarding();
        let handle = netlink::connect()?;
        let network = startup::network(store).await?;
        let choice = Choice::new(&args, vec![network.ipv4.into()])?;
        let underlay = underlay::find(&handle, &choice).await?;
        let public_ip = args.public_ip.unwrap_or(underlay.ipv4());
        let backend = startup::backend(&handle, &network).await?;
        backend.check(&underlay, public_ip)?;
        // The device's name and the network's range are what our rows are known by.
        let names = backend.device().into_iter().chain([network.ipv4.to_string()]);
        let instances = names.map(|name| Instance::claim(&name)).collect::<Result<Vec<_>>>()?;
        let control = Control::listen(&args.socket)?;
        // Before anything is taken from the store: --strict may end it here.
        let loaded = startup::fast_path(&handle, &args, &underlay, network.ipv4).await?;
        startup::insist("claim this node's public IP", async || store.claim_identity(public_ip).await)
            .await?;
        let attrs = backend.attrs(public_ip);
        let held = startup::lease(store, &network, &attrs, &args.subnet_file).await?;
        let subnet = held.lease.key.ipv4;
        info!(
            "lease {subnet} for {public_ip} on {} ({}, {})",
            underlay.name,
            backend.name(),
            store.describe()
        );
        let node = Node { underlay, public_ip, subnet };
        let mut tables = Tables::new(&handle, &backend, network.ipv4);
        tables.fast_path = loaded.fast_path;
        let agent = Self {
            store_name: store.describe(),
            args,
            handle,
            network,
            backend,
            node,
            attrs,
            held,
            view: View::default(),
            tables,
            mode_reason: loaded.reason,
            store_error: None,
            rejected_items: Vec::new(),
            rejected_leases: BTreeMap::new(),
            errors: Vec::new(),
            changes_in_a_row: 0,
            subnet_env: None,
            _instances: instances,
        };
        Ok((agent, control))
    }

    async fn serve<S: Store>(&mut self, store: &S, control: &Control, signals: &mut Signals) {
        let (send_updates, mut updates) = mpsc::channel(1024);
        let mut watching = std::pin::pin!(store.watch(send_updates));
        let (send_wake, mut wake) = mpsc::channel(1);
        let kernel_events = tokio::spawn(netlink::watch(send_wake));
        let mut resync = ticker(RESYNC);
        let mut heartbeat = ticker(HEARTBEAT);
        let mut renew_at = Instant::now() + RENEW;
        let mut term: Option<TermFuture<'_>> = None;
        let mut due = false;
        let mut is_watching = true;
        let mut not_before = Instant::now();
        loop {
            // Whether our lease may look otherwise than before.
            let mut is_news = false;
            tokio::select! {
                () = signals.wait() => break,
                // It ends only when the channel does. Were it to end before, the loop must neither spin nor stop.
                () = &mut watching, if is_watching => is_watching = false,
                Some(update) = updates.recv() => {
                    self.take(update);
                    while let Ok(update) = updates.try_recv() {
                        self.take(update);
                    }
                    is_news = true;
                    due = true;
                    not_before = not_before.min(Instant::now() + SPACING);
                }
                Some(()) = wake.recv() => due = true,
                _ = resync.tick() => due = true,
                _ = heartbeat.tick() => self.beat(),
                stream = control.accept() => answer(stream, self.report().to_string()),
                () = sleep_until(renew_at), if term.is_none() => {
                    renew_at = Instant::now() + RENEW;
                    term = Some(self.renew(store));
                }
                result = settled(&mut term) => {
                    term = None;
                    match self.new_term(result) {
                        NextTerm::Held => (is_news, due) = (true, true),
                        NextTerm::Retry => renew_at = Instant::now() + RENEW_RETRY,
                        NextTerm::Reacquire => term = Some(self.reacquire(store)),
                    }
                }
                () = sleep_until(not_before), if due => {
                    due = false;
                    self.pass().await;
                    let rests = self.errors.is_empty() && self.changes_in_a_row < RESTLESS;
                    let pause = if rests { SPACING } else { SPACING_WHILE_RESTLESS };
                    not_before = Instant::now() + pause;
                }
            }
            // What comes while a renewal is under way is looked at after it.
            if is_news
                && term.is_none()
                && let Some(reason) = self.lost()
            {
                error!("{reason}; taking it again, or another");
                term = Some(self.reacquire(store));
            }
        }
        kernel_events.abort();
    }

    /// Tells the programs that we are alive.
    fn beat(&mut self) {
        if let Some(fast_path) = &mut self.tables.fast_path
            && let Err(error) = fast_path.extend_deadline()
        {
            warn!("{error:#}; the programs will leave everything to the kernel");
        }
    }
}

fn ticker(period: Duration) -> Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
