//! Masquerade and forward rules (FLANNEL.md section 7) by what they do on the wire, in both modes and families; and that
//! they come back after whatever a firewall tool may do to them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use ovl_tests::capture::{Capture, Pcap};
use ovl_tests::netns::Netns;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground};
use ovl_tests::wait::wait_for;

use crate::overlay::{DUAL, EBPF, KERNEL, Overlay, SOON, config};

const NFTABLES: &str = r#""EnableNFTables":true"#;
const IPTABLES: &str = r#""EnableNFTables":false"#;
const VXLAN: &str = r#"{"Type":"vxlan"}"#;

/// Two nodes that masquerade; in iptables mode they forward nothing but what a rule accepts, as with Docker.
fn two_nodes(label: &str, mode: &str, args: &str) -> Overlay {
    let topology = Topology::builder(label).nodes(2).switch().ipv6();
    let mut overlay = Overlay::bare(topology, &config(&[DUAL, mode], VXLAN)).unwrap();
    if mode == IPTABLES {
        for node in overlay.topology.nodes() {
            for program in ["iptables", "ip6tables"] {
                node.command(program).words("-P FORWARD DROP").run().unwrap();
            }
        }
    }
    overlay.start_agents(&format!("{args} --ip-masq --iptables-resync 1")).unwrap();
    assert!(overlay.agents.iter().all(|agent| agent.subnet().unwrap().ip_masq));
    overlay
}

/// Source and destination of every echo request in a capture.
fn requests(pcap: &Pcap) -> BTreeSet<(IpAddr, IpAddr)> {
    let fields = ["ip.src", "ip.dst", "ipv6.src", "ipv6.dst"];
    let rows = pcap.rows("icmp.type == 8 || icmpv6.type == 128", &fields).unwrap();
    let addresses = |row: Vec<String>| -> (IpAddr, IpAddr) {
        let [source, destination] = [0, 1].map(|column| row[column].clone() + &row[column + 2]);
        (source.parse().unwrap(), destination.parse().unwrap())
    };
    rows.into_iter().map(addresses).collect()
}

fn ping_from(netns: &Netns, source: IpAddr, to: IpAddr) {
    let ping = netns.command("ping").words(&format!("-n -c 1 -W 1 -I {source} {to}"));
    wait_for(&format!("an answer from {to} to {source}"), SOON, || ping.run().map(|_| true)).unwrap();
}

#[test]
fn addresses_on_the_wire_are_those_of_flannels_iptables_mode() {
    for (mode, args) in [(IPTABLES, KERNEL), (IPTABLES, EBPF), (NFTABLES, KERNEL), (NFTABLES, EBPF)] {
        let overlay = two_nodes("masq", mode, args);
        let (node, switch) = (overlay.node(0), overlay.topology.switch().unwrap());
        let [near, far] = [&overlay.pods[0], &overlay.pods[1]];
        let capture = |netns, interface, name: &str| {
            let file = overlay.topology.dir().join(name).with_extension("pcap");
            Capture::start(netns, interface, "icmp or icmp6", &file).unwrap()
        };
        let captures = [
            capture(switch, "switch", "switch"),
            capture(far.netns(), "eth0", "far"),
            capture(near.netns(), "eth0", "near"),
        ];
        let mut wanted = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        let env = overlay.agents[0].subnet().unwrap();
        let pods = near.addresses().zip(far.addresses());
        for ((subnet, place), (near_pod, far_pod)) in
            env.subnets.iter().zip(node.addresses().iter()).zip(pods)
        {
            let (own, outside) = (place.address, place.gateway);
            // A pod talks to the outside as its node.
            traffic::ping(near.netns(), outside).unwrap();
            wanted[0].insert((own, outside));
            wanted[2].insert((near_pod, outside));
            // Pods talk to each other as themselves.
            traffic::ping(near.netns(), far_pod).unwrap();
            wanted[1].insert((near_pod, far_pod));
            wanted[2].insert((near_pod, far_pod));
            // A node talks to another node's pods from the overlay, whatever address a program chose.
            traffic::ping(node.netns(), far_pod).unwrap();
            ping_from(node.netns(), own, far_pod);
            wanted[1].insert((subnet.base(), far_pod));
            // A pod sees who talks to it from the outside.
            switch.ip(&format!("route add {} via {own}", subnet.cidr())).unwrap();
            traffic::ping(switch, near_pod).unwrap();
            wanted[0].insert((outside, near_pod));
            wanted[2].insert((outside, near_pod));
        }
        let seen = captures.map(|capture| requests(&capture.stop().unwrap()));
        for ((place, wanted), seen) in
            ["the switch", "the far pod", "the near pod"].iter().zip(wanted).zip(seen)
        {
            assert_eq!(seen, wanted, "at {place} with {mode} {args}");
        }
    }
}

