//! The facts as a person reads them.

use std::fmt::Write as _;

use super::human::{ago, clean, duration, list, times, took};
use super::table::Side::{Left, Right};
use super::table::table;
use crate::facts::{Facts, FirewallFacts, LeaseFacts, Path, PeerFacts, StoreHealth};

/// So many peers fill a screen; `--all` shows the others.
const PEERS: usize = 20;
/// The same for what is wrong: the first few say what it is.
const TROUBLES: usize = 10;

/// The whole page, with all peers or the first few.
pub fn render(facts: &Facts, all: bool) -> String {
    // Only an agent that has a place in the network has a backend.
    if facts.backend.is_empty() {
        return starting(facts);
    }
    let mut out = head(facts);
    let peers = peers(facts, all);
    let rejected = rejected(facts, all);
    let tables = tables(facts);
    let counters = counters(facts);
    for section in [peers, rejected, tables, counters].into_iter().filter(|section| !section.is_empty()) {
        out.push('\n');
        out.push_str(&section);
    }
    out
}

/// An agent that waits for its store has little to say of itself.
fn starting(facts: &Facts) -> String {
    let waits = facts.errors.first().map_or("starting", String::as_str);
    let lines = [
        ("agent", format!("{}, up {}", facts.version, duration(facts.uptime_seconds))),
        ("ready", "no".to_owned()),
        ("store", facts.store.clone()),
        ("state", waits.to_owned()),
    ];
    written(&lines)
}

fn written(lines: &[(&str, String)]) -> String {
    let lines = lines.iter().map(|(name, value)| format!("{name:<9}  {}\n", clean(value)));
    lines.collect()
}

fn head(facts: &Facts) -> String {
    let node = &facts.node;
    let ready = if facts.ready { "yes" } else { "no, the first full sync is not done" };
    let problems = if facts.errors.is_empty() { "none".to_owned() } else { facts.errors.len().to_string() };
    let lines = [
        ("agent", format!("{}, up {}", facts.version, duration(facts.uptime_seconds))),
        ("ready", ready.to_owned()),
        ("node", format!("{}: {} with {}", node.name, node.interface, list(&node.addresses))),
        ("public IP", list(both(node.public_ip, node.public_ipv6))),
        ("network", list(both(facts.network, facts.ipv6_network))),
        ("lease", lease(&facts.lease)),
        ("backend", format!("{}, MTU {}", facts.backend, facts.mtu)),
        ("mode", format!("{}: {}", facts.mode, facts.mode_reason)),
        ("fast path", fast_path(facts)),
        ("xdp", xdp(facts)),
        ("store", format!("{}: {}", facts.store, store(&facts.store_health, facts.store_error.as_deref()))),
        ("firewall", facts.firewall.as_ref().map_or_else(|| "no rules wanted".to_owned(), firewall)),
        ("passes", passes(facts)),
        ("problems", problems),
    ];
    let troubles = facts.errors.iter().take(TROUBLES).map(|error| ("", error.clone()));
    written(&lines.into_iter().chain(troubles).collect::<Vec<_>>())
}

fn fast_path(facts: &Facts) -> String {
    let mut text = facts.fast_path.clone();
    let Some(ebpf) = &facts.ebpf else { return text };
    if text == "verified" {
        // A tenth of a second is what conntrack's timeouts, in seconds, can make of it.
        let every = (ebpf.verify_interval_seconds * 10.0).round() / 10.0;
        let _written = write!(
            text,
            " every {every} s by mark {:#x}; room for {} flows",
            ebpf.fast_path_mark, ebpf.max_flows
        );
    }
    let _written = write!(text, "; source check {}; ", ebpf.source_check);
    match &ebpf.pinned_in {
        Some(folder) => _ = write!(text, "pinned in {folder}"),
        None => text.push_str("not pinned"),
    }
    text
}

fn xdp(facts: &Facts) -> String {
    facts
        .ebpf
        .as_ref()
        .map_or_else(|| "off: no programs".to_owned(), |ebpf| format!("{}: {}", ebpf.xdp, ebpf.xdp_reason))
}

/// What there is of two families.
fn both(ipv4: Option<impl ToString>, ipv6: Option<impl ToString>) -> impl Iterator<Item = String> {
    ipv4.map(|ipv4| ipv4.to_string()).into_iter().chain(ipv6.map(|ipv6| ipv6.to_string()))
}

fn lease(lease: &LeaseFacts) -> String {
    let end = match (lease.expires_in_seconds, &lease.expires) {
        (Some(seconds), Some(time)) => match u64::try_from(seconds) {
            Ok(left) => format!("ends in {} unless renewed ({time})", duration(left)),
            Err(_over) => format!("ended {} ({time})", ago(Some(seconds.unsigned_abs()))),
        },
        _ => "does not end".to_owned(),
    };
    let lost = if lease.losses == 0 { String::new() } else { format!("; lost {}", times(lease.losses)) };
    format!("{}; {end}{lost}", list(both(lease.subnet, lease.ipv6_subnet)))
}

