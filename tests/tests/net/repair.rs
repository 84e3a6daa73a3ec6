//! What is changed by hand comes back; what no lease asks for goes away; a store that is gone removes nothing.

use anyhow::Result;
use ovl_tests::agent::{Agent, AgentOptions, Store};
use ovl_tests::artifacts;
use ovl_tests::background::Lifetime;
use ovl_tests::etcd::Etcd;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::attachments;
use crate::overlay::{EBPF, Overlay, SOON};

/// Everything that carries the overlay on a node, as `ip`, `bridge` and the kernel show it.
fn rows(node: &Node) -> Result<Vec<String>> {
    let netns = node.netns();
    let mut rows = Vec::new();
    let devices = netns.ip("-o -d link show type vxlan")?;
    rows.extend(devices.lines().map(|line| {
        let device = line.split_once(": ").map_or(line, |(_, rest)| rest);
        device
            .split_whitespace()
            .filter(|word| word.starts_with("flannel") || word.contains("vxlan"))
            .collect()
    }));
    for line in netns.ip("-4 -o address show")?.lines().filter(|line| line.contains("flannel")) {
        rows.push(line.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" "));
    }
    let lists =
        [netns.ip("neigh show nud permanent")?, netns.ip("route show proto 111")?, netns.bridge("fdb show")?];
    for line in lists.iter().flat_map(|list| list.lines()).filter(|line| line.contains("flannel.1")) {
        rows.push(line.trim().to_owned());
    }
    for attached in attachments::attached(node)? {
        rows.push(format!("{} on {}", attached.program, attached.interface));
    }
    rows.sort();
    Ok(rows)
}

/// The same once the node's pod is on the fast path.
fn all_rows(node: &Node) -> Vec<String> {
    let mut have = Vec::new();
    wait_for("the programs at the pod's interface", SOON, || {
        have = rows(node)?;
        Ok(["from_pod", "to_pod"].iter().all(|name| have.iter().any(|row| row.starts_with(name))))
    })
    .unwrap();
    have
}

fn wait_for_rows(node: &Node, wanted: &[String], what: &str) {
    let mut have = Vec::new();
    wait_for(what, SOON, || {
        have = rows(node)?;
        Ok(have == wanted)
    })
    .unwrap_or_else(|error| panic!("{error:#}\nwanted {wanted:#?}\nhave {have:#?}"));
}

