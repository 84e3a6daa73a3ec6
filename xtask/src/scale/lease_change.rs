//! One lease that changes: from the request to etcd until the kernel has every row.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use ovl_tests::dialogue::Dialogue;
use ovl_tests::wait::wait_for;
use serde_json::{Value, json};

use super::monitor::{Mark, Monitor};
use super::site::Site;
use crate::median::median;
use crate::peer::Peer;

/// What `etcdctl txn -i` asks for last.
const LAST_PROMPT: &str = "failure requests";

/// How long changes of one kind took, milliseconds.
#[derive(Debug, Default)]
pub(super) struct Times(Vec<f64>);

/// Changes of all kinds.
#[derive(Debug, Default)]
pub(super) struct LeaseChanges {
    /// A lease appears.
    pub(super) new: Times,
    /// Its node has another public address and other MACs.
    pub(super) moved: Times,
    /// It disappears.
    pub(super) deleted: Times,
}

impl LeaseChanges {
    /// Adds, changes and removes `count` leases one by one.
    pub(super) fn measure(site: &Site, count: u32) -> Result<Self> {
        let mut changes = Self::default();
        let monitor = Monitor::start(site.node()?, "route neigh")?;
        for step in 0..count {
            let peer = site.peer(site.leases + step);
            let moved = Peer { has_moved: true, ..peer };
            let change = |what: &str, command: &str, marks: &[Mark]| -> Result<f64> {
                // At another point of the agent's clock each time, and neither while the last change is still at work.
                pause(Duration::from_millis(400 + u64::from(step * 137 % 500)))?;
                let started = request(site, command)?;
                let what = format!("lease {} to be {what}", peer.etcd_key());
                let done = monitor.wait_for(&what, marks, started)?;
                Ok(done.duration_since(started).unwrap_or_default().as_secs_f64() * 1e3)
            };
            let put = |peer: &Peer| format!("put {} {:?}", peer.etcd_key(), peer.value());
            changes.new.0.push(change("programmed", &put(&peer), &peer.appears())?);
            changes.moved.0.push(change("moved", &put(&moved), &moved.moves())?);
            changes.deleted.0.push(change(
                "removed",
                &format!("del {}", peer.etcd_key()),
                &moved.disappears(),
            )?);
        }
        Ok(changes)
    }

    pub(super) fn json(&self) -> Value {
        let Self { new, moved, deleted } = self;
        json!({"new_milliseconds": new.0, "moved_milliseconds": moved.0, "deleted_milliseconds": deleted.0})
    }
}

impl Times {
    /// Median and maximum; `None` where nothing was measured.
    pub(super) fn median_and_most(&self) -> Option<(f64, f64)> {
        Some((median(self.0.iter().copied())?, self.0.iter().copied().fold(0.0, f64::max)))
    }
}

/// Has etcd do `command`, and says when it was sent: by a client that has been started before and waits for its last
/// word, for starting one takes longer than all that is measured.
fn request(site: &Site, command: &str) -> Result<SystemTime> {
    let mut client = Dialogue::start(&site.etcd.etcdctl().words("txn --interactive"))?;
    client.say(&format!("\n{command}\n\n"))?;
    client.hear(LAST_PROMPT)?;
    let sent = SystemTime::now();
    client.say("\n")?;
    client.finish().with_context(|| format!("{command} in etcd"))?;
    Ok(sent)
}

/// Lets time pass.
pub(super) fn pause(time: Duration) -> Result<()> {
    let started = Instant::now();
    wait_for("time to pass", time * 2, || Ok(started.elapsed() >= time))
}
