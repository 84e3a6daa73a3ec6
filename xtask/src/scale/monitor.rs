//! What the kernel says of its tables, and when, as `ip monitor` hears it.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use ovl_tests::background::{Background, Lifetime};
use ovl_tests::node::Node;
use ovl_tests::wait::wait_for;

const DEADLINE: Duration = Duration::from_secs(30);
/// A route of no meaning (RFC 5737), whose coming shows that the monitor hears.
const SIGN: &str = "203.0.113.0/24";

/// A running `ip monitor`; dropping it ends it.
#[derive(Debug)]
pub(super) struct Monitor {
    process: Background,
}

/// One thing that the kernel said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at: SystemTime,
    pub(super) text: String,
}

/// What tells an event from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) start: String,
    contains: String,
}

impl Mark {
    pub(super) fn new(start: String, contains: String) -> Self {
        Self { start, contains }
    }

    pub(super) fn fits(&self, line: &str) -> bool {
        line.starts_with(&self.start) && line.contains(&self.contains)
    }
}

impl Monitor {
    /// Listens to `objects` (routes are among them) in `node`.
    pub(super) fn start(node: &Node, objects: &str) -> Result<Self> {
        let command = node.command("ip").words("-ts monitor").words(objects).env("TZ", "UTC");
        let log = node.dir().join(format!("monitor-{}.log", objects.replace(' ', "-")));
        let process = Background::start(&command, &log, Lifetime::WithHarness)?;
        wait_for("`ip monitor` to hear the kernel", DEADLINE, || {
            // Each time anew: what is there already makes no event.
            node.netns().ip(&format!("route add blackhole {SIGN}"))?;
            node.netns().ip(&format!("route del blackhole {SIGN}"))?;
            Ok(process.log().contains(SIGN))
        })?;
        Ok(Self { process })
    }

    /// What was said so far, but for what is being written at this moment.
    pub(super) fn events(&self) -> Vec<Event> {
        self.process.log().lines().filter_map(parse).collect()
    }

    /// Waits for every mark at `since` or later, and says when the last one came.
    pub(super) fn wait_for(&self, what: &str, marks: &[Mark], since: SystemTime) -> Result<SystemTime> {
        let mut last = None;
        wait_for(what, DEADLINE, || {
            let events = self.events();
            let after = || events.iter().filter(|event| event.at >= since);
            let times = marks.iter().map(|mark| after().find(|event| mark.fits(&event.text)).map(|e| e.at));
            last = times.collect::<Option<Vec<_>>>().and_then(|times| times.into_iter().max());
            Ok(last.is_some())
        })?;
        last.with_context(|| format!("{what} has no marks"))
    }
}

/// `[2026-11-21T07:52:09.889756] 10.64.1.0/24 via …`, in UTC.
fn parse(line: &str) -> Option<Event> {
    let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
    let at = humantime::parse_rfc3339_weak(time).ok()?;
    Some(Event { at, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_their_time() {
        let line = "[2026-11-21T07:52:09.889756] Deleted 10.64.1.0/24 via 10.64.1.0 dev flannel.1";
        let event = parse(line).unwrap();
        let at = humantime::format_rfc3339_micros(event.at).to_string();
        assert_eq!((at.as_str(), &event.text[..7]), ("2026-11-21T07:52:09.889756Z", "Deleted"));
        assert_eq!(parse("netlink receive error No buffer space available (105)"), None);
        assert_eq!(parse("[2026-11-21T07:5"), None, "half a line");
    }
}
