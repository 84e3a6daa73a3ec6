//! `ovl-agent cleanup`: what agents or flanneld made goes, and nothing else does.

use std::fs;
use std::process::Output;

use anyhow::Result;
use ovl_tests::artifacts;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;

use crate::overlay::{EBPF, KERNEL, Overlay};

/// What a node has, as the kernel's own tools show it, a line each.
fn state(node: &Node) -> Result<Vec<String>> {
    let netns = node.netns();
    let mut lists = vec![
        netns.ip("-o link show")?,
        netns.ip("-o address show")?,
        netns.ip("-4 route show table all")?,
        netns.ip("-6 route show table all")?,
        netns.ip("neigh show nud permanent")?,
        netns.bridge("fdb show")?,
        node.command("nft").words("list ruleset").run()?,
    ];
    for direction in ["ingress", "egress"] {
        lists.push(node.command("tc").words("filter show dev eth0").arg(direction).run()?);
    }
    // What a bridge learns comes and goes by itself.
    let learned = |line: &&str| line.contains("dev veth") && !line.contains("permanent");
    let lines = lists.iter().flat_map(|list| list.lines()).filter(|line| !line.trim().is_empty());
    Ok(lines.filter(|line| !learned(line)).map(str::to_owned).collect())
}

/// The lines that are gone, with a minus, and those that are new.
fn changes(before: &[String], after: &[String]) -> Vec<String> {
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("-{line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+{line}"));
    gone.chain(new).collect()
}

/// Runs `ovl-agent cleanup` on the node, with the files in its directory.
fn cleanup(node: &Node, args: &str) -> Output {
    let command = node.command(artifacts::agent_binary().unwrap()).arg("cleanup").words(args);
    let files = [("--subnet-file", "subnet.env"), ("--socket", "agent.sock")];
    let command =
        files.iter().fold(command, |command, (flag, file)| command.arg(flag).arg(node.dir().join(file)));
    command.output().unwrap()
}

