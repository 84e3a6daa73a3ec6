//! The machine that the figures are of: without it they mean nothing.

use std::fs;

use super::checks::Offloads;
use crate::shell::ask;

/// What the report says of the machine, as pairs of name and value.
pub(super) fn all(offloads: &Offloads) -> Vec<(String, String)> {
    let mut facts = vec![
        ("ovl".to_owned(), revision()),
        ("kernel".to_owned(), read("/proc/sys/kernel/osrelease")),
        ("processor".to_owned(), processor(&read("/proc/cpuinfo"))),
        ("memory".to_owned(), field(&read("/proc/meminfo"), "MemTotal:")),
        ("load average when it ended".to_owned(), read("/proc/loadavg")),
        ("JIT of BPF".to_owned(), read("/proc/sys/net/core/bpf_jit_enable")),
        ("iperf3".to_owned(), version("iperf3", "--version")),
        ("sockperf".to_owned(), version("sockperf", "--version")),
        ("iptables".to_owned(), version("iptables", "--version")),
        ("nft".to_owned(), version("nft", "--version")),
        ("rustc".to_owned(), version("rustc", "--version")),
    ];
    facts.extend(offloads.iter().map(|(name, value)| (format!("offload, {name}"), value.clone())));
    facts
}

/// The commit, and whether something has changed since.
fn revision() -> String {
    let folder = ovl_tests::artifacts::workspace().display().to_string();
    let commit = ask("git", &["-C", &folder, "describe", "--always", "--dirty"]);
    format!("{} {}", env!("CARGO_PKG_VERSION"), commit.unwrap_or_default()).trim().to_owned()
}

fn processor(text: &str) -> String {
    let cores = text.lines().filter(|line| line.starts_with("processor")).count();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" unknown");
    format!("{cores} × {}", model.trim_start_matches([' ', '\t', ':']))
}

fn field(text: &str, name: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown").trim().to_owned()
}

/// The first line with a digit: what some programs say first is only their name.
fn version(program: &str, option: &str) -> String {
    let text = ask(program, &[option]).unwrap_or_default();
    let line = text.lines().find(|line| line.contains(|letter: char| letter.is_ascii_digit()));
    line.unwrap_or("unknown").trim().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: Some CPU @ 3 GHz\n";
        assert_eq!(processor(text), "2 × Some CPU @ 3 GHz");
        assert_eq!(field("MemTotal:       24 kB\n", "MemTotal:"), "24 kB");
    }
}