/// The rules of a node as the firewall's own tools show them.
fn rules(node: &Node, mode: &str) -> Result<Vec<String>> {
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    if mode == NFTABLES {
        return Ok(lines(node.command("nft").words("-s list ruleset").run()?));
    }
    let mut rules = lines(node.command("iptables-save").run()?);
    rules.extend(lines(node.command("ip6tables-save").run()?));
    rules.retain(|line| line.starts_with("-A") && line.contains("FLANNEL"));
    Ok(rules)
}

/// That an agent looks after them: what of all that can happen to them is mended is the business of the firewall's tests.
#[test]
fn rules_come_back_while_the_agent_runs() {
    let iptables = [
        "TOOL -t nat -D FLANNEL-POSTRTG 2; TOOL -D FLANNEL-FWD 1",
        "TOOL -t nat -F; TOOL -F",
        // In another order.
        "TOOL -t nat -D FLANNEL-POSTRTG 1; TOOL -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 \
         -m comment --comment 'flanneld masq' -j RETURN",
        "TOOL -t nat -I FLANNEL-POSTRTG -j RETURN",
        "TOOL -F; TOOL -X; TOOL -t nat -F; TOOL -t nat -X",
    ]
    .map(|line| ["iptables", "ip6tables"].map(|tool| line.replace("TOOL", tool)).join("; "));
    let nftables = [
        "nft flush chain inet ovl-flannel.1 postrtg",
        "nft insert rule inet ovl-flannel.1 postrtg return",
        "nft delete table inet ovl-flannel.1",
        "nft flush ruleset",
    ]
    .map(str::to_owned);
    for (mode, disturbances) in [(IPTABLES, &iptables[..]), (NFTABLES, &nftables[..])] {
        let overlay = two_nodes("masq-back", mode, KERNEL);
        let node = overlay.node(0);
        let whole = rules(node, mode).unwrap();
        let masquerades = whole.iter().filter(|line| line.to_lowercase().contains(" masquerade")).count();
        assert_eq!(masquerades, 4, "two for each family: {whole:#?}");
        for line in disturbances {
            node.command("sh").arg("-c").arg(line).run().unwrap();
            let mut have = Vec::new();
            wait_for(&format!("the rules to be as before `{line}`"), SOON, || {
                have = rules(node, mode)?;
                Ok(have == whole)
            })
            .unwrap_or_else(|error| panic!("{error:#}\nwanted {whole:#?}\nhave {have:#?}"));
        }
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        traffic::ping(overlay.pods[0].netns(), node.addresses().first().gateway).unwrap();
    }
}

#[test]
fn the_mode_is_switched_while_the_agent_runs() {
    let overlay = two_nodes("masq-mode", NFTABLES, KERNEL);
    let node = overlay.node(0);
    let outside = node.addresses().first().gateway;
    let ping = PingInBackground::start(overlay.pods[0].netns(), outside).unwrap();
    for mode in [IPTABLES, NFTABLES] {
        overlay.store.put("config", &config(&[DUAL, mode], VXLAN)).unwrap();
        wait_for(&format!("rules by {mode} and no others"), SOON, || {
            let iptables = rules(node, IPTABLES)?.len();
            let tables = node.command("nft").words("list tables").run()?;
            // Six of masquerading, two of forwarding, and a jump to each; in both families.
            let wanted = if mode == IPTABLES { (20, false) } else { (0, true) };
            Ok((iptables, tables.contains("ovl-flannel.1")) == wanted)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{:#?}", rules(node, IPTABLES).unwrap()));
        traffic::ping(overlay.pods[0].netns(), overlay.pods[1].address()).unwrap();
    }
    let ping = ping.stop().unwrap();
    assert_eq!(ping.lost(), 0, "{ping:?}");
}