#[test]
fn whatever_is_deleted_by_hand_comes_back() {
    let overlay = Overlay::start(Topology::builder("repair").nodes(3), "vxlan", EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let node = overlay.node(0);
    let whole = all_rows(node);
    assert!(whole.len() >= 10, "{whole:#?}");
    let peer = overlay.agents[1].subnet().unwrap();
    let base = peer.base();
    let netns = node.netns();
    let mac = ovl_tests::links::mac(overlay.node(1).netns(), "flannel.1").unwrap();

    netns.ip(&format!("route del {base}/24")).unwrap();
    wait_for_rows(node, &whole, "the route to come back");
    netns.ip(&format!("neigh del {base} dev flannel.1")).unwrap();
    wait_for_rows(node, &whole, "the neighbour to come back");
    netns.bridge(&format!("fdb del {mac} dev flannel.1 dst {}", overlay.node(1).address())).unwrap();
    wait_for_rows(node, &whole, "the fdb entry to come back");
    netns.ip("address flush dev flannel.1").unwrap();
    wait_for_rows(node, &whole, "the address to come back");
    netns.ip("link set flannel.1 down").unwrap();
    wait_for_rows(node, &whole, "the device to be up again");
    let own_mac = ovl_tests::links::mac(netns, "flannel.1").unwrap();
    netns.ip("link del flannel.1").unwrap();
    wait_for_rows(node, &whole, "the device to come back");
    assert_eq!(ovl_tests::links::mac(netns, "flannel.1").unwrap(), own_mac, "with the MAC that peers know");
    netns.ip("link set flannel.1 mtu 1300").unwrap();
    wait_for("the MTU to come back", SOON, || Ok(ovl_tests::links::mtu(netns, "flannel.1")? == 1450))
        .unwrap();
    let detached = attachments::detach_everything(node).unwrap();
    wait_for("the agent to let go of the detached links", SOON, || {
        Ok(attachments::links_of(|_| true)?.is_disjoint(&detached))
    })
    .unwrap();
    wait_for_rows(node, &whole, "the attachments to come back");
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}

#[test]
fn a_clsact_filter_comes_back() {
    let args = format!("{EBPF} --tc-attach clsact");
    let overlay = Overlay::start(Topology::builder("repair-cls").nodes(2), "vxlan", &args).unwrap();
    let node = overlay.node(0);
    let attached =
        || Ok(node.command("tc").words("filter show dev eth0 ingress").run()?.contains("from_wire"));
    assert!(attached().unwrap());
    node.command("tc").words("filter del dev eth0 ingress").run().unwrap();
    wait_for("the filter to come back", SOON, attached).unwrap();
    node.command("tc").words("qdisc del dev eth0 clsact").run().unwrap();
    wait_for("the qdisc and the filter to come back", SOON, attached).unwrap();
}

#[test]
fn a_lease_that_vanished_takes_its_rows_with_it() {
    let mut overlay = Overlay::start(Topology::builder("vanish").nodes(2), "vxlan", EBPF).unwrap();
    let lone = {
        // What one node has without a peer: its device, address and attachments.
        let mut agent = overlay.agents.remove(1);
        let peer = agent.subnet().unwrap();
        agent.terminate().unwrap();
        let before = all_rows(overlay.node(0));
        overlay.store.delete(&format!("subnets/{}-24", peer.base())).unwrap();
        let base = peer.base().to_string();
        let without: Vec<String> = before
            .into_iter()
            .filter(|row| !row.contains(&base) && !row.contains(&overlay.node(1).address().to_string()))
            .collect();
        without
    };
    wait_for_rows(overlay.node(0), &lone, "the peer's rows to go");
}

#[test]
fn a_row_that_nobody_asks_for_goes_and_foreign_ones_stay() {
    let overlay = Overlay::start(Topology::builder("prune").nodes(2), "vxlan", EBPF).unwrap();
    let netns = overlay.node(0).netns();
    netns.ip("route add 10.42.250.0/24 via 192.0.2.12 dev eth0 proto 111").unwrap();
    netns.ip("route add 10.42.251.0/24 via 192.0.2.12 dev eth0 proto static").unwrap();
    netns.ip("route add 10.99.0.0/24 via 192.0.2.12 dev eth0 proto 111").unwrap();
    wait_for("our stray route to go", SOON, || Ok(!netns.ip("route show")?.contains("10.42.250.0"))).unwrap();
    let routes = netns.ip("route show").unwrap();
    assert!(routes.contains("10.42.251.0") && routes.contains("10.99.0.0"), "{routes}");
}

#[test]
fn an_etcd_that_is_gone_removes_nothing() {
    let topology = Topology::builder("etcd-gone").nodes(2).switch().build().unwrap();
    let mut etcd = Etcd::on_underlay(&topology, Lifetime::WithHarness).unwrap();
    etcd.put("/coreos.com/network/config", r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#)
        .unwrap();
    let options =
        AgentOptions::new(artifacts::agent_binary().unwrap(), Store::Etcd(etcd.url().to_owned())).args(EBPF);
    let mut agents = Vec::new();
    for node in topology.nodes() {
        let mut agent = Agent::start(node, &options).unwrap();
        agent.wait_ready().unwrap();
        agents.push(agent);
    }
    let mut pods = Vec::new();
    for (node, agent) in topology.nodes().iter().zip(&agents) {
        agent.wait_for_peers(1).unwrap();
        pods.push(node.add_pod("a", &agent.subnet().unwrap()).unwrap());
    }
    traffic::ping_all_pairs(&pods).unwrap();
    let node = topology.node(0).unwrap();
    let whole = all_rows(node);

    etcd.kill().unwrap();
    Overlay::wait_for_log(&agents[0], "does not answer, all rows stay").unwrap();
    // A pass while the store is gone: it must repair, and remove nothing.
    node.netns().ip("link del flannel.1").unwrap();
    wait_for_rows(node, &whole, "the rows to come back without a store");
    traffic::ping_all_pairs(&pods).unwrap();

    etcd.start_again().unwrap();
    Overlay::wait_for_log(&agents[0], "answers again").unwrap();
    wait_for_rows(node, &whole, "the rows to be as they were");
    drop(pods);
    drop(agents);
}
