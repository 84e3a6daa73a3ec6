//! The loop: everything that happens only says "look again", and looking again is one reconcile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rtnetlink::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use crate::backend::{Backend, OnLink};
use crate::cli::{RunArgs, StoreArg};
use crate::control::{Control, answer};
use crate::family::{ByFamily, Family};
use crate::http::{HttpServer, LoopEnd, probes};
use crate::instance::Instance;
use crate::lease::{LeaseAttrs, LeaseKey};
use crate::netlink::{self, KernelEvents};
use crate::network::Network;
use crate::node::{Node, Underlay};
use crate::notify::Notify;
use crate::startup;
use crate::store::dir::DirStore;
use crate::store::etcd::EtcdStore;
use crate::store::{Held, Rejected, Store, renewal_interval};
use crate::subnet_env::{self, SubnetEnv};
use crate::sysctl;
use crate::tables::{Look, Tables};
use crate::underlay::{self, Choice, Follow};
use crate::view::View;

mod config;
mod due;
mod errand;
mod pass;
mod reach;
mod report;
mod rules;
mod tally;
mod term;

use due::{Due, Pause};
use errand::Errand;
use reach::Reach;
use rules::Rules;
use tally::Tally;
use term::NextTerm;

/// A program that was taken off, of which the kernel makes no event, comes back within this time.
const LOOK_AT_HOOKS: Duration = Duration::from_secs(3);
/// Everything is listed when nothing happened, whatever the events said.
const RESYNC: Duration = Duration::from_mins(1);
/// So many passes in a row that changed something are no burst any more.
const RESTLESS: u32 = 10;
/// How often the programs are told that we are alive.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// When to try again after a renewal that failed.
const RENEW_RETRY: Duration = Duration::from_mins(1);
/// When to try again to write a new address of this node into its lease.
const READVERTISE_RETRY: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop.
pub async fn run(args: RunArgs) -> Result<()> {
    let mut signals = Signals::catch()?;
    match &args.store {
        Some(StoreArg::Dir(path)) => {
            let store = DirStore::open(path).context("cannot use --store")?;
            Box::pin(run_on(&store, args, &mut signals)).await
        }
        None => {
            let store = EtcdStore::connect(&args.etcd_options()).await?;
            Box::pin(run_on(&store, args, &mut signals)).await
        }
    }
}

async fn run_on<S: Store>(store: &S, args: RunArgs, signals: &mut Signals) -> Result<()> {
    let result = run_until_told(store, args, signals).await;
    store.release().await;
    result
}

async fn run_until_told<S: Store>(store: &S, args: RunArgs, signals: &mut Signals) -> Result<()> {
    // Before the lease, for which we may have to wait: who waits is healthy, and not ready.
    let (probes, mut loop_end) = probes();
    let _server = HttpServer::listen(args.healthz_ip, args.healthz_port, probes).await?;
    let mut notify = Notify::from_env();
    notify.status(&format!("waiting for {}", store.describe()));
    let started = {
        let mut starting = std::pin::pin!(Agent::start(store, args));
        loop {
            tokio::select! {
                agent = &mut starting => break Some(agent?),
                () = notify.watchdog() => {}
                () = signals.wait() => break None,
            }
        }
    };
    let Some((mut agent, control)) = started else {
        info!("told to stop before there was a lease");
        return Ok(());
    };
    agent
        .serve(store, Outside { control: &control, signals, loop_end: &mut loop_end, notify: &mut notify })
        .await;
    notify.stopping();
    if let Some(fast_path) = &mut agent.tables.fast_path {
        fast_path.detach().await;
    }
    info!("stopped; device, routes and lease stay, and so does the traffic");
    Ok(())
}

