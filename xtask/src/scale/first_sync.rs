//! From the agent's start to the first full sync.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use ovl_tests::agent::Agent;
use ovl_tests::wait::wait_for;
use serde_json::{Value, json};

use super::etcd_requests::Requests;
use super::marks::is_route;
use super::monitor::Monitor;
use super::process::{self, Memory};
use super::site::Site;
use crate::log::time_of;
use crate::overlay::Mode;

/// Long enough for an agent that does far worse than it should.
const DEADLINE: Duration = Duration::from_mins(3);

/// How the first sync went.
pub(super) struct FirstSync {
    /// From the start of the process until it says that it is ready.
    pub(super) start_to_ready: Duration,
    /// From before the leases are listed until the agent says that all rows are written; `None` where its log does not
    /// say so.
    pub(super) list_to_rows: Option<Duration>,
    /// From the same moment until the kernel says that the last route is there.
    pub(super) list_to_last_route: Option<Duration>,
    /// From the first route to the last, as the kernel says.
    pub(super) first_to_last_route: Option<Duration>,
    /// What etcd was asked meanwhile.
    pub(super) requests: Requests,
    /// At the end.
    pub(super) memory: Memory,
}

impl FirstSync {
    /// Starts `agent` and waits until it is ready and everything is in the kernel.
    pub(super) fn measure(site: &Site, binary: &std::path::Path, mode: Mode) -> Result<(Self, Agent)> {
        let node = site.node()?;
        // Routes only: they are written last, and ten thousand events are enough to listen to on the same machine.
        let monitor = Monitor::start(node, "route")?;
        let requests = site.requests()?;
        let started = SystemTime::now();
        let agent = Agent::start(node, &site.agent_options(binary, mode))?;
        let pid = agent.pid().context("the agent has no process id")?;
        wait_until_ready(&agent, pid)?;
        // Before any question for the status, whose answer takes memory, too.
        let memory = Memory::of(pid)?;
        let requests = site.requests()?.since(&requests);

        let expected = usize::try_from(site.leases * site.overlay.families())?;
        let routes = site.routes()?;
        ensure!(routes == expected, "the agent is ready and has {routes} routes instead of {expected}");
        let log = agent.log();
        let said = |what: &str| time_of(&log, what);
        let ready = said("ready:").context("find the time in the agent's log")?;
        let listed = said("lease ");
        let since_list = |at: Option<SystemTime>| at?.duration_since(listed?).ok();
        let events = monitor.events();
        let ours = || events.iter().filter(|event| is_route(&event.text)).map(|event| event.at);
        let (first, last) = (ours().min(), ours().max());
        let sync = Self {
            start_to_ready: ready.duration_since(started).unwrap_or_default(),
            list_to_rows: since_list(said("rows written")),
            list_to_last_route: since_list(last),
            first_to_last_route: last.zip(first).and_then(|(last, first)| last.duration_since(first).ok()),
            requests,
            memory,
        };
        Ok((sync, agent))
    }

    pub(super) fn json(&self) -> Value {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        json!({
            "start_to_ready_seconds": self.start_to_ready.as_secs_f64(),
            "list_to_rows_seconds": seconds(self.list_to_rows),
            "list_to_last_route_seconds": seconds(self.list_to_last_route),
            "first_to_last_route_seconds": seconds(self.first_to_last_route),
            "etcd_requests": self.requests.json(),
            "peak_memory_bytes": self.memory.peak,
            "resident_memory_bytes": self.memory.resident,
        })
    }
}

/// By its log alone: a question for its status would be work for it.
fn wait_until_ready(agent: &Agent, pid: u32) -> Result<()> {
    let mut is_alive = true;
    let waited = wait_for("the agent to be ready", DEADLINE, || {
        is_alive = process::is_alive(pid);
        Ok(!is_alive || agent.log().contains("ready:"))
    });
    if !is_alive {
        bail!("the agent ended before it was ready; its log ends:\n{}", agent.log_tail());
    }
    waited.with_context(|| format!("its log ends:\n{}", agent.log_tail()))
}
