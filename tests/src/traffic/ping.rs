//! ICMP echo.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::START_DEADLINE;
use crate::background::Background;
use crate::netns::Netns;
use crate::pod::Pod;
use crate::wait::wait_for;

/// Pings until one answer comes.
pub fn ping(from: &Netns, to: impl Into<IpAddr>) -> Result<()> {
    ping_with(from, to.into(), &[])
}

/// Pings with packets of exactly `bytes` with their IP header, which must not be fragmented.
pub fn ping_packet(from: &Netns, to: impl Into<IpAddr>, bytes: u64) -> Result<()> {
    const ICMP_HEADER: u64 = 8;
    let to = to.into();
    let payload = bytes - ICMP_HEADER - if to.is_ipv4() { 20 } else { 40 };
    ping_with(from, to, &["-M", "do", "-s", &payload.to_string()])
}

/// Pings with `payload` bytes that travel in as many fragments as it takes.
pub fn ping_fragments(from: &Netns, to: impl Into<IpAddr>, payload: u64) -> Result<()> {
    ping_with(from, to.into(), &["-M", "dont", "-s", &payload.to_string()])
}

/// Pings `count` times as fast as a person may, and says what became of it.
pub fn ping_burst(from: &Netns, to: impl Into<IpAddr>, count: u32) -> Result<PingSummary> {
    let to = to.into().to_string();
    let output = from.command("ping").words(&format!("-n -D -q -i 0.002 -W 1 -c {count} {to}")).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| format!("read the summary of ping: {}", text.trim()))
}

fn ping_with(from: &Netns, to: IpAddr, options: &[&str]) -> Result<()> {
    let once = from.command("ping").args(["-n", "-c", "1", "-W", "1"]).args(options).arg(to.to_string());
    wait_for(&format!("an answer from {to} to {}", from.name()), START_DEADLINE, || once.run().map(|_| true))
}

/// Pings every pod from every other one, at all its addresses, and returns the number of ordered pairs.
pub fn ping_all_pairs(pods: &[Pod]) -> Result<usize> {
    let mut pairs = 0;
    for (from_index, from) in pods.iter().enumerate() {
        for (_, to) in pods.iter().enumerate().filter(|&(to_index, _)| to_index != from_index) {
            for address in to.addresses() {
                ping(from.netns(), address)
                    .with_context(|| format!("pod {} does not reach pod {}", from.label(), to.label()))?;
            }
            pairs += 1;
        }
    }
    Ok(pairs)
}

/// A ping every 10 ms until stopped.
#[derive(Debug)]
pub struct PingInBackground {
    process: Background,
}

/// What became of a background ping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PingSummary {
    /// Echo requests sent. The last one may still have been on its way.
    pub transmitted: u64,
    /// Echo replies received.
    pub received: u64,
    /// The longest time between two replies.
    pub longest_gap: Duration,
    /// Rows of requests without an answer between two that have one.
    pub gaps: usize,
}

impl PingSummary {
    /// Requests without an answer, not counting the one on its way when the ping was stopped.
    pub fn lost(self) -> u64 {
        self.transmitted.saturating_sub(self.received).saturating_sub(1)
    }
}

impl PingInBackground {
    /// Starts it and waits for the first answer.
    pub fn start(from: &Netns, to: impl Into<IpAddr>) -> Result<Self> {
        let to = to.into();
        let command = from.command("ping").args(["-n", "-D", "-i", "0.01", &to.to_string()]);
        let process = Background::start_unnamed(&command)?;
        wait_for(&format!("the first answer from {to}"), START_DEADLINE, || {
            Ok(process.log().contains("icmp_seq="))
        })?;
        Ok(Self { process })
    }

    /// How many answers have come so far.
    pub fn received(&self) -> usize {
        self.process.log().matches("icmp_seq=").count()
    }

    /// Waits for `count` more answers.
    pub fn wait_for_more(&self, count: usize, deadline: Duration) -> Result<()> {
        let goal = self.received() + count;
        wait_for(&format!("{count} more ping answers"), deadline, || Ok(self.received() >= goal))
    }

    /// Stops it.
    pub fn stop(mut self) -> Result<PingSummary> {
        self.process.stop(Signal::SIGINT, START_DEADLINE).context("stop the background ping")?;
        let text = self.process.log();
        parse(&text).with_context(|| format!("read the summary of ping: {}", text.trim()))
    }
}

fn parse(text: &str) -> Result<PingSummary> {
    let summary =
        text.lines().find(|line| line.contains("packets transmitted")).context("there is no summary")?;
    let number = |suffix: &str| {
        let before = summary.split(suffix).next().unwrap_or_default();
        let word = before.split_whitespace().last().unwrap_or_default();
        word.parse::<u64>().with_context(|| format!("read the number of{suffix}"))
    };
    let arrivals = text
        .lines()
        .filter(|line| line.contains("icmp_seq=") && line.contains("time="))
        .filter_map(|line| line.strip_prefix('[')?.split_once(']')?.0.parse::<f64>().ok());
    let numbers: BTreeSet<u64> = text
        .lines()
        .filter(|line| line.contains("time="))
        .filter_map(|line| line.split_once("icmp_seq=")?.1.split_whitespace().next()?.parse().ok())
        .collect();
    let gaps = numbers.iter().zip(numbers.iter().skip(1)).filter(|(one, next)| *next - *one > 1).count();
    let (mut last, mut longest) = (None, 0.0_f64);
    for arrival in arrivals {
        longest = longest.max(last.map_or(0.0, |last| arrival - last));
        last = Some(arrival);
    }
    Ok(PingSummary {
        transmitted: number(" packets transmitted")?,
        received: number(" received")?,
        longest_gap: Duration::try_from_secs_f64(longest).context("read the time stamps")?,
        gaps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_counts_and_the_longest_gap() {
        let text = "PING 10.42.2.2 (10.42.2.2) 56(84) bytes of data.\n\
            [1000.00] 64 bytes from 10.42.2.2: icmp_seq=1 ttl=62 time=0.05 ms\n\
            [1000.25] 64 bytes from 10.42.2.2: icmp_seq=26 ttl=62 time=0.05 ms\n\
            [1000.26] 64 bytes from 10.42.2.2: icmp_seq=27 ttl=62 time=0.05 ms\n\
            \n--- 10.42.2.2 ping statistics ---\n\
            27 packets transmitted, 3 received, 88% packet loss, time 260ms\n";
        let summary = parse(text).unwrap();
        assert_eq!((summary.transmitted, summary.received, summary.lost()), (27, 3, 23));
        assert_eq!(summary.gaps, 1);
        assert!((summary.longest_gap.as_secs_f64() - 0.25).abs() < 1e-6);
    }
}
