//! `ovl-agent probe`: true of this machine, whatever the process may do, and without a trace.

use ovl_tests::artifacts;
use ovl_tests::command::Cmd;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use serde_json::Value;

const LIBERAL: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";

/// Everything that a question could leave in a node.
fn state(node: &Node) -> String {
    let look = |line: &str| node.command("sh").arg("-c").arg(line).run().unwrap();
    let lines = [
        "ip -d link",
        "tc qdisc show",
        "nft list ruleset",
        "find /sys/fs/bpf",
        "sysctl -ne net.ipv4 net.ipv6",
    ];
    let liberal = look(&format!("sysctl -ne {LIBERAL} || true"));
    lines.map(look).concat() + &liberal
}

/// The command, without some capabilities; `all` is every one.
fn probe(node: &Node, without: &str, option: &str) -> Cmd {
    let binary = artifacts::agent_binary().unwrap();
    let drop: Vec<String> = without.split_whitespace().map(|name| format!("-{name}")).collect();
    let command = if drop.is_empty() {
        node.command("env")
    } else {
        let drop = drop.join(",");
        node.command("setpriv")
            .args([format!("--bounding-set={drop}"), format!("--inh-caps={drop}")])
            .arg("--")
    };
    command.arg(binary).arg("probe").words(option)
}

#[test]
fn it_says_what_an_agent_would_do_and_leaves_nothing() {
    let topology = Topology::builder("probe").nodes(2).build().unwrap();
    let node = topology.node(0).unwrap();
    // Where connection tracking is there, it has to be seen to stay as it is.
    node.command("sysctl").args(["-qe", &format!("{LIBERAL}=0")]).run().unwrap();
    let before = state(node);
    let table = [
        ("", 0, "fast", "fast path by ", [("loading programs (BPF_PROG_LOAD)", "yes"), ("CAP_BPF", "yes")]),
        (
            "bpf sys_admin perfmon",
            1,
            "kernel",
            "kernel path, because programs may not be loaded (not permitted)",
            [("vxlan devices", "yes"), ("CAP_BPF", "no")],
        ),
        (
            "net_admin",
            1,
            "none",
            "does not work, because this process lacks CAP_NET_ADMIN",
            [("vxlan devices", "unknown"), ("CAP_BPF", "yes")],
        ),
        (
            "all",
            1,
            "none",
            "does not work, because this process lacks CAP_NET_ADMIN",
            [("from_pod", "unknown"), ("nf_tables", "unknown")],
        ),
    ];
    for (without, status, path, sentence, features) in table {
        let output = probe(node, without, "--json").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "without '{without}': {said}");
        assert!(said.is_empty(), "without '{without}': {said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let vxlan = &report["backends"][0];
        assert_eq!((&vxlan["backend"], &vxlan["path"]), (&"vxlan".into(), &path.into()), "{vxlan}");
        assert!(vxlan["sentence"].as_str().unwrap().starts_with(sentence), "without '{without}': {vxlan}");
        let rows = report["features"].as_array().unwrap();
        for (feature, here) in features {
            let row = rows.iter().find(|row| row["feature"] == feature).unwrap();
            assert_eq!(row["here"], here, "without '{without}': {row}");
        }

        let xdp = &report["xdp"][0];
        assert_eq!((&xdp["interface"], &xdp["mode"]), (&"eth0".into(), &"off".into()), "{xdp}");
        assert!(xdp["reason"].as_str().unwrap().contains("eth0 is a veth"), "{xdp}");

        let output = probe(node, without, "").output().unwrap();
        assert_eq!(output.status.code(), Some(status), "without '{without}'");
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(page.contains(&format!("\nvxlan: {sentence}")), "{page}");
        // The table lines up.
        let heading = page.lines().find(|line| line.starts_with("FEATURE")).unwrap();
        let at = heading.find("HERE").unwrap();
        for row in rows {
            let name = row["feature"].as_str().unwrap();
            let line = page.lines().find(|line| line.trim_start().starts_with(&format!("{name} "))).unwrap();
            let word = line[at..].split_whitespace().next().unwrap();
            assert_eq!(word.replace('?', "unknown"), row["here"].as_str().unwrap(), "{line}");
        }
    }
    assert_eq!(state(node), before);
}
