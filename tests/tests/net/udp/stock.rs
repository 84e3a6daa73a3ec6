//! A node that speaks flannel's format and none of our code, and ours: whatever size, either direction.

use ovl_tests::capture::Capture;
use ovl_tests::flannel_udp::FlannelUdp;
use ovl_tests::pod::Pod;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::{Builder, Topology};
use ovl_tests::traffic;

use super::{UDP, carried};
use crate::overlay::{KERNEL, ONLY_IPV4, Overlay, config};

/// Our node, the stock one, and a pod on each. The stock node ends before the topology does.
fn ours_and_stock(topology: Builder) -> (FlannelUdp, [Pod; 2], Overlay) {
    let mut overlay = Overlay::bare(topology, &config(&[ONLY_IPV4], UDP)).unwrap();
    let stock = SubnetEnv::by_hand("10.42.0.0/16", "10.42.200.0/24", 1472).unwrap();
    let agent = overlay.start_ready(0, KERNEL).unwrap();
    let env = agent.subnet().unwrap();
    let [ours, theirs] = [overlay.node(0), overlay.node(1)];
    let flannel = FlannelUdp::start(theirs, &stock, &[(&env, ours.address())]).unwrap();
    overlay.store.put(&stock.lease_key(), &flannel.lease_json()).unwrap();
    agent.wait_for_peers(1).unwrap();
    let pods = [ours.add_pod("a", &env).unwrap(), theirs.add_pod("a", &stock).unwrap()];
    overlay.agents.push(agent);
    (flannel, pods, overlay)
}

fn exchange(pods: &[Pod; 2], overlay: &Overlay, bytes: u64) {
    let directory = overlay.topology.dir();
    for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        traffic::ping(client.netns(), server.address()).unwrap();
        traffic::ping_packet(client.netns(), server.address(), 1472).unwrap();
        traffic::ping_fragments(client.netns(), server.address(), 4000).unwrap();
        traffic::tcp_intact(client, server, bytes, directory).unwrap();
        for payload in [1, 1000, 5000] {
            traffic::udp_intact(client, server, payload, directory).unwrap();
        }
    }
}

#[test]
fn a_stock_peer_is_reached_at_any_size() {
    let (_flannel, pods, overlay) = ours_and_stock(Topology::builder("udp-stock").plain_packets());
    let file = overlay.topology.dir().join("wire.pcap");
    let capture = Capture::start(overlay.node(0).netns(), "eth0", "udp", &file).unwrap();
    exchange(&pods, &overlay, 1 << 20);
    let pcap = capture.stop().unwrap();
    assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new());
    // Both ports are the network's, a datagram is a packet and nothing else, and it fits the wire.
    let all = pcap.count("udp.port == 8285").unwrap();
    let bare =
        "udp.srcport == 8285 && udp.dstport == 8285 && ip.src == 10.42.0.0/16 && ip.dst == 10.42.0.0/16";
    assert!(all > 1000, "{all}");
    assert_eq!(pcap.count(&format!("{bare} && udp.length <= 1480")).unwrap(), all);
    assert_eq!(pcap.count("ip.len > 1500").unwrap(), 0);
    for (rows, lengths) in
        [("udp.length == 1480", "a full packet"), ("tcp && udp.length > 1400", "a segment")]
    {
        assert!(pcap.count(rows).unwrap() > 0, "{lengths}");
    }
}

/// With aggregates on our side, which a stock peer must never see.
#[test]
fn a_stock_peer_gets_streams_whole_that_were_aggregates() {
    let (_flannel, pods, overlay) = ours_and_stock(Topology::builder("udp-stock-gso"));
    exchange(&pods, &overlay, 20 << 20);
    let (out, into) = carried(&overlay.agents[0]);
    assert!(out > 15_000 && into > 15_000, "{out} out, {into} in");
}
