//! Load leaves nothing behind. `OVL_LOAD_SECONDS` makes it longer than the few seconds that everybody can wait for.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ovl_tests::agent::Agent;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, Destination};
use ovl_tests::wait::wait_for;

use super::start;
use crate::overlay::{DUAL, KERNEL, SOON};

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
    // The firewall's tools are processes of its own, which have descriptors while they run.
    let args = format!("{KERNEL} --iptables-resync 3600");
    let overlay = start(Topology::builder("udp-load").ipv6(), DUAL, &args);
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
        let what = format!("{descriptors} descriptors and {threads} threads, as before");
        wait_for(&what, SOON, || {
            let (_, descriptors_now, threads_now) = holdings(agent)?;
            Ok((descriptors_now, threads_now) == (descriptors, threads))
        })
        .unwrap();
        let (after, ..) = holdings(agent).unwrap();
        assert!(after < resident + SLACK_KB, "{resident} KB before, {after} KB after");
        println!("{resident} KB resident before, {after} KB after {seconds} s");
    }
}
