//! What a process has taken, as `/proc` has it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// `USER_HZ`, in which `/proc/PID/stat` counts on every architecture.
const TICKS_PER_SECOND: u32 = 100;

/// CPU time since the process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cpu {
    /// Its own.
    pub(super) own: Duration,
    /// That of children that have ended.
    pub(super) children: Duration,
}

/// Memory, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// The most that was ever resident.
    pub(super) peak: u64,
    /// What is resident.
    pub(super) resident: u64,
}

impl Cpu {
    /// Of process `pid`.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let stat = read(pid, "stat")?;
        let (ticks, children) = parse_stat(&stat).context("understand /proc/PID/stat")?;
        // An idle agent takes one tick in many seconds. Threads are counted in nanoseconds, but gone when they end.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).context("list the threads")?;
        let nanoseconds = threads.filter_map(|thread| {
            // One that ends at this moment has none.
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Ok(Self { own: Duration::from_nanos(nanoseconds.sum()).max(ticks), children })
    }

    pub(super) fn total(self) -> Duration {
        self.own + self.children
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            own: self.own.saturating_sub(earlier.own),
            children: self.children.saturating_sub(earlier.children),
        }
    }
}

impl Memory {
    /// Of process `pid`.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let status = read(pid, "status")?;
        let field = |name| parse_status(&status, name).with_context(|| format!("find {name} in its status"));
        Ok(Self { peak: field("VmHWM:")?, resident: field("VmRSS:")? })
    }
}

/// Whether it runs; one that ended and waits for its parent does not.
pub(super) fn is_alive(pid: u32) -> bool {
    let stat = read(pid, "stat").unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

fn read(pid: u32, name: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{name}")).with_context(|| format!("read {name} of process {pid}"))
}

/// Own and children's time: fields 14 to 17 of proc_pid_stat(5).
fn parse_stat(stat: &str) -> Option<(Duration, Duration)> {
    // The program's name, in parentheses, may contain blanks.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
    let mut both = || Some(Duration::from_secs(1) * (fields.next()?? + fields.next()??) / TICKS_PER_SECOND);
    Some((both()?, both()?))
}

/// A field of proc_pid_status(5) in bytes.
fn parse_status(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 6 1 20 0 1 0 4711 2 3";
        let expected = (Duration::from_secs(2), Duration::from_millis(70));
        assert_eq!(parse_stat(stat), Some(expected));
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t   30328 kB\nVmRSS:\t   28824 kB\n";
        assert_eq!(parse_status(status, "VmHWM:"), Some(30328 * 1024));
        assert_eq!(parse_status(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_lives_and_has_taken_something() {
        let pid = std::process::id();
        assert!(is_alive(pid) && !is_alive(u32::MAX));
        assert!(Cpu::of(pid).unwrap().total() > Duration::ZERO);
        let Memory { peak, resident } = Memory::of(pid).unwrap();
        assert!(peak >= resident && resident > 0);
    }
}
