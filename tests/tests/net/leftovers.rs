//! What an earlier agent left: kept where a lease that cannot be read may still want it, removed where nobody does.

use anyhow::Result;
use ovl_tests::links;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::listing::{routes, rows, wait_for_rows};
use crate::overlay::{DUAL, EBPF, KERNEL, ONLY_IPV4, Overlay, SOON, config, is_fast};

#[test]
fn a_peer_whose_lease_cannot_be_read_at_a_restart_is_still_reached() {
    still_reached(KERNEL);
}

#[test]
fn a_peer_whose_lease_cannot_be_read_at_a_restart_is_still_fast() {
    still_reached(EBPF);
}

fn still_reached(args: &str) {
    let topology = Topology::builder("garbled").nodes(2).ipv6();
    let mut overlay = Overlay::start_with(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#), args).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let before = rows(overlay.node(0)).unwrap();
    let key = overlay.agents[1].subnet().unwrap().lease_key();
    let value = overlay.store.get(&key).unwrap();
    let mac = links::mac(overlay.node(1).netns(), "flannel.1").unwrap();
    for garbage in ["{not json", &value.replace(&mac, "no MAC")] {
        overlay.agents[0].terminate().unwrap();
        overlay.store.put(&key, garbage).unwrap();
        overlay.agents[0] = overlay.start_ready(0, args).unwrap();
        // A lease that can be read is programmed: so the listing was taken in.
        let other = r#"{"PublicIP":"192.0.2.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}"#;
        overlay.store.put("subnets/10.42.250.0-24", other).unwrap();
        let is_programmed =
            || Ok(routes(overlay.node(0))?.iter().any(|route| route.contains("10.42.250.0/24")));
        wait_for("the other lease's route", SOON, is_programmed).unwrap();
        let before_pings = overlay.fast(0).unwrap();
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        let after = overlay.fast(0).unwrap();
        let went_fast = after.0 > before_pings.0 && after.1 > before_pings.1;
        assert_eq!(went_fast, is_fast(args), "{garbage}: {before_pings:?} {after:?}");
        overlay.store.delete("subnets/10.42.250.0-24").unwrap();
        wait_for_rows(overlay.node(0), &before, &format!("the rows of before, with {garbage}"));
    }
}

fn ours(node: &Node) -> Vec<String> {
    let all = [node.netns().ip("-4 route show").unwrap(), node.netns().ip("-6 route show").unwrap()].concat();
    all.lines().filter(|line| line.contains("proto 111")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn routes_into_a_range_that_the_network_had_before_go() {
    let topology = Topology::builder("ranges").nodes(2).ipv6();
    let args = format!("{KERNEL} --ip-blackhole-route");
    let mut overlay =
        Overlay::start_with(topology, &config(&[DUAL], r#"{"Type":"host-gw"}"#), &args).unwrap();
    assert_eq!(ours(overlay.node(0)).len(), 4, "{:?}", ours(overlay.node(0)));
    for agent in &mut overlay.agents {
        agent.terminate().unwrap();
    }
    let moved = config(&[ONLY_IPV4], r#"{"Type":"host-gw"}"#).replace("10.42.", "10.43.");
    overlay.store.put("config", &moved).unwrap();
    overlay.agents[0] = overlay.start_ready(0, &args).unwrap();
    let left = || Ok(ours(overlay.node(0)).iter().all(|route| route.starts_with("blackhole 10.43.")));
    wait_for("the routes of the old ranges to go", SOON, left).unwrap();
    assert_eq!(ours(overlay.node(0)).len(), 1);
}

#[test]
fn the_blackhole_stands_behind_the_bridge_and_moves_with_the_lease() {
    let args = format!("{KERNEL} --ip-blackhole-route");
    let overlay = Overlay::start_with(
        Topology::builder("blackhole").nodes(2),
        &config(&[ONLY_IPV4], r#"{"Type":"vxlan"}"#),
        &args,
    )
    .unwrap();
    let (node, agent) = (overlay.node(0), &overlay.agents[0]);
    let blackholes = || -> Result<Vec<String>> {
        let all = links::ip_json(node.netns(), "route show type blackhole")?;
        let all = all.as_array().cloned().unwrap_or_default();
        Ok(all.iter().filter_map(|route| route["dst"].as_str().map(str::to_owned)).collect())
    };
    let before = agent.subnet().unwrap();
    wait_for("the blackhole", SOON, || Ok(blackholes()? == [before.cidr()])).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let to_pod = node.netns().ip(&format!("route get {}", overlay.pods[0].address())).unwrap();
    assert!(to_pod.contains("dev cni0"), "{to_pod}");

    // The subnet goes to a peer: a route instead of the blackhole, and one more lease that is ours.
    let key = before.lease_key();
    let value = overlay.store.get(&key).unwrap();
    let mac = links::mac(node.netns(), "flannel.1").unwrap();
    overlay
        .store
        .put(&key, &value.replace("192.0.2.11", "192.0.2.99").replace(&mac, "02:00:00:00:00:99"))
        .unwrap();
    wait_for("another subnet", SOON, || Ok(agent.subnet()?.cidr() != before.cidr())).unwrap();
    let now = agent.subnet().unwrap().cidr();
    wait_for("the blackhole to move", SOON, || Ok(blackholes()? == [now.clone()])).unwrap();
    let mut last = None;
    wait_for("passes to rest", SOON, || {
        let written = agent.status()?["tables"][4]["written"].as_u64();
        Ok(last.replace(written) == Some(written))
    })
    .unwrap();

    // A route of ours with another metric would win over the right one.
    node.netns().ip("route add 10.42.251.0/24 via 192.0.2.12 metric 50 proto 111").unwrap();
    wait_for("the stray route to go", SOON, || Ok(!node.netns().ip("route show")?.contains("10.42.251.0")))
        .unwrap();
}
