//! What the whole machine has worked, from `/proc/stat`.

use std::fs;

use anyhow::{Context as _, Result};

/// `USER_HZ`, in which `/proc/stat` counts on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of all cores together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cpu {
    /// Not idle. What a hypervisor took away is not ours.
    pub(super) busy: f64,
    /// In softirqs, which is where packets are moved.
    pub(super) softirq: f64,
}

impl Cpu {
    /// Does `work`, and says what the machine did meanwhile.
    pub(super) fn during<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Self)> {
        let before = Self::now()?;
        let done = work()?;
        let after = Self::now()?;
        Ok((done, Self { busy: after.busy - before.busy, softirq: after.softirq - before.softirq }))
    }

    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        parse(&text).context("understand /proc/stat")
    }
}

/// The first line, proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, …
fn parse(text: &str) -> Option<Cpu> {
    let mut words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut next = || words.next()?.parse::<f64>().ok();
    let (user, nice, system) = (next()?, next()?, next()?);
    let (_idle, _iowait) = (next()?, next()?);
    let (irq, softirq) = (next()?, next()?);
    let busy = user + nice + system + irq + softirq;
    Some(Cpu { busy: busy / TICKS_PER_SECOND, softirq: softirq / TICKS_PER_SECOND })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_not_busy() {
        let text = "cpu  100 200 300 9000 9000 50 150 7000 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(parse(text), Some(Cpu { busy: 8.0, softirq: 1.5 }));
        assert_eq!(parse("intr 1 2"), None);
    }
}