fn store(health: &StoreHealth, error: Option<&str>) -> String {
    let since = duration(health.since_seconds);
    let mut text = match error {
        _ if health.up => format!("up for {since}"),
        error => format!("down for {since}: {}", error.unwrap_or("it does not answer")),
    };
    if health.last_answer_seconds.is_some() {
        let _written = write!(text, "; last answer {}", ago(health.last_answer_seconds));
    }
    if health.outages > 0 {
        let _written = write!(text, "; went away {}", times(health.outages));
    }
    text
}

fn firewall(firewall: &FirewallFacts) -> String {
    let stands = if firewall.stands { "rules in place" } else { "rules are not in place" };
    match firewall.repaired {
        0 => format!("{}, {stands}", firewall.mode),
        count => {
            let last = ago(firewall.last_repair_seconds);
            format!("{}, {stands}; repaired {}, last {last}", firewall.mode, times(count))
        }
    }
}

fn passes(facts: &Facts) -> String {
    let passes = &facts.passes;
    let failed = if passes.failed == 0 { "none".to_owned() } else { passes.failed.to_string() };
    format!("{}, {failed} failed; the last took {}", passes.total, took(passes.last_seconds))
}

/// A row per subnet: a peer's IPv6 subnet stands under its IPv4 one.
fn peers(facts: &Facts, all: bool) -> String {
    let shown = if all { facts.peers.len() } else { PEERS };
    let text = |item: Option<String>| item.unwrap_or_else(|| "-".to_owned());
    let path = |path: Option<Path>| path.map_or("none", Path::name).to_owned();
    let row = |peer: &PeerFacts, subnet: String, node: Option<String>, by: Option<Path>| {
        [subnet, text(node), path(by), peer.backend.clone(), ago(peer.changed_seconds)]
    };
    let rows: Vec<_> = facts
        .peers
        .iter()
        .take(shown)
        .flat_map(|peer| {
            // Where nothing is sent to it, what it says of itself.
            let node = peer.sent_to.or(peer.public_ip.map(Into::into)).map(|node| node.to_string());
            let ipv6_node = peer.ipv6_sent_to.or(peer.public_ipv6.map(Into::into));
            let ipv6_node = ipv6_node.map(|node| node.to_string());
            let ipv4 = peer.subnet.map(|subnet| row(peer, subnet.to_string(), node, peer.path));
            let ipv6 =
                peer.ipv6_subnet.map(|subnet| row(peer, subnet.to_string(), ipv6_node, peer.ipv6_path));
            ipv4.into_iter().chain(ipv6)
        })
        .collect();
    if rows.is_empty() {
        return "no peers\n".to_owned();
    }
    let heads = [("PEER SUBNET", Left), ("NODE", Left), ("PATH", Left), ("BACKEND", Left), ("CHANGED", Left)];
    table(heads, &rows) + &more(facts.peers.len(), shown, "peers")
}

fn rejected(facts: &Facts, all: bool) -> String {
    if facts.rejected.is_empty() {
        return String::new();
    }
    let shown = if all { facts.rejected.len() } else { TROUBLES };
    let rows: Vec<_> = facts
        .rejected
        .iter()
        .take(shown)
        .map(|rejected| [rejected.item.clone(), rejected.reason.clone()])
        .collect();
    table([("REJECTED", Left), ("WHY", Left)], &rows) + &more(facts.rejected.len(), shown, "rejected")
}

fn tables(facts: &Facts) -> String {
    if facts.tables.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = facts
        .tables
        .iter()
        .map(|table| {
            let [rows, written, removed, repaired] =
                [table.rows, table.written, table.removed, table.repaired].map(|count| count.to_string());
            [table.name.clone(), rows, written, removed, repaired, ago(table.last_repair_seconds)]
        })
        .collect();
    let heads = [
        ("TABLE", Left),
        ("ROWS", Right),
        ("WRITTEN", Right),
        ("REMOVED", Right),
        ("REPAIRED", Right),
        ("LAST REPAIR", Left),
    ];
    table(heads, &rows)
}

fn counters(facts: &Facts) -> String {
    if facts.counters.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = facts
        .counters
        .iter()
        .map(|counter| {
            let [packets, bytes] = [counter.packets, counter.bytes].map(|count| count.to_string());
            [counter.program.clone(), counter.reason.clone(), packets, bytes, counter.meaning.clone()]
        })
        .collect();
    let heads =
        [("PROGRAM", Left), ("REASON", Left), ("PACKETS", Right), ("BYTES", Right), ("MEANING", Left)];
    table(heads, &rows)
}

fn more(total: usize, shown: usize, what: &str) -> String {
    match total.saturating_sub(shown) {
        0 => String::new(),
        hidden => format!("and {hidden} more; --all shows all {total} {what}\n"),
    }
}

#[cfg(test)]
mod tests;
