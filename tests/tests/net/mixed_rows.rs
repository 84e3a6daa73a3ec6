//! The rows of peers that are reached in the other family, as they come, change and go; what a node that uses one
//! family outside has and says; and what it cannot do.

use ovl_tests::agent::Agent;
use ovl_tests::links;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::bad_input::{assert_says, refused};
use crate::cleanup::cleaned;
use crate::listing::{Rows, rows, wait_for_rows};
use crate::overlay::{DUAL, EBPF, KERNEL, ONLY_IPV4, Overlay, PINNED, SOON, VERIFIED, config};

const VXLAN: &str = r#"{"Type":"vxlan"}"#;
const HOST_GW: &str = r#"{"Type":"host-gw"}"#;
const DIRECT: &str = r#"{"Type":"vxlan","DirectRouting":true}"#;
const PEER: &str = "subnets/10.42.7.0-24&fd42:0:0:7::-64";

/// The lease of a peer that has these families outside: `46`, `4` or `6`.
fn lease(families: &str, kind: &str) -> String {
    let [ipv4, ipv6] = ['4', '6'].map(|family| families.contains(family));
    let data = |is_there: bool, member: &str, mac: &str| {
        let data = format!(r#","{member}":{{"VNI":1,"VtepMAC":"{mac}"}}"#);
        if is_there && kind == "vxlan" { data } else { String::new() }
    };
    format!(
        r#"{{"PublicIP":"{}","PublicIPv6":{},"BackendType":"{kind}"{}{}}}"#,
        if ipv4 { "192.0.2.77" } else { "0.0.0.0" },
        if ipv6 { r#""2001:db8:c0::77""# } else { "null" },
        data(ipv4, "BackendData", "02:00:00:00:04:77"),
        data(ipv6, "BackendV6Data", "02:00:00:00:06:77"),
    )
}

/// The rows by which both subnets of the peer are reached, IPv4's through the tunnel over one family and IPv6's over one.
fn tunnelled(ipv4: char, ipv6: char) -> Rows {
    let mut wanted = Rows::new();
    let subnets = [(ipv4, "10.42.7.0", 24, "10.42.3.0/32"), (ipv6, "fd42:0:0:7::", 64, "fd42:0:0:3::/128")];
    for (outer, base, length, own) in subnets {
        let (device, mac, node) = match outer {
            '4' => ("flannel.1", "02:00:00:00:04:77", "192.0.2.77"),
            _ => ("flannel-v6.1", "02:00:00:00:06:77", "2001:db8:c0::77"),
        };
        wanted.insert(format!("address {own} on {device}"));
        wanted.insert(format!("neighbour {base} {mac} permanent on {device}"));
        wanted.insert(format!("fdb {mac} {node} permanent self on {device}"));
        wanted.insert(format!("route {base}/{length} via {base} on {device} onlink by 111"));
    }
    wanted
}

#[test]
fn a_peer_that_changes_its_families_takes_its_rows_along() {
    for args in [KERNEL, EBPF] {
        let topology = Topology::builder("mixed-rows").nodes(1).ipv6();
        let overlay = Overlay::bare(topology, &config(&[DUAL, PINNED], VXLAN)).unwrap();
        let node = overlay.node(0);
        let agent = overlay.start_ready(0, args).unwrap();
        let own = rows(node).unwrap();
        for (families, ipv4, ipv6) in
            [("46", '4', '6'), ("4", '4', '4'), ("6", '6', '6'), ("4", '4', '4'), ("46", '4', '6')]
        {
            overlay.store.put(PEER, &lease(families, "vxlan")).unwrap();
            let wanted = own.union(&tunnelled(ipv4, ipv6)).cloned().collect();
            wait_for_rows(node, &wanted, &format!("the rows of a peer of {families}, and nothing else"));
            let status = agent.status().unwrap();
            let sent_to = |outer| if outer == '4' { "192.0.2.77" } else { "2001:db8:c0::77" };
            let peer = &status["peers"][0];
            assert_eq!((&peer["sent_to"], &peer["path"]), (&sent_to(ipv4).into(), &"tunnel".into()));
            assert_eq!(
                (&peer["ipv6_sent_to"], &peer["ipv6_path"]),
                (&sent_to(ipv6).into(), &"tunnel".into())
            );
            assert_eq!(status["rejected"], Value::Array(Vec::new()));
        }
        // What somebody takes away of it comes back.
        overlay.store.put(PEER, &lease("6", "vxlan")).unwrap();
        let wanted = own.union(&tunnelled('6', '6')).cloned().collect();
        wait_for_rows(node, &wanted, "the rows of the peer over IPv6");
        for line in [
            "neigh del 10.42.7.0 dev flannel-v6.1",
            "address del 10.42.3.0/32 dev flannel-v6.1",
            "route del 10.42.7.0/24",
            "link del flannel-v6.1",
        ] {
            node.netns().ip(line).unwrap();
            wait_for_rows(node, &wanted, &format!("the rows to be as before `{line}`"));
        }
        overlay.store.delete(PEER).unwrap();
        wait_for_rows(node, &own, "the own rows alone");
    }
}

#[test]
fn past_the_tunnel_ipv4_goes_through_ipv6_and_not_the_other_way_round() {
    let ipv4_over = |gateway: &str| format!("route 10.42.7.0/24 via {gateway} on eth0 by 111");
    let ipv6_over = |gateway: &str| format!("route fd42:0:0:7::/64 via {gateway} on eth0 by 111");
    let (v4, v6) = ("192.0.2.77", "2001:db8:c0::77");
    let tunnelled: Rows = tunnelled('4', '4').into_iter().filter(|row| !row.contains("10.42.")).collect();
    let with = |rows: [String; 2]| Rows::from(rows);
    for (backend, kind, families, wanted) in [
        (HOST_GW, "host-gw", "46", with([ipv4_over(v4), ipv6_over(v6)])),
        (HOST_GW, "host-gw", "6", with([ipv4_over(v6), ipv6_over(v6)])),
        (HOST_GW, "host-gw", "4", Rows::from([ipv4_over(v4)])),
        (DIRECT, "vxlan", "6", with([ipv4_over(v6), ipv6_over(v6)])),
        (DIRECT, "vxlan", "4", tunnelled.union(&Rows::from([ipv4_over(v4)])).cloned().collect()),
    ] {
        let topology = Topology::builder("mixed-gw").nodes(1).ipv6();
        let overlay = Overlay::bare(topology, &config(&[DUAL, PINNED], backend)).unwrap();
        let node = overlay.node(0);
        let mut agent = overlay.start_ready(0, KERNEL).unwrap();
        let own = rows(node).unwrap();
        overlay.store.put(PEER, &lease(families, kind)).unwrap();
        let wanted = own.union(&wanted).cloned().collect();
        wait_for_rows(node, &wanted, &format!("{backend} with a peer of {families}"));
        let rejected = agent.status().unwrap()["rejected"].to_string();
        let is_rejected = rejected.contains("no IPv6 routes through IPv4 next hops");
        assert_eq!(is_rejected, backend == HOST_GW && families == "4", "{rejected}");
        agent.terminate().unwrap();
        cleaned(node, "");
        assert_eq!(rows(node).unwrap(), Rows::new(), "cleanup leaves nothing of {backend}");
    }
}

/// Names of our tables of nftables on a node.
fn own_tables(overlay: &Overlay, node: usize) -> String {
    let tables = overlay.node(node).command("nft").words("list tables").run().unwrap();
    let mut ours: Vec<_> = tables.lines().filter(|line| line.contains("ovl-")).collect();
    ours.sort_unstable();
    ours.join("\n")
}

#[test]
fn a_node_that_uses_other_families_than_before_keeps_its_subnets() {
    let topology = Topology::builder("mixed-move").nodes(2).ipv6();
    let mut overlay = Overlay::start_with(topology, &config(&[DUAL], VXLAN), VERIFIED).unwrap();
    let (env, tables) = (overlay.agents[1].subnet().unwrap(), own_tables(&overlay, 1));
    let macs = ["flannel.1", "flannel-v6.1"].map(|name| links::mac(overlay.node(1).netns(), name).unwrap());
    for (families, gone, mtu) in [
        ("ipv6", Some("flannel.1"), 1430),
        ("same", None, 1430),
        ("ipv4", Some("flannel-v6.1"), 1450),
        ("both", None, 1430),
    ] {
        overlay.agents[1].terminate().unwrap();
        let args = format!("{VERIFIED} --underlay-family {families}");
        overlay.agents[1] = overlay.start_ready(1, &args).unwrap();
        let now = overlay.agents[1].subnet().unwrap();
        assert_eq!((&now.subnets, now.mtu), (&env.subnets, mtu), "{families}");
        assert_eq!(own_tables(&overlay, 1), tables, "{families}");
        for name in ["flannel.1", "flannel-v6.1"] {
            let is_there = links::exists(overlay.node(1).netns(), name).unwrap();
            assert_eq!(is_there, gone != Some(name), "{name} with {families}");
        }
        let lease: Value = serde_json::from_str(&overlay.store.get(&env.lease_key()).unwrap()).unwrap();
        for (data, address, nobody, device) in [
            ("BackendData", "PublicIP", Value::from("0.0.0.0"), "flannel.1"),
            ("BackendV6Data", "PublicIPv6", Value::Null, "flannel-v6.1"),
        ] {
            let is_there = gone != Some(device);
            assert_eq!(
                (lease.get(data).is_some(), lease[address] != nobody),
                (is_there, is_there),
                "{lease}"
            );
        }
        // The peer, which was told nothing, follows.
        let gone = gone.unwrap_or("no such device");
        wait_for(&format!("the peer's rows for {families}"), SOON, || {
            let rows = rows(overlay.node(0))?;
            let old = macs.iter().zip(["flannel.1", "flannel-v6.1"]).find(|(_, name)| *name == gone);
            let is_through = |row: &&String| row.starts_with("route") && row.contains(gone);
            Ok(rows.iter().find(is_through).is_none()
                && old.is_none_or(|(mac, _)| !rows.iter().any(|row| row.contains(mac.as_str()))))
        })
        .unwrap();
        traffic::ping_all_pairs(&overlay.pods).unwrap();
    }
}

#[test]
fn a_network_of_one_family_spans_nodes_of_either() {
    for (inside, args) in [(ONLY_IPV4, KERNEL), (ONLY_IPV4, VERIFIED)] {
        let topology = Topology::builder("mixed-one").nodes(2).ipv6();
        let mut overlay = Overlay::bare(topology, &config(&[inside], VXLAN)).unwrap();
        for (node, families) in ["both", "ipv6"].iter().enumerate() {
            let args = format!("{args} --underlay-family {families}");
            overlay.agents.push(overlay.start_ready(node, &args).unwrap());
        }
        for (node, agent) in overlay.topology.nodes().iter().zip(&overlay.agents) {
            agent.wait_for_peers(1).unwrap();
            overlay.pods.push(node.add_pod("a", &agent.subnet().unwrap()).unwrap());
        }
        assert_eq!(traffic::ping_all_pairs(&overlay.pods).unwrap(), 2);
        // A third, as flanneld would be, is reached by the first alone, which both know why.
        let flannels = lease("4", "vxlan");
        overlay.store.put("subnets/10.42.250.0-24", &flannels).unwrap();
        wait_for("the lease to be refused by the node of IPv6", SOON, || {
            let rejected = overlay.agents[1].status()?["rejected"].to_string();
            Ok(rejected.contains("at 192.0.2.77 only, and this node at 2001:db8:c0::12 only"))
        })
        .unwrap();
        let route = "route 10.42.250.0/24 via 10.42.250.0 on flannel.1 onlink by 111";
        wait_for("the route of the other", SOON, || Ok(rows(overlay.node(0))?.contains(route))).unwrap();
    }
}

#[test]
fn a_node_without_a_family_is_told_of_the_way_out() {
    let topology = Topology::builder("mixed-out").nodes(1).ipv6();
    let overlay = Overlay::bare(topology, &config(&[DUAL, PINNED], VXLAN)).unwrap();
    let netns = overlay.node(0).netns();
    netns.ip("-6 address flush dev eth0").unwrap();
    // As on nodes whose operator wants no IPv6.
    netns.sysctl(&["net.ipv6.conf.default.disable_ipv6=1"]).unwrap();
    let options = |args: &str| overlay.options(&format!("{KERNEL}{args}")).place("--iface eth0");
    let error = refused(&overlay, &options(""));
    assert_says(&error, &["eth0 has no IPv6 address", "--underlay-family ipv4"]);
    let error = refused(&overlay, &options(" --underlay-family ipv6"));
    assert_says(&error, &["eth0 has no IPv6 address", "--underlay-family ipv4"]);
    let mut agent = Agent::start(overlay.node(0), &options(" --underlay-family ipv4")).unwrap();
    agent.wait_ready().unwrap();
    let rows = rows(overlay.node(0)).unwrap();
    assert!(rows.contains("address fd42:0:0:3::/128 on flannel.1"), "{rows:#?}");
    agent.terminate().unwrap();

    overlay.store.put("config", &config(&[DUAL, PINNED], HOST_GW)).unwrap();
    let error = refused(&overlay, &options(" --underlay-family ipv4"));
    assert_says(&error, &["host-gw cannot carry IPv6 over IPv4", "use vxlan"]);
}

#[test]
fn two_nodes_with_one_ipv6_address_are_kept_apart() {
    let topology = Topology::builder("mixed-twins").nodes(2).ipv6();
    let overlay = Overlay::bare(topology, &config(&[ONLY_IPV4], VXLAN)).unwrap();
    let args = format!("{KERNEL} --underlay-family ipv6");
    let first = overlay.start_ready(1, &args).unwrap();
    let taken = overlay.node(1).address6().unwrap();
    let options = overlay.options(&args).place(&format!("--iface eth0 --public-ipv6 {taken}"));
    let error = refused(&overlay, &options);
    assert_says(&error, &[&taken.to_string(), &first.pid().unwrap().to_string(), "with --public-ipv6"]);
}
