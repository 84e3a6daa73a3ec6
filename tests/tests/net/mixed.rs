//! Pods' packets of one family between nodes that have only the other: {IPv4, IPv6} inside {IPv4, IPv6}, in the tunnel
//! and past it, between our nodes and with a stock one, and a node of both beside nodes of one.

use anyhow::Context as _;
use ovl_tests::links;
use ovl_tests::traffic;

use crate::cluster::{Cluster, DIRECT, Ends, HOST_GW, Outside, VXLAN};
use crate::overlay::{carried_at_tc, is_fast};

const PART: u64 = 8 << 20;
/// With a capture.
const LITTLE: u64 = 1 << 20;

const IPV4: Outside = [Ends::Ipv4; 3];
const IPV6: Outside = [Ends::Ipv6; 3];
/// The first uses its own family with nobody: IPv6 with the second, IPv4 with the stock one.
const BESIDE: Outside = [Ends::Both, Ends::Ipv6, Ends::Ipv4];

/// What can be on the wire, as tshark filters: pods' packets of a family inside the tunnel over a family, or bare.
const WAYS: [(&str, &str); 6] = [
    ("4 in 4", "vxlan && ip.addr == 192.0.2.0/24 && ip.addr == 10.42.0.0/16"),
    ("6 in 4", "vxlan && ip.addr == 192.0.2.0/24 && ipv6.addr == fd42::/48"),
    ("4 in 6", "vxlan && ipv6.addr == 2001:db8:c0::/64 && ip.addr == 10.42.0.0/16"),
    ("6 in 6", "vxlan && ipv6.addr == 2001:db8:c0::/64 && ipv6.addr == fd42::/48"),
    ("4 bare", "!vxlan && ip.addr == 10.42.0.0/16"),
    ("6 bare", "!vxlan && ipv6.addr == fd42::/48"),
];

/// Bytes arrive as they were sent in all of `modes`, in packets of these ways and no others.
fn is_carried(outside: Outside, backend: &str, ways: &[&str], modes: &[&str]) {
    for args in modes {
        let what = format!("{backend} over {outside:?} {args}");
        let cluster = Cluster::start_over(outside, backend, 1500, args);
        let before = cluster.overlay.fast(0).unwrap();
        cluster.exchange(PART).context(what.clone()).unwrap();
        let pcap = cluster.captured(LITTLE).context(what.clone()).unwrap();
        assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new(), "{what}");
        for (way, filter) in WAYS {
            let (count, wanted) = (pcap.count(filter).unwrap(), ways.contains(&way));
            assert!(if wanted { count > 500 } else { count == 0 }, "{what}: {count} packets {way}");
        }
        let after = cluster.overlay.fast(0).unwrap();
        let moved = (after.0 - before.0, after.1 - before.1);
        assert_eq!(is_fast(args), moved.0 > 1000 && moved.1 > 1000, "{what}: {moved:?}");
        from_the_node(&cluster);
    }
}

/// What the node itself sends to pods elsewhere comes from its own address in the overlay, whatever carries it.
fn from_the_node(cluster: &Cluster) {
    let node = cluster.overlay.node(0);
    let env = cluster.overlay.agents[0].subnet().unwrap();
    for pod in &cluster.pods[1..] {
        for to in pod.addresses() {
            traffic::ping(node.netns(), to).unwrap();
            let route = &links::ip_json(node.netns(), &format!("route get {to}")).unwrap()[0];
            if route["dev"].as_str().unwrap().starts_with("flannel") {
                let family = if to.is_ipv4() { env.subnets.ipv4() } else { env.subnets.ipv6() };
                assert_eq!(route["prefsrc"], family.unwrap().base().to_string(), "{route:#}");
            }
        }
    }
}

#[test]
fn tunnels_over_ipv6_alone_carry_both() {
    is_carried(IPV6, VXLAN, &["4 in 6", "6 in 6"], carried_at_tc());
}

#[test]
fn tunnels_over_ipv4_alone_carry_both() {
    is_carried(IPV4, VXLAN, &["4 in 4", "6 in 4"], carried_at_tc());
}

#[test]
fn a_node_of_both_reaches_nodes_of_one() {
    is_carried(BESIDE, VXLAN, &["4 in 4", "6 in 4", "4 in 6", "6 in 6"], carried_at_tc());
}

#[test]
fn host_gw_routes_ipv4_through_ipv6() {
    is_carried(IPV6, HOST_GW, &["4 bare", "6 bare"], carried_at_tc());
}

/// Linux has no IPv6 routes through IPv4 next hops: there is the tunnel.
#[test]
fn direct_routing_goes_where_there_are_routes() {
    is_carried(IPV6, DIRECT, &["4 bare", "6 bare"], carried_at_tc());
    is_carried(IPV4, DIRECT, &["4 bare", "6 in 4"], carried_at_tc());
}
