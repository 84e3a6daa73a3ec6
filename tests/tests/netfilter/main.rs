//! What the agent asks of netfilter, by its library in this process and in namespaces, judged with netfilter's own tools.
//! One test at a time: some count the processes that a look starts.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod firewall;
mod prolong;
mod verification;

use std::time::Duration;

/// How long anything may take that should take milliseconds.
const SOON: Duration = Duration::from_secs(5);
