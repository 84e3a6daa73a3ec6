//! One run: an agent from its start to its end, with so many leases.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Options;
use super::first_sync::FirstSync;
use super::idle::Idle;
use super::lease_change::LeaseChanges;
use super::site::Site;
use crate::overlay::Mode;
use crate::peer::Overlay;

/// What was measured.
pub(super) struct Figures {
    pub(super) leases: u32,
    /// The machine's load average over the last minute when it began: what else runs slows everything.
    pub(super) load: f64,
    pub(super) first_sync: FirstSync,
    pub(super) changes: LeaseChanges,
    pub(super) idle: Idle,
}

impl Figures {
    /// Measures.
    pub(super) fn measure(
        options: &Options,
        binary: &Path,
        overlay: Overlay,
        mode: Mode,
        leases: u32,
    ) -> Result<Self> {
        let load = load()?;
        let site = Site::build(overlay, leases)?;
        let (first_sync, mut agent) = FirstSync::measure(&site, binary, mode)?;
        let changes = LeaseChanges::measure(&site, options.changes)
            .with_context(|| format!("the agent's log ends:\n{}", agent.log_tail()))?;
        let idle = Idle::measure(&site, &agent, Duration::from_secs(options.idle.into()))?;
        let status = agent.status()?;
        ensure!(
            status["mode"] == mode.name() && status["errors"].as_array().is_some_and(Vec::is_empty),
            "the agent is in mode {} and reports {}",
            status["mode"],
            status["errors"]
        );
        let ended = agent.terminate()?;
        ensure!(ended.success(), "the agent ended with {ended}; its log ends:\n{}", agent.log_tail());
        Ok(Self { leases, load, first_sync, changes, idle })
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "leases": self.leases,
            "load_average": self.load,
            "first_sync": self.first_sync.json(),
            "changes": self.changes.json(),
            "idle": self.idle.json(),
        })
    }
}

fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    first.parse().context("understand /proc/loadavg")
}
