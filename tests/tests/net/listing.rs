//! What carries the overlay on a node, as `ip -j` and `bridge -j` show it: a sorted line per row.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use ovl_tests::links;
use ovl_tests::node::Node;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::overlay::SOON;

/// The rows of a node.
pub(crate) type Rows = BTreeSet<String>;

/// Devices, addresses, neighbours, forwarding entries, routes and nexthops of the overlay.
pub(crate) fn rows(node: &Node) -> Result<Rows> {
    let mut rows = routes(node)?;
    for link in list(&links::ip_json(node.netns(), "link show type vxlan")?) {
        let name = text(link, "ifname");
        let info = &link["linkinfo"]["info_data"];
        let up = list(&link["flags"]).any(|flag| flag == "UP");
        let local = info.get("local").or(info.get("local6")).and_then(Value::as_str).unwrap_or("nowhere");
        rows.insert(format!(
            "device {name} {} mtu {} id {} port {} local {local} on {}{}",
            text(link, "address"),
            link["mtu"],
            info["id"],
            info["port"],
            text(info, "link"),
            if up { "" } else { " down" },
        ));
        for address in list(&links::ip_json(node.netns(), &format!("address show dev {name}"))?)
            .flat_map(|link| list(&link["addr_info"]))
            .filter(|address| address["scope"] == "global")
        {
            rows.insert(format!("address {}/{} on {name}", text(address, "local"), address["prefixlen"]));
        }
        for neighbour in list(&links::ip_json(node.netns(), &format!("neigh show dev {name}"))?)
            .filter(|neighbour| is_overlay(text(neighbour, "dst")))
        {
            let (address, mac) = (text(neighbour, "dst"), text(neighbour, "lladdr"));
            rows.insert(format!("neighbour {address} {mac} {} on {name}", words(&neighbour["state"])));
        }
        let entries = node.netns().bridge(&format!("-j fdb show dev {name}"))?;
        let entries: Value = serde_json::from_str(&entries).context("parse what bridge fdb says")?;
        for entry in list(&entries) {
            let (mac, node, state) = (text(entry, "mac"), text(entry, "dst"), text(entry, "state"));
            // Only where it leads elsewhere than the device.
            let detour = ["port", "vni", "viaIf"].into_iter().find(|member| entry.get(member).is_some());
            let detour = detour.map(|member| format!(" {member} {}", entry[member])).unwrap_or_default();
            rows.insert(format!("fdb {mac} {node}{detour} {state} {} on {name}", words(&entry["flags"])));
        }
    }
    Ok(rows)
}

/// The routes into the overlay but for the kernel's own and the pods'.
pub(crate) fn routes(node: &Node) -> Result<Rows> {
    let mut rows = Rows::new();
    for family in ["-4", "-6"] {
        let routes = links::ip_json(node.netns(), &format!("{family} route show"))?;
        for route in list(&routes).filter(|route| is_overlay(text(route, "dst"))) {
            if route["protocol"] == "kernel" {
                continue;
            }
            let kind = match text(route, "type") {
                "unicast" | "" => String::new(),
                kind => format!("{kind} "),
            };
            let protocol = match text(route, "protocol") {
                "" => "boot",
                protocol => protocol,
            };
            rows.insert(format!(
                "route {kind}{} via {} on {}{} by {protocol}",
                text(route, "dst"),
                // An IPv4 route through an IPv6 next hop has it elsewhere.
                [text(route, "gateway"), text(&route["via"], "host")].concat(),
                text(route, "dev"),
                if words(&route["flags"]).contains("onlink") { " onlink" } else { "" },
            ));
        }
    }
    Ok(rows)
}

/// Waits until a node has exactly these rows.
pub(crate) fn wait_for_rows(node: &Node, wanted: &Rows, what: &str) {
    let mut have = Rows::new();
    wait_for(what, SOON, || {
        have = rows(node)?;
        Ok(have == *wanted)
    })
    .unwrap_or_else(|error| {
        let missing: Vec<_> = wanted.difference(&have).collect();
        let extra: Vec<_> = have.difference(wanted).collect();
        panic!("{error:#}\nmissing {missing:#?}\ntoo much {extra:#?}")
    });
}

/// The rows without those that contain one of `words`.
pub(crate) fn without(rows: &Rows, words: &[&str]) -> Rows {
    rows.iter().filter(|row| !words.iter().any(|word| row.contains(word))).cloned().collect()
}

/// The rows with `old` written as `new`.
pub(crate) fn replaced(rows: &Rows, old: &str, new: &str) -> Rows {
    rows.iter().map(|row| row.replace(old, new)).collect()
}

fn is_overlay(address: &str) -> bool {
    address.starts_with("10.42.") || address.starts_with("fd42:")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text<'value>(value: &'value Value, member: &str) -> &'value str {
    value[member].as_str().unwrap_or_default()
}

fn words(value: &Value) -> String {
    list(value).filter_map(Value::as_str).collect::<Vec<_>>().join(" ").to_lowercase()
}
