//! Overlays of both families, and of IPv6 alone.

use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, Destination, PingInBackground};

use crate::listing::{rows, wait_for_rows};
use crate::overlay::{DUAL, EBPF, KERNEL, ONLY_IPV4, ONLY_IPV6, Overlay, SOON, config};

/// Every pod reaches every other one, and streams arrive whole both ways, in every family they have.
fn carry(overlay: &Overlay) {
    let pods = &overlay.pods;
    let pairs = pods.len() * (pods.len() - 1);
    assert_eq!(traffic::ping_all_pairs(pods).unwrap(), pairs);
    for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        for server in Destination::all(server) {
            traffic::tcp_intact(client, server, 20 << 20, overlay.topology.dir()).unwrap();
        }
    }
}

#[test]
fn pods_reach_each_other_in_both_families() {
    for (backend, args) in [("vxlan", KERNEL), ("vxlan", EBPF), ("host-gw", KERNEL)] {
        let topology = Topology::builder("dual").nodes(3).ipv6();
        let config = config(&[DUAL], &format!(r#"{{"Type":"{backend}"}}"#));
        let overlay = Overlay::start_with(topology, &config, args).unwrap();
        assert!(overlay.pods.iter().all(|pod| pod.addresses().count() == 2), "{backend} {args}");
        carry(&overlay);
        let leases = overlay.store.leases().unwrap();
        let mut keys: Vec<_> =
            overlay.agents.iter().map(|agent| agent.subnet().unwrap().lease_key()).collect();
        keys.sort();
        assert_eq!(leases, keys, "one lease a node, for both families");
    }
}

#[test]
fn pods_reach_each_other_over_ipv6_alone() {
    for backend in ["vxlan", "host-gw"] {
        let topology = Topology::builder("v6").nodes(3).ipv6_only();
        let config = config(&[ONLY_IPV6], &format!(r#"{{"Type":"{backend}"}}"#));
        let overlay = Overlay::start_with(topology, &config, KERNEL).unwrap();
        assert!(overlay.pods.iter().all(|pod| pod.address().is_ipv6()), "{backend}");
        carry(&overlay);
    }
}

#[test]
fn a_restarted_agent_keeps_both_subnets_and_no_packet_is_lost() {
    let topology = Topology::builder("dual-again").ipv6();
    let mut overlay = Overlay::start_with(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#), KERNEL).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let env = overlay.agents[1].subnet().unwrap();
    let before = rows(overlay.node(1)).unwrap();
    let start = |address| PingInBackground::start(overlay.pods[0].netns(), address).unwrap();
    let pings: Vec<_> = overlay.pods[1].addresses().map(start).collect();
    overlay.agents[1].kill().unwrap();
    overlay.agents[1] = overlay.start_ready(1, KERNEL).unwrap();
    for ping in pings {
        ping.wait_for_more(100, SOON).unwrap();
        let ping = ping.stop().unwrap();
        assert_eq!(ping.lost(), 0, "{ping:?}");
    }
    // Its lease may also run out while it is down: then the subnets are those of its file.
    overlay.agents[1].kill().unwrap();
    overlay.store.delete(&env.lease_key()).unwrap();
    overlay.agents[0].wait_for_peers(0).unwrap();
    overlay.agents[1] = overlay.start_ready(1, KERNEL).unwrap();
    assert_eq!(overlay.agents[1].subnet().unwrap(), env);
    wait_for_rows(overlay.node(1), &before, "the rows to be as before");
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}

#[test]
fn ipv6_is_added_node_by_node_without_a_lost_packet() {
    let backend = r#"{"Type":"vxlan"}"#;
    let topology = Topology::builder("grow").nodes(2).ipv6();
    let mut overlay = Overlay::start_with(topology, &config(&[ONLY_IPV4], backend), KERNEL).unwrap();
    let before: Vec<_> = overlay.agents.iter().map(|agent| agent.subnet().unwrap().cidr()).collect();
    let address = overlay.pods[1].address();
    let ping = PingInBackground::start(overlay.pods[0].netns(), address).unwrap();
    overlay.store.put("config", &config(&[DUAL], backend)).unwrap();
    for index in 0..2 {
        Overlay::wait_for_log(&overlay.agents[index], "restart ovl-agent on every node").unwrap();
        overlay.agents[index].terminate().unwrap();
        overlay.agents[index] = overlay.start_ready(index, KERNEL).unwrap();
        ping.wait_for_more(50, SOON).unwrap();
    }
    for (index, agent) in overlay.agents.iter().enumerate() {
        agent.wait_for_peers(1).unwrap();
        let subnet = agent.subnet().unwrap();
        assert_eq!(subnet.cidr(), before[index], "the IPv4 subnet stays");
        assert_eq!(subnet.subnets.iter().count(), 2);
    }
    assert_eq!(overlay.store.leases().unwrap().len(), 2, "the old leases were exchanged");
    let ping = ping.stop().unwrap();
    assert_eq!(ping.lost(), 0, "{ping:?}");
    let base = overlay.agents[1].subnet().unwrap().subnets.ipv6().unwrap().base();
    traffic::ping(overlay.node(0).netns(), base).unwrap();
}