/// Those who ask and those who are told.
struct Outside<'a> {
    control: &'a Control,
    signals: &'a mut Signals,
    loop_end: &'a mut LoopEnd,
    notify: &'a mut Notify,
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
    choice: Choice,
    follow: Follow,
    /// Whether something happened since the underlay was last looked at; a pass for the store's news does not look.
    is_underlay_doubted: bool,
    network: Network,
    /// Why the network config in the store is not the one in force.
    config_problem: Option<String>,
    backend: Backend,
    node: Node,
    /// What is true of this node now; the lease says it, too, or soon will.
    attrs: LeaseAttrs,
    held: Held,
    view: View,
    tables: Tables,
    reach: Reach,
    on_link: OnLink,
    tally: Tally,
    rules: Rules,
    events: Arc<KernelEvents>,
    mode_reason: String,
    store_name: String,
    store_error: Option<String>,
    rejected_items: Vec<Rejected>,
    rejected_leases: BTreeMap<(LeaseKey, Family), String>,
    errors: Vec<String>,
    changes_in_a_row: u32,
    subnet_env: Option<SubnetEnv>,
    _instances: Vec<Instance>,
}

impl Agent {
    async fn start<S: Store>(store: &S, args: RunArgs) -> Result<(Self, Control)> {
        let handle = netlink::connect()?;
        let network = startup::network(store).await?;
        sysctl::warn_unless_forwarding(network.pools.iter().map(|(family, _)| family));
        let choice = Choice::new(&args, network.ranges().iter().map(|(_, range)| *range).collect())?;
        let underlay = underlay::find(&handle, &choice).await?;
        let public_ips = public_ips(&args, &underlay);
        let backend = startup::backend(&handle, &network).await?;
        backend.check(&underlay, &public_ips)?;
        // The devices' names and the network's ranges are what our rows are known by.
        let devices = backend.devices();
        let names = devices.iter().map(|(_, name)| name.clone());
        let ranges = network.ranges();
        let names = names.chain(ranges.iter().map(|(_, range)| range.to_string()));
        let instances = names.map(|name| Instance::claim(&name)).collect::<Result<Vec<_>>>()?;
        let control = Control::listen(&args.socket)?;
        // Before anything is taken from the store: --strict may end it here.
        let loaded = startup::fast_path(&handle, &args, &underlay, &network).await?;
        let attrs = backend.attrs(&public_ips);
        let identity = attrs.identity().context("this node has no public address")?;
        startup::insist("claim this node's public IP", async || store.claim_identity(identity).await).await?;
        let previous = subnet_env::previous_subnets(&args.subnet_file);
        let held = startup::lease(store, &network, &attrs, previous).await?;
        let lease = held.lease.key;
        info!(
            "lease {} for {public_ips} on {} ({}, {})",
            lease.subnets(),
            underlay.name,
            backend.name(),
            store.describe()
        );
        let node = Node { underlay, public_ips, lease };
        // What stays the same when the network's ranges change, where there is such a thing.
        let device = devices.iter().next().map(|(_, name)| name.clone());
        let rules = Rules::new(&device.unwrap_or_else(|| network.name()));
        let mut tables = Tables::new(&handle, &backend, &network);
        tables.fast_path = loaded.fast_path;
        let agent = Self {
            store_name: store.describe(),
            args,
            handle,
            choice,
            follow: Follow::default(),
            is_underlay_doubted: false,
            network,
            config_problem: None,
            backend,
            node,
            attrs,
            held,
            view: View::default(),
            tables,
            reach: Reach::default(),
            on_link: OnLink::new(),
            tally: Tally::new(),
            rules,
            events: Arc::default(),
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

    async fn serve<S: Store>(&mut self, store: &S, outside: Outside<'_>) {
        let Outside { control, signals, loop_end, notify } = outside;
        let (send_updates, mut updates) = mpsc::channel(1024);
        let mut watching = std::pin::pin!(store.watch(send_updates));
        let events = Arc::clone(&self.events);
        let kernel_events = tokio::spawn(netlink::watch(Arc::clone(&events)));
        let mut resync = ticker(RESYNC);
        let mut look_at_hooks = ticker(LOOK_AT_HOOKS);
        let mut heartbeat = ticker(HEARTBEAT);
        let mut look_at_rules = ticker(Duration::from_secs(self.args.iptables_resync));
        let mut rules = Errand::idle();
        let margin = u64::from(self.args.subnet_lease_renew_margin);
        let renew_every = renewal_interval(Duration::from_mins(margin));
        let mut renew_at = Instant::now() + renew_every;
        let mut readvertise_at = Instant::now();
        let mut term = Errand::idle();
        let mut config = Errand::idle();
        let mut due = Due::default();
        let mut is_watching = true;
        loop {
            // Whether our lease may look otherwise than before.
            let mut is_news = false;
            tokio::select! {
                () = signals.wait() => break,
                // It ends only when the channel does. Were it to end before, the loop must neither spin nor stop.
                () = &mut watching, if is_watching => is_watching = false,
                Some(update) = updates.recv() => {
                    let news = self.take_all(update, &mut updates);
                    if news.config {
                        config.begin(Self::reread(store));
                    }
                    if news.own_lease {
                        renew_at = Instant::now();
                    }
                    is_news = true;
                    due.for_news();
                }
                () = events.next() => due.for_events(),
                _ = resync.tick() => due.for_events(),
                _ = look_at_hooks.tick() => due.for_hooks(),
                _ = heartbeat.tick() => self.beat(loop_end, notify),
                () = notify.watchdog() => {}
                stream = control.accept() => answer(stream, self.document()),
                // Who asked may have gone.
                question = loop_end.question() => {
                    let _gone = question.send(self.facts());
                }
                _ = look_at_rules.tick() => if let Some(look) = self.look_at_rules() {
                    rules.begin(look);
                },
                looked = rules.done() => if self.take_rules(looked) {
                    due.for_news();
                },
                text = config.done() => if self.take_config(text) {
                    due.for_news();
                },
                () = sleep_until(renew_at), if term.is_idle() => {
                    renew_at = Instant::now() + renew_every;
                    term.begin(self.renew(store));
                }
                result = term.done() => match self.new_term(result) {
                    NextTerm::Held => {
                        is_news = true;
                        due.for_news();
                    }
                    NextTerm::Retry => {
                        renew_at = Instant::now() + RENEW_RETRY;
                        readvertise_at = Instant::now() + READVERTISE_RETRY;
                    }
                    NextTerm::Reacquire => term.begin(self.reacquire(store)),
                },
                look = due.now() => {
                    let started = Instant::now();
                    self.pass(look).await;
                    self.beat(loop_end, notify);
                    if self.are_rules_outdated() {
                        look_at_rules.reset_immediately();
                    }
                    due.passed(started, self.pause(look));
                }
                () = sleep_until(readvertise_at), if term.is_idle() && self.is_misadvertised() => {
                    readvertise_at = Instant::now() + READVERTISE_RETRY;
                    term.begin(self.readvertise(store));
                }
            }
            // What comes while a renewal is under way is looked at after it.
            if is_news
                && term.is_idle()
                && let Some(reason) = self.lost()
            {
                error!("{reason}; taking it again, or another");
                self.tally.lease_losses += 1;
                term.begin(self.reacquire(store));
            }
        }
        kernel_events.abort();
    }

    fn pause(&self, look: Look) -> Pause {
        if !self.errors.is_empty() || self.changes_in_a_row >= RESTLESS {
            Pause::Restless
        } else if look == Look::Anew && self.changes_in_a_row == 0 {
            Pause::Share
        } else {
            Pause::Short
        }
    }

    /// Whether the first full sync is done.
    fn is_ready(&self) -> bool {
        self.subnet_env.is_some()
    }

    /// The document behind `ovl-agent status`.
    fn document(&self) -> String {
        serde_json::to_string(&self.facts()).unwrap_or_default()
    }

    /// Tells everybody that we are alive: the programs, who probes us, and the service manager.
    fn beat(&mut self, loop_end: &LoopEnd, notify: &mut Notify) {
        loop_end.turned();
        if self.is_ready() {
            loop_end.set_ready(true);
            notify.ready();
        }
        notify.status(&self.summary());
        if let Some(fast_path) = &mut self.tables.fast_path
            && let Err(error) = fast_path.extend_deadline()
        {
            warn!("{error:#}; the programs will leave everything to the kernel");
        }
    }
}

/// What peers send to: what the operator says, or the interface's own.
fn public_ips(args: &RunArgs, underlay: &Underlay) -> ByFamily<IpAddr> {
    underlay.addresses.map(|family, own| match family {
        Family::V4 => args.public_ip.map_or(*own, IpAddr::V4),
        Family::V6 => args.public_ipv6.map_or(*own, IpAddr::V6),
    })
}

fn ticker(period: Duration) -> Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
