//! What an agent takes while nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ovl_tests::agent::Agent;
use serde_json::{Value, json};

use super::etcd_requests::Requests;
use super::lease_change::pause;
use super::process::{Cpu, Memory};
use super::site::Site;

/// For what changes have left to do.
const SETTLE: Duration = Duration::from_secs(3);
/// The time that was asked about.
const TEN_MINUTES: Duration = Duration::from_mins(10);

/// What it took.
pub(super) struct Idle {
    time: Duration,
    cpu: Cpu,
    /// What etcd was asked.
    pub(super) requests: Requests,
    passes: u64,
    seconds_in_passes: f64,
    /// At the end.
    pub(super) memory: Memory,
    /// After a question for the status, whose answer names every peer.
    pub(super) memory_after_status: Memory,
}

impl Idle {
    /// Watches `agent` for `time`.
    pub(super) fn measure(site: &Site, agent: &Agent, time: Duration) -> Result<Self> {
        let pid = agent.pid().context("the agent has no process id")?;
        pause(SETTLE)?;
        let passes = Passes::of(agent)?;
        let requests = site.requests()?;
        let (started, cpu) = (Instant::now(), Cpu::of(pid)?);
        pause(time)?;
        let (time, cpu) = (started.elapsed(), Cpu::of(pid)?.since(cpu));
        let requests = site.requests()?.since(&requests);
        let memory = Memory::of(pid)?;
        let after = Passes::of(agent)?;
        Ok(Self {
            time,
            cpu,
            requests,
            passes: after.total - passes.total,
            seconds_in_passes: after.seconds - passes.seconds,
            memory,
            memory_after_status: Memory::of(pid)?,
        })
    }

    /// CPU time of the agent and its children, seconds in ten minutes.
    pub(super) fn cpu_seconds(&self) -> f64 {
        self.in_ten_minutes(self.cpu.total())
    }

    /// The children's part of it.
    pub(super) fn children_seconds(&self) -> f64 {
        self.in_ten_minutes(self.cpu.children)
    }

    pub(super) fn passes_per_minute(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let passes = self.passes as f64;
        passes / self.time.as_secs_f64() * 60.0
    }

    /// How long one took.
    pub(super) fn pass_milliseconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let passes = self.passes.max(1) as f64;
        self.seconds_in_passes / passes * 1e3
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "seconds": self.time.as_secs_f64(),
            "cpu_seconds": self.cpu.total().as_secs_f64(),
            "children_cpu_seconds": self.cpu.children.as_secs_f64(),
            "cpu_seconds_in_ten_minutes": self.cpu_seconds(),
            "passes": self.passes,
            "seconds_in_passes": self.seconds_in_passes,
            "etcd_requests": self.requests.json(),
            "peak_memory_bytes": self.memory.peak,
            "resident_memory_bytes": self.memory.resident,
            "peak_memory_after_status_bytes": self.memory_after_status.peak,
        })
    }

    fn in_ten_minutes(&self, time: Duration) -> f64 {
        time.as_secs_f64() * TEN_MINUTES.as_secs_f64() / self.time.as_secs_f64().max(1e-3)
    }
}

/// The agent's own count of its passes.
struct Passes {
    total: u64,
    seconds: f64,
}

impl Passes {
    fn of(agent: &Agent) -> Result<Self> {
        let status = agent.status()?;
        let total = status.pointer("/passes/total").and_then(Value::as_u64);
        let seconds = status.pointer("/passes/seconds").and_then(Value::as_f64);
        let both = total.zip(seconds).context("find the passes in the agent's status")?;
        Ok(Self { total: both.0, seconds: both.1 })
    }
}
