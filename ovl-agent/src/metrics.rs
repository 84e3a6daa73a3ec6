//! The agent's metrics in Prometheus' text format 0.0.4, which every scraper reads.
//!
//! Written by hand rather than with a client library: those keep live counters and speak OpenMetrics, while here
//! everything is already counted in [`Facts`] and has to agree with the status document. What it takes is the
//! escaping below. Families without a sample are left out; the programs' counters appear with their first packet.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::cli::SourceCheck;
use crate::facts::{EbpfFacts, Facts, PeerFacts};

mod process;
mod text;

pub use process::Process;
use text::Page;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The modes, each a series of `ovl_mode`.
const MODES: [&str; 2] = ["ebpf", "kernel"];

/// The page for a scraper. Without `facts` the agent has no lease yet, and the page says only that.
pub fn render(facts: Option<&Facts>, process: &Process) -> String {
    let mut page = Page::default();
    page.gauge(
        "ovl_build_info",
        "The running agent; always 1.",
        [([("version", env!("CARGO_PKG_VERSION"))], 1)],
    );
    let ready = facts.is_some_and(|facts| facts.ready);
    page.gauge("ovl_ready", "Whether the first full sync is done.", plain(u8::from(ready)));
    if let Some(facts) = facts {
        node(&mut page, facts);
        peers(&mut page, facts);
        reconciling(&mut page, facts);
        store(&mut page, facts);
        packets(&mut page, facts);
    }
    process.write(&mut page);
    page.finish()
}

/// The one sample of a family without labels.
fn plain<V: Display>(value: V) -> [([(&'static str, &'static str); 0], V); 1] {
    [([], value)]
}

fn node(page: &mut Page, facts: &Facts) {
    let mode = MODES.map(|mode| ([("mode", mode)], u8::from(facts.mode == mode)));
    page.gauge("ovl_mode", "Who moves the packets: 1 for the mode that is on.", mode);
    if let Some(ebpf) = &facts.ebpf {
        programs(page, ebpf);
    }
    page.gauge("ovl_mtu_bytes", "MTU of the pods.", plain(facts.mtu));
    let lease = &facts.lease;
    let remaining = lease.expires_in_seconds.map(|seconds| ([], seconds));
    page.gauge(
        "ovl_lease_remaining_seconds",
        "Seconds until the node's lease ends unless renewed; absent where it does not end.",
        remaining,
    );
    page.counter(
        "ovl_lease_losses_total",
        "How often the node's own lease was lost or taken over.",
        plain(lease.losses),
    );
    if let Some(firewall) = &facts.firewall {
        let mode = firewall.mode.as_str();
        page.gauge(
            "ovl_firewall_rules_stand",
            "Whether all firewall rules are in place, in order.",
            [([("mode", mode)], u8::from(firewall.stands))],
        );
        page.counter(
            "ovl_firewall_repairs_total",
            "How often firewall rules that had been in place were written again.",
            [([("mode", mode)], firewall.repaired)],
        );
    }
}

fn programs(page: &mut Page, ebpf: &EbpfFacts) {
    page.gauge(
        "ovl_pinned",
        "Whether maps, programs and attachments outlive the agent.",
        plain(u8::from(ebpf.pinned_in.is_some())),
    );
    page.gauge("ovl_max_flows", "Most flows that there is room for.", plain(ebpf.max_flows));
    page.gauge(
        "ovl_verify_interval_seconds",
        "Seconds after which a flow on the fast path asks netfilter again.",
        plain(ebpf.verify_interval_seconds),
    );
    let check = SourceCheck::NAMES.map(|check| ([("check", check)], u8::from(ebpf.source_check == check)));
    page.gauge(
        "ovl_source_check",
        "What becomes of packets from the wrong sender: 1 for the value of --source-check.",
        check,
    );
    page.gauge(
        "ovl_fast_path_mark",
        "The bit of packets' marks that says that netfilter has accepted them.",
        plain(ebpf.fast_path_mark),
    );
}

