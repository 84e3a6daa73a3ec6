//! `ovl-agent flows`: the flows on the fast path of a running agent.
//!
//! The agent only says where its maps are pinned. They are read here: reading many flows takes a while, and the
//! agent's loop has a deadline to move on.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};
use ovl_common::{ABI, Config, FLOWS, Flow, FlowKey, STATE};
use serde::Serialize;

use crate::bpf::{FlowMap, pinned_config};
use crate::cli::FlowsArgs;
use crate::facts::{EbpfFacts, Facts};
use crate::status;

mod filter;
mod page;
mod row;

pub use filter::Filter;
use row::Row;

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Those that the filter lets through, busiest first.
    flows: Vec<Row>,
    /// How many there are without a filter.
    total: usize,
    /// Most that the map can hold.
    capacity: u32,
    /// Why flows may not take the fast path, whatever their state is.
    notes: Vec<String>,
    /// Whether there was a filter.
    #[serde(skip)]
    is_filtered: bool,
}

/// Asks the agent for its maps, reads them and prints the flows.
pub fn print(args: &FlowsArgs) -> Result<()> {
    let document = status::ask(&args.socket)?;
    let facts: Facts = serde_json::from_value(document)
        .context("the agent is another version; use the ovl-agent that it was started from")?;
    let (folder, ebpf) = place(&facts)?;
    let report = read(&folder, ebpf.max_flows, &args.filter).with_context(|| {
        format!(
            "cannot read the flows in {}; run this as root and where the agent runs, in its container if it has one",
            folder.display()
        )
    })?;
    let text = if args.json {
        format!("{}\n", serde_json::to_string(&report).context("cannot write the flows as JSON")?)
    } else {
        page::render(&report, args.all)
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the flows")
}

/// Where the maps are.
///
/// # Errors
/// Why there are none, or none that this program can read.
fn place(facts: &Facts) -> Result<(PathBuf, &EbpfFacts)> {
    if facts.backend.is_empty() {
        let waits = facts.errors.first().map_or("it is starting", String::as_str);
        bail!("the agent has no flows yet: {waits}");
    }
    if facts.mode != "ebpf" {
        bail!("the agent has no fast path, and so no flows on it: {}", facts.mode_reason);
    }
    let Some(ebpf) = &facts.ebpf else {
        bail!(
            "the agent (version {}) does not say where its flows are; use the ovl-agent that it was started from",
            facts.version
        );
    };
    if facts.fast_path != "verified" {
        bail!(
            "the agent keeps flows with --fast-path verified only, and runs with --fast-path {}; the counters of \
             `ovl-agent status` say what its programs do",
            facts.fast_path
        );
    }
    let Some(folder) = ebpf.pinned_in.as_ref().map(PathBuf::from) else {
        bail!(
            "the agent's flows are its own: it could not pin its maps, and its log says why; mount the BPF file system \
             (mount -t bpf bpf /sys/fs/bpf) and restart it"
        );
    };
    if folder.file_name().is_none_or(|name| name != format!("abi-{ABI}").as_str()) {
        bail!(
            "{} is of another version of ovl-agent (this one has ABI {ABI}); use the ovl-agent that the agent was \
             started from",
            folder.display()
        );
    }
    Ok((folder, ebpf))
}

fn read(folder: &Path, capacity: u32, filter: &[Filter]) -> Result<Report> {
    let config = pinned_config(&folder.join(STATE.name))?;
    let map = FlowMap::pinned(&folder.join(FLOWS.name))?;
    let flows: BTreeMap<FlowKey, Flow> = map.rows().collect::<Result<_>>()?;
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?);
    Ok(report(&flows, &config, nanoseconds(now), capacity, filter))
}

/// The flows as they are at `now`, nanoseconds of `CLOCK_MONOTONIC`.
fn report(
    flows: &BTreeMap<FlowKey, Flow>,
    config: &Config,
    now: u64,
    capacity: u32,
    filter: &[Filter],
) -> Report {
    let fits = |key: &FlowKey| filter.iter().all(|word| word.fits(key));
    let shown = flows.iter().filter(|(key, _)| fits(key));
    let mut rows: Vec<Row> = shown.map(|(key, flow)| Row::new(key, flow, config.epoch, now)).collect();
    // Stable: those that are as busy as one another stay in the order of their addresses.
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes_out.saturating_add(row.bytes_in)));
    let mut notes = Vec::new();
    if now > config.deadline {
        notes.push("the agent has not moved its deadline on: the kernel path carries everything".to_owned());
    }
    if config.carry_tcp == 0 {
        notes.push("TCP is on the kernel path: nf_conntrack_tcp_be_liberal is not 1".to_owned());
    }
    Report { flows: rows, total: flows.len(), capacity, notes, is_filtered: !filter.is_empty() }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::example;

    type Change = fn(&mut Facts);

    #[test]
    fn why_there_are_no_flows_to_read_is_said() {
        let mut facts = example();
        facts.fast_path = "verified".to_owned();
        let folder = |facts: &Facts| place(facts).map(|(folder, _)| folder);
        assert!(folder(&facts).expect("pinned").ends_with(format!("abi-{ABI}")));
        let table: [(Change, &str); 6] = [
            (
                |facts| *facts = Facts { errors: vec!["asking etcd".to_owned()], ..Facts::default() },
                "asking etcd",
            ),
            (|facts| "kernel".clone_into(&mut facts.mode), "no fast path"),
            (|facts| "always".clone_into(&mut facts.fast_path), "runs with --fast-path always"),
            (|facts| facts.ebpf = None, "does not say where its flows are"),
            (|facts| facts.ebpf.as_mut().expect("there").pinned_in = None, "mount -t bpf bpf"),
            (
                |facts| {
                    facts.ebpf.as_mut().expect("there").pinned_in = Some("/sys/fs/bpf/ovl/x/abi-1".into());
                },
                "abi-1 is of another version",
            ),
        ];
        for (change, expected) in table {
            let mut facts = facts.clone();
            change(&mut facts);
            let error = format!("{:#}", folder(&facts).expect_err(expected));
            assert!(error.contains(expected), "'{expected}' is not in: {error}");
        }
    }
}
