//! A node set up by hand, exactly as flanneld would (FLANNEL.md 5.1), and ours: whatever size, either direction, both
//! families, through the tunnel and past it.

use ovl_tests::capture::Capture;
use ovl_tests::kernel_vtep::{KernelVtep, Peer};
use ovl_tests::pod::Pod;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::{Builder, Topology};
use ovl_tests::traffic::{self, Destination};

use crate::overlay::{DUAL, EBPF, KERNEL, ONLY_IPV4, Overlay, config};

const TUNNEL: &str = r#"{"Type":"vxlan"}"#;
const DIRECT: &str = r#"{"Type":"vxlan","DirectRouting":true}"#;

/// Our node, the stock one with this subnet, and a pod on each.
fn ours_and_stock(topology: Builder, config: &str, args: &str, stock: &SubnetEnv) -> (Overlay, [Pod; 2]) {
    let mut overlay = Overlay::bare(topology.nodes(2), config).unwrap();
    let [ours, theirs] = [overlay.node(0), overlay.node(1)];
    let vtep = KernelVtep::create(theirs, stock).unwrap();
    overlay.store.put(&stock.lease_key(), &vtep.lease_json()).unwrap();
    let agent = overlay.start_ready(0, args).unwrap();
    agent.wait_for_peers(1).unwrap();
    let env = agent.subnet().unwrap();
    for subnet in env.subnets.iter() {
        let peer = Peer::of(ours, subnet).unwrap();
        let direct = config.contains("DirectRouting");
        if direct { vtep.add_direct_peer(&peer) } else { vtep.add_peer(&peer) }.unwrap();
    }
    let pods = [ours.add_pod("a", &env).unwrap(), theirs.add_pod("a", stock).unwrap()];
    overlay.agents.push(agent);
    (overlay, pods)
}

fn stock(mtu: u32) -> SubnetEnv {
    SubnetEnv::by_hand("10.42.0.0/16", "10.42.200.0/24", mtu).unwrap()
}

fn dual_stock(mtu: u32) -> SubnetEnv {
    stock(mtu).with_ipv6("fd42::/48", "fd42:0:0:200::/64").unwrap()
}

/// Packets of exactly the pods' MTU, fragments, streams and datagrams, both ways.
fn exchange(overlay: &Overlay, pods: &[Pod; 2], mtu: u32) {
    let directory = overlay.topology.dir();
    for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        for server in Destination::all(server) {
            traffic::ping(client.netns(), server.address).unwrap();
            traffic::ping_packet(client.netns(), server.address, mtu.into()).unwrap();
            traffic::ping_fragments(client.netns(), server.address, 4000).unwrap();
            traffic::tcp_intact(client, server, 1 << 20, directory).unwrap();
            for payload in [1, 1000, 5000] {
                traffic::udp_intact(client, server, payload, directory).unwrap();
            }
        }
    }
}

#[test]
fn a_stock_peer_is_reached_at_any_size_in_both_families() {
    for (backend, args) in [(TUNNEL, KERNEL), (TUNNEL, EBPF), (DIRECT, KERNEL), (DIRECT, EBPF)] {
        let topology = Topology::builder("stock").ipv6().plain_packets();
        let (overlay, pods) = ours_and_stock(topology, &config(&[DUAL], backend), args, &dual_stock(1430));
        let file = overlay.topology.dir().join("wire.pcap");
        let capture = Capture::start(overlay.node(0).netns(), "eth0", "", &file).unwrap();
        exchange(&overlay, &pods, 1430);
        let pcap = capture.stop().unwrap();
        assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new(), "{backend} {args}");
        let pods_addresses = "(ip.addr == 10.42.0.0/16 || ipv6.addr == fd42::/48)";
        let tunnelled = pcap.count("vxlan").unwrap();
        let bare = pcap.count(&format!("{pods_addresses} && !vxlan")).unwrap();
        let (carrier, other) = if backend == TUNNEL { (tunnelled, bare) } else { (bare, tunnelled) };
        assert!(carrier > 1000 && other == 0, "{backend} {args}: {tunnelled} in the tunnel, {bare} bare");
        let zero = "ipv6 && vxlan && udp.checksum == 0";
        assert_eq!(pcap.count(zero).unwrap(), 0, "stock peers drop these: {}", pcap.details(zero).unwrap());
        assert_eq!(
            args == EBPF,
            overlay.fast(0).is_ok_and(|(out, into)| out > 100 && into > 100),
            "{backend}"
        );
    }
}

#[test]
fn a_stock_peer_of_one_family_is_reached_at_its_mtu() {
    let topology = Topology::builder("stock-v4").plain_packets();
    let (overlay, pods) = ours_and_stock(topology, &config(&[ONLY_IPV4], TUNNEL), KERNEL, &stock(1450));
    exchange(&overlay, &pods, 1450);
}

/// Flanneld gives dual-stack pods 20 bytes more than fit, and devices aggregate: streams must work all the same.
#[test]
fn streams_with_offloads_and_flannels_own_mtu_arrive_whole() {
    let topology = Topology::builder("stock-gso").ipv6();
    let (overlay, pods) = ours_and_stock(topology, &config(&[DUAL], TUNNEL), EBPF, &dual_stock(1450));
    for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        for server in Destination::all(server) {
            traffic::tcp_intact(client, server, 50 << 20, overlay.topology.dir()).unwrap();
        }
    }
}
