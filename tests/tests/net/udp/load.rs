//! Load leaves nothing behind. `OVL_LOAD_SECONDS` makes it longer than the few seconds that everybody can wait for.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ovl_tests::agent::Agent;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, Destination};

use super::start;
use crate::overlay::{DUAL, KERNEL};

/// What the buffers, once used, may still grow by: pages of the allocator, no leak of megabytes.
const SLACK_KB: u64 = 1024;

/// Resident memory in KB, descriptors and threads.
fn holdings(agent: &Agent) -> Result<(u64, usize, usize)> {
    let pid = agent.pid().context("it runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let resident = resident.trim().trim_end_matches(" kB").parse()?;
    let count =
        |folder: &str| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/{folder}"))?.count()) };
    Ok((resident, count("fd")?, count("task")?))
}

#[test]
fn load_leaves_nothing_behind() {
    let seconds = std::env::var("OVL_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let overlay = start(Topology::builder("udp-load").ipv6(), DUAL, KERNEL);
    let pods = &overlay.pods;
    let round = || {
        for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
            for destination in Destination::all(server) {
                traffic::tcp_stream(client, destination, 1).unwrap();
            }
        }
    };
    round();
    let before: Vec<_> = overlay.agents.iter().map(|agent| holdings(agent).unwrap()).collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        round();
    }
    for (agent, (resident, descriptors, threads)) in overlay.agents.iter().zip(before) {
        let after = holdings(agent).unwrap();
        assert_eq!((after.1, after.2), (descriptors, threads), "descriptors and threads");
        assert!(after.0 < resident + SLACK_KB, "{resident} KB before, {} KB after", after.0);
        println!("{resident} KB resident before, {} KB after {seconds} s", after.0);
    }
}
