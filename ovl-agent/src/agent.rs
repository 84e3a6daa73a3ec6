//! The loop: everything that happens only says "look again", and looking again is one reconcile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use regex_lite::Regex;
use rtnetlink::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{info, warn};

use crate::backend::{Backend, OnLink};
use crate::cli::RunArgs;
use crate::control::answer;
use crate::family::{ByFamily, Family};
use crate::http::LoopEnd;
use crate::instance::Instance;
use crate::lease::{LeaseAttrs, LeaseKey};
use crate::netlink::{self, KernelEvents};
use crate::network::Network;
use crate::node::Node;
use crate::notify::Notify;
use crate::startup::Loaded;
use crate::store::{Held, Rejected, Store, renewal_interval};
use crate::subnet_env::SubnetEnv;
use crate::tables::{Look, Tables};
use crate::underlay::{Choice, Follow};
use crate::view::View;

mod config;
mod due;
mod errand;
mod flows;
mod health;
mod life;
mod pass;
mod publish;
mod reach;
mod report;
mod rules;
mod start;
mod tally;
mod term;

pub use life::run;

use due::{Due, Pause};
use errand::Errand;
use health::Health;
use life::Outside;
use reach::Reach;
use rules::Rules;
use start::public_ips;
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
/// When to look again at a lease that was just written, or that may not be ours any more.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A pass that takes longer waits for an answer of the kernel that never comes.
const PASS_LIMIT: Duration = Duration::from_mins(2);

/// Everything the loop knows.
struct Agent {
    args: RunArgs,
    handle: Handle,
    /// The task that talks to the kernel; it ends when the socket does.
    connection: JoinHandle<()>,
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
    /// Pods' interfaces whose traffic somebody shapes, as of the last listing.
    shaped: BTreeSet<u32>,
    /// `--pod-interface-regex`.
    pod_interfaces: Option<Regex>,
    on_link: OnLink,
    tally: Tally,
    rules: Rules,
    events: Arc<KernelEvents>,
    mode_reason: String,
    /// Loading the programs.
    programs: Errand<'static, Result<Loaded>>,
    store_name: String,
    /// Where the network config is written.
    config_place: String,
    /// Whether packets can travel, for the store to tell others.
    health: Health,
    store_error: Option<String>,
    /// Why our lease may not be ours any more; the store is being asked.
    loss: Option<String>,
    /// Counts what the watch said of our lease, and where that was when the store was last asked.
    own_news: u64,
    asked_at: u64,
    /// Why the last errand for our lease failed, as far as it was said.
    term_problem: Option<String>,
    rejected_items: Vec<Rejected>,
    rejected_leases: BTreeMap<(LeaseKey, Family), String>,
    errors: Vec<String>,
    changes_in_a_row: u32,
    subnet_env: Option<SubnetEnv>,
    /// The ranges of the network as an earlier run knew them.
    former_ranges: ByFamily<IpNet>,
    _instances: Vec<Instance>,
}