/// The lines that a successful cleanup printed.
pub(crate) fn cleaned(node: &Node, args: &str) -> Vec<String> {
    let output = cleanup(node, args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// `lines` without those that have one of `marks` in them.
fn without(lines: &[String], marks: &[&str]) -> Vec<String> {
    lines.iter().filter(|line| !marks.iter().any(|mark| line.contains(mark))).cloned().collect()
}

#[test]
fn everything_of_an_agent_goes_and_nothing_else() {
    let args = format!("{EBPF} --tc-attach clsact");
    let mut overlay = Overlay::start(Topology::builder("clean").nodes(2), "vxlan", &args).unwrap();
    let node = overlay.topology.node(0).unwrap();
    // Strangers that look alike.
    for line in [
        "link add vxlan5 type vxlan id 5 dstport 9999 dev eth0",
        "link set vxlan5 alias ovl",
        "link set vxlan5 up",
        "route add 10.42.250.0/24 dev vxlan5",
        "route add 10.42.251.0/24 via 192.0.2.12 dev eth0 proto static",
        "route add 10.42.252.0/24 via 192.0.2.12 dev eth0 proto 111 table 99",
    ] {
        node.netns().ip(line).unwrap();
    }
    node.command("nft").words("add table inet foreign").run().unwrap();
    let filter = "filter add dev eth0 egress prio 112 bpf bytecode";
    node.command("tc").words(filter).arg("1,6 0 0 4294967295").run().unwrap();

    let refused = cleanup(node, "");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && said.contains("ovl-agent manages 10.42.0.0/16, flannel.1"),
        "{said}"
    );
    overlay.agents[0].kill().unwrap();
    // Of ours, though no device takes it along; it would not stand long while the agent runs.
    node.netns().ip("route add blackhole 10.42.253.0/24 proto 111").unwrap();

    let before = state(node).unwrap();
    let planned = cleaned(node, "--dry-run");
    assert_eq!(changes(&before, &state(node).unwrap()), [""; 0], "a dry run changes nothing");
    let removed = cleaned(node, "");
    let file = |name: &str| format!("removed file {}", node.dir().join(name).display());
    let inode = node.command("stat").words("-L -c %i /proc/self/ns/net").run().unwrap();
    let pins = format!("removed programs and maps in /sys/fs/bpf/ovl/10_42_0_0_16-{}", inode.trim());
    let expected = [
        "removed tc filter from_wire on eth0 ingress",
        "removed tc filter to_overlay on flannel.1 egress",
        "removed tc filter from_pod on veth0 ingress",
        "removed tc filter to_pod on veth0 egress",
        &pins,
        "removed blackhole route 10.42.253.0/24",
        "removed device flannel.1 and what hangs on it",
        "removed the firewall rules in IPv4 filter (nft)",
        &file("agent.sock"),
        &file("subnet.env"),
    ];
    let (said, rest) = removed.split_last().unwrap();
    assert_eq!(said, "the lease in the store is left to expire");
    assert_eq!(rest, expected);
    let planned: Vec<_> = planned.iter().map(|line| line.replace("would remove", "removed")).collect();
    assert_eq!(planned, rest, "the dry run said so");

    let ours = [
        "flannel.1",
        "pref 111 ",
        "blackhole 10.42.253.0/24",
        "FLANNEL-FWD",
        "OVL-AGENT",
        "ip saddr 10.42.0.0/16",
        "ip daddr 10.42.0.0/16",
    ];
    assert_eq!(changes(&without(&before, &ours), &state(node).unwrap()), [""; 0]);
    for direction in ["ingress", "egress"] {
        let left = node.command("tc").words("filter show dev veth0").arg(direction).run().unwrap();
        assert_eq!(left, "", "{direction}");
    }
    assert_eq!(cleaned(node, ""), ["nothing to remove"]);
}

#[test]
fn by_force_the_firewall_rules_of_a_living_agent_go_too() {
    let overlay = Overlay::start(Topology::builder("clean-force").nodes(1), "vxlan", KERNEL).unwrap();
    let node = overlay.topology.node(0).unwrap();
    for (args, expected) in [
        ("--dry-run", "would remove the firewall rules in IPv4 filter (nft)"),
        ("--dry-run --force", "would remove the firewall rules in IPv4 filter (nft)"),
        ("--force", "removed the firewall rules in IPv4 filter (nft)"),
    ] {
        let said = cleaned(node, args);
        assert!(said.iter().any(|line| line == expected), "{args}: {said:#?}");
    }
}

#[test]
fn what_flanneld_left_goes_only_when_asked_for() {
    let topology = Topology::builder("clean-fl").nodes(1).ipv6().build().unwrap();
    let node = topology.node(0).unwrap();
    node.netns().ip("address add 2001:db8::11/64 dev eth0 nodad").unwrap();
    let foreign = [
        // A bridge inside the range, with the kernel's route.
        "link add cni0 type bridge",
        "link set cni0 up",
        "address add 10.77.21.1/25 dev cni0",
        "link add flannel-wg type bridge",
        "link add flannel.x type vxlan id 9 dstport 9999 dev eth0",
        "route add 10.77.200.0/25 via 192.0.2.12 dev eth0 proto static",
        "route add 10.88.0.0/16 via 192.0.2.12 dev eth0",
        "route add blackhole 10.88.1.0/24",
        "route add fd78::/64 via 2001:db8::12 dev eth0",
    ];
    for line in foreign {
        node.netns().ip(line).unwrap();
    }
    // iptables' own tables stay once they are there.
    node.command("iptables").words("-P FORWARD ACCEPT").run().unwrap();
    let without_flannel = state(node).unwrap();
    // FLANNEL.md 5.1, row by row: a peer behind the tunnel and one that is routed directly, in both families.
    let flannels = [
        "link add flannel.1 type vxlan id 1 local 192.0.2.11 dev eth0 dstport 8472 nolearning",
        "address add 10.77.18.0/32 dev flannel.1",
        "link set flannel.1 up",
        "neigh add 10.77.19.0 lladdr 02:00:00:00:00:0c dev flannel.1 nud permanent",
        "route add 10.77.19.0/25 via 10.77.19.0 dev flannel.1 onlink",
        "route add 10.77.20.0/25 via 192.0.2.12 dev eth0",
        "link add flannel-v6.1 type vxlan id 1 local 2001:db8::11 dev eth0 dstport 8472 nolearning udp6zerocsumrx",
        "address add fd77:0:0:5::/128 dev flannel-v6.1 nodad",
        "link set flannel-v6.1 up",
        "route add fd77:0:0:6::/64 via fd77:0:0:6:: dev flannel-v6.1 onlink",
        "route add fd77:0:0:7::/64 via 2001:db8::12 dev eth0",
        "route add blackhole 10.77.18.0/25",
        "route add blackhole fd77:0:0:5::/64",
        "tuntap add mode tun name flannel0",
    ];
    for line in flannels {
        node.netns().ip(line).unwrap();
    }
    let fdb = "fdb add 02:00:00:00:00:0c dev flannel.1 dst 192.0.2.12 self permanent";
    node.netns().bridge(fdb).unwrap();
    let rules = "iptables -N FLANNEL-FWD && iptables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD &&
        iptables -A FLANNEL-FWD -s 10.77.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT";
    node.command("sh").arg("-c").arg(rules).run().unwrap();
    let env = "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.18.1/25\n\
               FLANNEL_IPV6_NETWORK=fd77::/48\nFLANNEL_IPV6_SUBNET=fd77:0:0:5::1/64\n\
               FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    let file = node.dir().join("subnet.env");
    fs::write(&file, env).unwrap();

    let with_flannel = state(node).unwrap();
    assert_eq!(cleaned(node, ""), ["nothing to remove"], "none of it is ours");
    let planned = cleaned(node, "--flannel --dry-run");
    assert_eq!(changes(&with_flannel, &state(node).unwrap()), [""; 0], "a dry run changes nothing");
    assert!(file.exists());
    let removed = cleaned(node, "--flannel");
    let expected = [
        "removed blackhole route 10.77.18.0/25",
        "removed route 10.77.20.0/25 via 192.0.2.12 dev eth0",
        "removed blackhole route fd77:0:0:5::/64",
        "removed route fd77:0:0:7::/64 via 2001:db8::12 dev eth0",
        "removed device flannel.1 and what hangs on it",
        "removed device flannel-v6.1 and what hangs on it",
        "removed device flannel0 and what hangs on it",
        "removed the firewall rules in IPv4 filter (nft)",
        &format!("removed file {}", file.display()),
    ];
    assert_eq!(removed[..expected.len()], expected);
    assert_eq!(planned.len(), expected.len(), "{planned:#?}");
    assert_eq!(changes(&without_flannel, &state(node).unwrap()), [""; 0]);
    assert_eq!(cleaned(node, "--flannel"), ["nothing to remove"]);

    // What cannot be removed is an error, and holds up nothing else.
    let key = node.dir().join("wgkey");
    fs::create_dir(&file).unwrap();
    fs::write(&key, "").unwrap();
    let output = cleanup(node, "--flannel");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("could not remove file {}: Is a directory", file.display())), "{said}");
    assert!(said.contains("error: 1 of 2 things could not be removed") && !key.exists(), "{said}");
}
