//! Pods reach each other, whatever they send, in both families; and the rows are what flannel's would be.

use ovl_tests::links::{self, ip_json};
use ovl_tests::pod::Pod;
use ovl_tests::sockets::Pair;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, Destination};
use ovl_tests::{bulk, datagrams::Datagrams};
use serde_json::Value;

use super::{carried, start};
use crate::overlay::{DUAL, KERNEL, ONLY_IPV4, ONLY_IPV6, Overlay};

/// Everything both ways between the first two pods, every byte looked at.
fn exchange(overlay: &Overlay) {
    let pods = &overlay.pods;
    traffic::ping_all_pairs(pods).unwrap();
    let mtu = overlay.agents[0].subnet().unwrap().mtu;
    for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        for destination in Destination::all(server) {
            let address = destination.address;
            traffic::ping_packet(client.netns(), address, mtu.into()).unwrap();
            traffic::ping_fragments(client.netns(), address, 4000).unwrap();
            let pair = Pair::connect(client.netns(), server.netns(), address).unwrap();
            bulk::transfer(&pair.client, &pair.server, 30 << 20).unwrap();
            bulk::transfer(&pair.server, &pair.client, 30 << 20).unwrap();
            let datagrams = Datagrams::between(client.netns(), server.netns(), address).unwrap();
            for length in [0, 1, 1000, 5000] {
                datagrams.exchange(200, length).unwrap();
            }
            for length in [100, 1300] {
                datagrams.exchange_segmented(200, length).unwrap();
            }
        }
    }
}

#[test]
fn pods_exchange_streams_and_datagrams_in_both_families() {
    let [over_ipv4, over_ipv6] =
        ["ipv4", "ipv6"].map(|family| format!("{KERNEL} --underlay-family {family}"));
    for (network, topology, args) in [
        (ONLY_IPV4, Topology::builder("udp"), KERNEL),
        (DUAL, Topology::builder("udp-dual").nodes(3).ipv6(), KERNEL),
        (ONLY_IPV6, Topology::builder("udp-v6").ipv6_only(), KERNEL),
        (DUAL, Topology::builder("udp-on4").ipv6(), &over_ipv4),
        (DUAL, Topology::builder("udp-on6").ipv6(), &over_ipv6),
    ] {
        let overlay = start(topology, network, args);
        exchange(&overlay);
        for agent in &overlay.agents[..2] {
            let (out, into) = carried(agent);
            assert!(out > 20_000 && into > 20_000, "{network} {args}: {out} out, {into} in");
        }
    }
}

/// Kernels differ in which aggregates of datagrams they give to a TUN device, and which they take.
#[test]
fn batches_of_datagrams_arrive() {
    let overlay = start(Topology::builder("udp-batch").ipv6(), DUAL, KERNEL);
    for destination in Destination::all(&overlay.pods[1]) {
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]].map(Pod::netns);
        let datagrams = Datagrams::between(client, server, destination.address).unwrap();
        for length in [100, 1300] {
            datagrams.exchange_segmented(100, length).unwrap();
        }
    }
    for (node, way) in [(0, "from_tun"), (1, "to_tun")] {
        for reason in ["send_failed", "write_failed"] {
            assert_eq!(overlay.agents[node].counter(way, reason).unwrap(), 0, "{way} {reason}");
        }
    }
}

/// Aggregates are there for speed: the kernel carries some hundred packets where there are thousands on the wire.
#[test]
fn a_stream_passes_the_device_in_aggregates() {
    let overlay = start(Topology::builder("udp-gso"), ONLY_IPV4, KERNEL);
    let (client, server) = (&overlay.pods[0], &overlay.pods[1]);
    let device = |node: usize| links::packets(overlay.node(node).netns(), "flannel0").unwrap();
    let before = [device(0).sent, device(1).received];
    traffic::tcp_transfer(client, server, 100 << 20).unwrap();
    let (out, into) = (carried(&overlay.agents[0]).0, carried(&overlay.agents[1]).1);
    let through = [device(0).sent - before[0], device(1).received - before[1]];
    assert!(out > 70_000 && into > 70_000, "{out} out, {into} in");
    assert!(through.iter().all(|count| *count < 20_000), "{through:?} packets of the device for {out}");
}

#[test]
fn rows_are_those_that_flannel_would_write() {
    let overlay = start(Topology::builder("udp-rows").ipv6(), DUAL, KERNEL);
    let (netns, agent) = (overlay.node(0).netns(), &overlay.agents[0]);
    let env = agent.subnet().unwrap();
    assert_eq!((env.mtu, links::mtu(netns, "flannel0").unwrap()), (1452, 1452));
    let link = ip_json(netns, "link show dev flannel0").unwrap();
    let info = link.pointer("/0/linkinfo").unwrap();
    assert_eq!(info["info_kind"], "tun");
    assert_eq!(
        (&info["info_data"]["multi_queue"], &info["info_data"]["vnet_hdr"]),
        (&true.into(), &true.into())
    );
    assert_eq!(info["info_data"]["persist"], true);
    let addresses = ip_json(netns, "address show dev flannel0 scope global").unwrap();
    // What the filter leaves out stands there as empty objects.
    let links = addresses.as_array().unwrap().iter();
    let addresses: Vec<String> = links
        .filter_map(|link| link["addr_info"].as_array())
        .flatten()
        .filter(|row| row["local"].is_string())
        .map(|row| format!("{}/{}", row["local"].as_str().unwrap(), row["prefixlen"]))
        .collect();
    let bases: Vec<String> = env.subnets.iter().map(|subnet| subnet.base().to_string()).collect();
    assert_eq!(addresses, [format!("{}/32", bases[0]), format!("{}/128", bases[1])]);
    let routes = |words: &str| -> Vec<Value> { ip_json(netns, words).unwrap().as_array().unwrap().clone() };
    let ipv4 = routes("route show dev flannel0");
    assert_eq!(
        (ipv4.len(), ipv4[0]["dst"].as_str(), &ipv4[0]["gateway"]),
        (1, Some("10.42.0.0/16"), &Value::Null)
    );
    let ipv6 = routes("-6 route show dev flannel0");
    let overlays = ipv6.iter().filter(|route| route["dst"] == "fd42::/48").count();
    assert_eq!(overlays, 1, "{ipv6:?}");
}

#[test]
fn without_ipv6_pods_have_flannels_mtu_and_leases_say_what_flannels_say() {
    let overlay = start(Topology::builder("udp-lease"), ONLY_IPV4, KERNEL);
    let env = overlay.agents[0].subnet().unwrap();
    assert_eq!(env.mtu, 1472);
    let lease = overlay.store.get(&env.lease_key()).unwrap();
    assert!(lease.contains(r#""PublicIP":"192.0.2.11""#) && !lease.contains("BackendType"), "{lease}");
    let status = overlay.agents[0].status().unwrap();
    assert_eq!((&status["backend"], &status["peers"][0]["path"]), (&"udp".into(), &"tunnel".into()));
}

#[test]
fn a_fast_path_is_not_to_be_had_and_why_is_said() {
    let overlay = start(Topology::builder("udp-mode"), ONLY_IPV4, "--mode ebpf");
    let status = overlay.agents[0].status().unwrap();
    assert_eq!(status["mode"], "kernel");
    assert!(status["mode_reason"].as_str().unwrap().contains("in the agent, not in programs"), "{status}");
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}