impl Agent {
    async fn serve<S: Store>(&mut self, store: &S, outside: Outside<'_>) -> Result<()> {
        let Outside { control, signals, loop_end, notify } = outside;
        let (send_updates, mut updates) = mpsc::channel(1024);
        let mut watching = std::pin::pin!(store.watch(send_updates));
        let (events, _watching) = watch_kernel(&self.events);
        let mut resync = ticker(RESYNC);
        let mut look_at_hooks = ticker(LOOK_AT_HOOKS);
        let mut heartbeat = ticker(HEARTBEAT);
        let mut idle_flows = Errand::idle();
        let mut look_at_rules = ticker(Duration::from_secs(self.args.iptables_resync));
        let mut rules = Errand::idle();
        let renew_every = self.renew_every();
        let mut renew_at = Instant::now() + renew_every;
        let mut readvertise_at = Instant::now();
        let (mut term, mut config, mut report) = (Errand::idle(), Errand::idle(), Errand::idle());
        let mut due = Due::default();
        let mut is_watching = true;
        loop {
            // Whether our lease may look otherwise than before.
            let mut is_news = false;
            tokio::select! {
                () = signals.wait() => return Ok(()),
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
                // At once: what netfilter decided until now may not be what it decides now.
                () = events.next_decision() => self.verify_anew(),
                _ = resync.tick() => {
                    self.doubt_ways();
                    due.for_events();
                    self.look_at_flows().into_iter().for_each(|look| idle_flows.begin(look));
                }
                _ = look_at_hooks.tick() => due.for_hooks(),
                _ = heartbeat.tick() => self.beat(loop_end, notify),
                () = notify.watchdog() => {}
                stream = control.accept() => answer(stream, self.document()),
                // Who asked may have gone.
                question = loop_end.question() => {
                    let _gone = question.send(self.facts());
                }
                () = idle_flows.done() => {}
                _ = look_at_rules.tick() => if let Some(look) = self.look_at_rules() {
                    rules.begin(look);
                },
                looked = rules.done() => {
                    self.take_look(looked, &mut due).into_iter().for_each(|next| rules.begin(next));
                }
                () = report.done() => {}
                read = config.done() => if self.take_config(read) {
                    due.for_news();
                },
                () = sleep_until(renew_at), if term.is_idle() => {
                    renew_at = Instant::now() + renew_every;
                    term.begin(self.renew(store));
                }
                result = term.done() => match self.new_term(result) {
                    NextTerm::Held(written) => {
                        // The watch may still bring what somebody wrote after us; the renewal compares.
                        if written {
                            renew_at = Instant::now() + LOOK_AGAIN;
                        }
                        is_news = true;
                        due.for_news();
                    }
                    NextTerm::Retry(pause) => {
                        renew_at = Instant::now() + pause;
                        readvertise_at = Instant::now() + LOOK_AGAIN;
                    }
                    NextTerm::Reacquire => term.begin(self.reacquire(store)),
                },
                look = due.now() => {
                    let started = Instant::now();
                    if timeout(PASS_LIMIT, self.pass(look)).await.is_err() {
                        return Err(stuck());
                    }
                    self.beat(loop_end, notify);
                    if self.are_rules_outdated() {
                        look_at_rules.reset_immediately();
                    }
                    due.passed(look, started, self.pause(look));
                    self.health.report(store, &mut report);
                }
                loaded = self.programs.done() => self.take_programs(loaded?, &mut due),
                ended = &mut self.connection => return Err(broken(ended)),
                () = sleep_until(readvertise_at), if term.is_idle() && self.is_misadvertised() => {
                    readvertise_at = Instant::now() + LOOK_AGAIN;
                    term.begin(self.readvertise(store));
                }
            }
            // What comes while a renewal is under way is looked at after it.
            if is_news && term.is_idle() && self.is_lost() {
                term.begin(self.renew(store));
            }
        }
    }

    fn renew_every(&self) -> Duration {
        let margin = u64::from(self.args.subnet_lease_renew_margin);
        renewal_interval(Duration::from_mins(margin))
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

    fn take_programs(&mut self, loaded: Loaded, due: &mut Due) {
        if loaded.fast_path.is_some() {
            info!("mode ebpf: {}", loaded.reason);
        }
        (self.tables.fast_path, self.mode_reason) = (loaded.fast_path, loaded.reason);
        due.for_events();
    }

    fn verify_anew(&mut self) {
        if let Some(fast_path) = &mut self.tables.fast_path
            && let Err(error) = fast_path.verify_anew()
        {
            warn!("{error:#}; flows on the fast path stay there until they are verified anew");
        }
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
            && let Err(error) = fast_path.beat()
        {
            warn!("{error:#}; the programs will leave everything to the kernel");
        }
    }
}

/// Notes what the kernel says, for as long as the result is kept.
fn watch_kernel(events: &Arc<KernelEvents>) -> (Arc<KernelEvents>, JoinSet<()>) {
    let mut watching = JoinSet::new();
    watching.spawn(netlink::watch(Arc::clone(events)));
    let rules = Arc::clone(events);
    watching.spawn(netlink::watch_rulesets(move || rules.note_rules()));
    (Arc::clone(events), watching)
}

fn stuck() -> anyhow::Error {
    anyhow!(
        "the kernel has not answered for {} s; ending, so that a fresh start can ask again (what is programmed stays)",
        PASS_LIMIT.as_secs()
    )
}

fn broken(ended: std::result::Result<(), tokio::task::JoinError>) -> anyhow::Error {
    let how = ended.err().map(|error| format!(" ({error})")).unwrap_or_default();
    anyhow!(
        "the netlink socket broke{how}; ending, so that a fresh start opens another (what is programmed stays)"
    )
}

fn ticker(period: Duration) -> Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