fn peers(page: &mut Page, facts: &Facts) {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for PeerFacts { subnet, ipv6_subnet, backend, .. } in &facts.peers {
        for family in subnet.map(|_| "ipv4").into_iter().chain(ipv6_subnet.map(|_| "ipv6")) {
            *counts.entry((family, backend)).or_default() += 1;
        }
    }
    let counts = counts
        .into_iter()
        .map(|((family, backend), count)| ([("family", family), ("backend", backend)], count));
    page.gauge("ovl_peers", "Other nodes' subnets, by family and backend.", counts);
    page.gauge(
        "ovl_rejected_leases",
        "Items of the store that could not be read or programmed; `ovl-agent status` names them.",
        plain(facts.rejected.len()),
    );
}

fn reconciling(page: &mut Page, facts: &Facts) {
    let rows = |count: fn(&crate::facts::TableFacts) -> u64| {
        facts.tables.iter().map(move |table| ([("table", table.name.as_str())], count(table)))
    };
    page.gauge("ovl_table_rows", "Rows that a table is known to have.", rows(|table| table.rows));
    page.counter("ovl_table_rows_written_total", "Rows written.", rows(|table| table.written));
    page.counter("ovl_table_rows_removed_total", "Rows removed.", rows(|table| table.removed));
    page.counter(
        "ovl_table_rows_repaired_total",
        "Rows written or removed because something else than the agent had changed them.",
        rows(|table| table.repaired),
    );
    let passes = &facts.passes;
    let results = [("ok", passes.total.saturating_sub(passes.failed)), ("failed", passes.failed)];
    page.counter(
        "ovl_reconcile_passes_total",
        "Passes over all tables; a failed one left something undone.",
        results.map(|(result, count)| ([("result", result)], count)),
    );
    page.counter("ovl_reconcile_seconds_total", "Time spent in passes.", plain(passes.seconds));
    page.gauge("ovl_reconcile_last_seconds", "Duration of the last pass.", plain(passes.last_seconds));
    page.gauge("ovl_reconcile_errors", "What the last pass left undone.", plain(facts.errors.len()));
}

fn store(page: &mut Page, facts: &Facts) {
    let health = &facts.store_health;
    page.gauge("ovl_store_up", "Whether the store answers.", plain(u8::from(health.up)));
    page.gauge(
        "ovl_store_last_answer_age_seconds",
        "Seconds since the store last answered anything.",
        health.last_answer_seconds.map(|seconds| ([], seconds)),
    );
    page.counter("ovl_store_outages_total", "How often the store stopped answering.", plain(health.outages));
}

fn packets(page: &mut Page, facts: &Facts) {
    let by_reason = |count: fn(&crate::facts::CounterFacts) -> u64| {
        facts.counters.iter().map(move |counter| {
            ([("program", counter.program.as_str()), ("reason", counter.reason.as_str())], count(counter))
        })
    };
    page.counter(
        "ovl_packets_total",
        "Packets that a program ended with this reason.",
        by_reason(|counter| counter.packets),
    );
    page.counter(
        "ovl_packet_bytes_total",
        "Bytes of the packets that a program ended with this reason.",
        by_reason(|counter| counter.bytes),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::example;

    #[test]
    fn a_page_has_every_family_once_with_its_samples() {
        let page = render(Some(&example()), &Process::example());
        let expected = include_str!("metrics/example.prom").replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(page, expected, "{page}");
    }

    #[test]
    fn before_the_lease_a_page_says_so() {
        let page = render(None, &Process::example());
        assert!(page.contains("\novl_ready 0\n"), "{page}");
        assert!(page.contains("\nprocess_resident_memory_bytes 12345344\n"), "{page}");
        assert!(!page.contains("ovl_store_up") && !page.contains("ovl_mode"), "{page}");
    }

    #[test]
    fn a_reservation_and_a_node_without_firewall_leave_their_families_out() {
        let mut facts = example();
        facts.lease.expires_in_seconds = None;
        facts.firewall = None;
        facts.counters.clear();
        let page = render(Some(&facts), &Process::example());
        for family in ["ovl_lease_remaining_seconds", "ovl_firewall", "ovl_packets_total"] {
            assert!(!page.contains(family), "{family}: {page}");
        }
    }
}
