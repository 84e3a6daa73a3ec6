//! What the agent says about itself: one document, served on a local socket and printed by `ovl-agent status`.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Asks the agent behind `socket`.
pub fn ask(socket: &Path) -> Result<Value> {
    let context =
        || format!("no ovl-agent answers on {}; is it running, and is this its --socket?", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(context)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(context)?;
    serde_json::from_str(&text).context("the agent's answer is not JSON; is it another version?")
}

/// The document as a person reads it.
pub fn render(status: &Value) -> String {
    let text = |path: &str| match status.pointer(path) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let mut out = String::new();
    let ready = if status["ready"] == Value::Bool(true) { "yes" } else { "no" };
    let head = [
        ("ready", ready.to_owned()),
        ("node", format!("{} on {}", text("/node/public_ip"), text("/node/interface"))),
        ("lease", format!("{} until {}", text("/lease/subnet"), text("/lease/expires"))),
        ("backend", format!("{}, MTU {}", text("/backend"), text("/mtu"))),
        ("mode", format!("{} ({})", text("/mode"), text("/mode_reason"))),
        ("fast path", text("/fast_path")),
        ("store", text("/store")),
        ("last error", text("/last_error")),
    ];
    for (name, value) in head {
        // Writing to a string cannot fail.
        let _written = writeln!(out, "{name:<10}  {value}");
    }
    let peers = rows(status, "peers", &["subnet", "public_ip", "backend"]);
    out.push_str(&table(&["PEER SUBNET", "NODE", "BACKEND"], &peers));
    let rejected = rows(status, "rejected", &["item", "reason"]);
    if !rejected.is_empty() {
        out.push_str(&table(&["REJECTED", "WHY"], &rejected));
    }
    let counters = rows(status, "counters", &["program", "reason", "packets", "bytes", "meaning"]);
    if !counters.is_empty() {
        out.push_str(&table(&["PROGRAM", "REASON", "PACKETS", "BYTES", "MEANING"], &counters));
    }
    out
}

fn rows(status: &Value, list: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let cell = |item: &Value, column: &str| {
        let value = &item[column];
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    };
    let items = status[list].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect()
}

/// Columns as wide as their widest cell, two spaces apart, the last one ragged.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        rows.iter().chain([&heads]).map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::from("\n");
    for row in [&heads].into_iter().chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let status = serde_json::json!({
            "ready": true, "node": {"interface": "eth0", "public_ip": "192.0.2.11"},
            "lease": {"subnet": "10.42.3.0/24", "expires": null}, "backend": "vxlan", "mtu": 1450,
            "mode": "ebpf", "mode_reason": "loaded", "fast_path": "always", "store": "dir:/x", "last_error": null,
            "peers": [{"subnet": "10.42.7.0/24", "public_ip": "192.0.2.12", "backend": "vxlan"}],
            "rejected": [], "counters": [],
        });
        let expected = "\
ready       yes
node        192.0.2.11 on eth0
lease       10.42.3.0/24 until -
backend     vxlan, MTU 1450
mode        ebpf (loaded)
fast path   always
store       dir:/x
last error  -

PEER SUBNET   NODE        BACKEND
10.42.7.0/24  192.0.2.12  vxlan
";
        assert_eq!(render(&status), expected);
    }
}
