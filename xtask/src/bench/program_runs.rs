//! What one run of a program takes, as the kernel counts it under real traffic. Counting costs time itself, so it is
//! done apart from everything else.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::libc;
use ovl_tests::node::Node;
use serde_json::Value;

use super::metric::{FROM_POD, FROM_WIRE, FROM_WIRE_XDP, Metric, TO_OVERLAY, TO_POD};
use super::site::Site;
use super::workload::Outcome;

/// Every program's time, by its name.
const PROGRAMS: &[(&str, Metric)] = &[
    ("from_pod", FROM_POD),
    ("from_wire_xdp", FROM_WIRE_XDP),
    ("from_wire", FROM_WIRE),
    ("to_pod", TO_POD),
    ("to_overlay", TO_OVERLAY),
];

/// Has bpftool show the programs that the node's agent pinned.
const SHOW: &str =
    r#"for pin in /sys/fs/bpf/ovl/*/abi-*/prog-*; do bpftool -j prog show pinned "$pin" && echo; done"#;

/// A program that ran less often says nothing.
const FEWEST: u64 = 1000;

/// Does `work`, and says what the programs took meanwhile, in nanoseconds per run on both nodes together.
pub(super) fn during(site: &mut Site, work: impl FnOnce(&mut Site) -> Result<Outcome>) -> Result<Outcome> {
    let _counting = count_runs().context("have the kernel count what programs take (BPF_ENABLE_STATS)")?;
    let before = totals(site)?;
    let outcome = work(site)?;
    let after = totals(site)?;
    let mut values = Vec::new();
    for (name, metric) in PROGRAMS {
        let [earlier, later] = [&before, &after].map(|totals| totals.get(*name).copied().unwrap_or_default());
        let runs = later.runs.saturating_sub(earlier.runs);
        if runs >= FEWEST {
            #[expect(clippy::cast_precision_loss, reason = "counts")]
            values
                .push((*metric, later.nanoseconds.saturating_sub(earlier.nanoseconds) as f64 / runs as f64));
        }
    }
    if values.is_empty() {
        bail!("no program ran {FEWEST} times");
    }
    Ok(Outcome { values, ..outcome })
}

/// What a program has run, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    nanoseconds: u64,
    runs: u64,
}

fn totals(site: &Site) -> Result<BTreeMap<String, Total>> {
    let mut totals = BTreeMap::new();
    for member in site.cluster.measured_pair()? {
        add(&mut totals, &show(member.node)?)?;
    }
    Ok(totals)
}

fn show(node: &Node) -> Result<String> {
    node.command("sh").arg("-c").arg(SHOW).run().context("look at the pinned programs")
}

/// Adds what bpftool says, a program per line.
fn add(totals: &mut BTreeMap<String, Total>, text: &str) -> Result<()> {
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let program: Value = serde_json::from_str(line).context("parse what bpftool says")?;
        let name = program["name"].as_str().context("bpftool shows a program without a name")?;
        // Those of another kind of tunnel do the same.
        let name = name.strip_prefix("ipip_").unwrap_or(name);
        // It says nothing of what is still 0.
        let number = |member: &str| program[member].as_u64().unwrap_or(0);
        let total: &mut Total = totals.entry(name.to_owned()).or_default();
        total.nanoseconds += number("run_time_ns");
        total.runs += number("run_cnt");
    }
    Ok(())
}

/// The kernel counts until this is closed, which it also is when this process is killed: the sysctl would stay.
fn count_runs() -> io::Result<OwnedFd> {
    /// `BPF_ENABLE_STATS` of `enum bpf_cmd`, whose attribute is a `u32`: 0 is `BPF_STATS_RUN_TIME`.
    const ENABLE_STATS: libc::c_int = 32;
    let kind: u32 = 0;
    // SAFETY: the kernel reads the four bytes that it is told of, which live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, ENABLE_STATS, &raw const kind, size_of::<u32>()) };
    let descriptor = i32::try_from(result).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: it is a new descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_nodes_count_together() {
        let line = r#"{"id":1,"name":"from_pod","run_time_ns":500,"run_cnt":2}"#;
        let mut totals = BTreeMap::new();
        add(&mut totals, &format!("{line}\n\n{{\"id\":2,\"name\":\"to_pod\"}}\n")).unwrap();
        add(&mut totals, &line.replace("from_pod", "ipip_from_pod")).unwrap();
        assert_eq!(totals["from_pod"], Total { nanoseconds: 1000, runs: 4 });
        assert_eq!(totals["to_pod"], Total::default());
    }
}
