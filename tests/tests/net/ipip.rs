//! The ipip backend. Where the kernel has no device for it, as the development kernel, programs stand in for that; the same
//! tests run with the devices of other kernels (`cargo xtask kernels`).

use ovl_tests::agent::Agent;
use ovl_tests::capture::{Capture, Pcap};
use ovl_tests::kernel_ipip;
use ovl_tests::links;
use ovl_tests::pod::Pod;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::{Builder, Topology};
use ovl_tests::traffic::{self, Destination, PingInBackground};
use ovl_tests::wait::wait_for;

use crate::listing::rows;
use crate::overlay::{DUAL, EBPF, KERNEL, ONLY_IPV4, Overlay, SOON, VERIFIED, XDP, config};

const IPIP: &str = r#"{"Type":"ipip"}"#;
const DIRECT: &str = r#"{"Type":"ipip","DirectRouting":true}"#;
/// The kernel path alone, which takes programs where the kernel has no device.
const SLOW: &str = "--mode ebpf --strict --fast-path off";
/// What is left of 1500 bytes by the wider header.
const MTU: u32 = 1460;

fn start(topology: Builder, args: &str) -> Overlay {
    let overlay = Overlay::start_with(topology, &config(&[DUAL], IPIP), args).unwrap();
    wait_for("pings between all pods", 4 * SOON, || Ok(traffic::ping_all_pairs(&overlay.pods).is_ok()))
        .unwrap();
    overlay
}

/// Packets of exactly the pods' MTU, fragments, streams and datagrams, both ways and in both families.
fn exchange(pods: [&Pod; 2], mtu: u32, bytes: u64, directory: &std::path::Path) {
    for (client, server) in [(pods[0], pods[1]), (pods[1], pods[0])] {
        for server in Destination::all(server) {
            traffic::ping_packet(client.netns(), server.address, mtu.into()).unwrap();
            traffic::ping_fragments(client.netns(), server.address, 12_000).unwrap();
            traffic::tcp_intact(client, server, bytes, directory).unwrap();
            for payload in [1, 1000, 5000] {
                traffic::udp_intact(client, server, payload, directory).unwrap();
            }
        }
    }
}

/// What crosses the underlay of the first node meanwhile.
fn captured(overlay: &Overlay, work: impl FnOnce()) -> Pcap {
    let file = overlay.topology.dir().join("wire.pcap");
    let capture = Capture::start(overlay.node(0).netns(), "eth0", "", &file).unwrap();
    work();
    capture.stop().unwrap()
}

/// Whether this kernel has the tunnel's own device.
fn has_device() -> bool {
    let netns = ovl_tests::netns::Netns::create(&ovl_tests::netns::unique_prefix("ipip-kind")).unwrap();
    netns.ip("link add probe type ipip local 192.0.2.1").is_ok()
}

#[test]
fn everything_travels_in_ip_and_arrives_whole_on_either_path() {
    let kernel_mode = has_device().then_some(KERNEL);
    for args in [SLOW, EBPF, VERIFIED].into_iter().chain(kernel_mode) {
        let overlay = start(Topology::builder("ipip").ipv6().plain_packets(), args);
        assert_eq!(overlay.agents[0].subnet().unwrap().mtu, MTU, "{args}");
        let before = overlay.fast(0).unwrap();
        let pods = [&overlay.pods[0], &overlay.pods[1]];
        let pcap = captured(&overlay, || exchange(pods, MTU, 1 << 20, overlay.topology.dir()));
        let after = overlay.fast(0).unwrap();
        let went_fast = after.0 > before.0 + 500 && after.1 > before.1 + 500;
        assert_eq!(went_fast, args == EBPF || args == VERIFIED, "{args}: {before:?} {after:?}");
        assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new(), "{args}");
        let families =
            [("ip.proto == 4", "ip.addr == 10.42.0.0/16"), ("ipv6.nxt == 41", "ipv6.addr == fd42::/48")];
        for (outside, inside) in families {
            let carried = pcap.count(&format!("{outside} && {inside}")).unwrap();
            let bare = pcap.count(&format!("{inside} && !({outside})")).unwrap();
            assert!(carried > 500 && bare == 0, "{args} {outside}: {carried} in the tunnel, {bare} bare");
        }
        assert_eq!(overlay.agents[0].counter("from_wire", "mangled").unwrap(), 0);
    }
}

#[test]
fn aggregates_arrive_whole_on_either_path() {
    // The wider header leaves IPv6 the least that it takes.
    for (args, underlay) in [(SLOW, 1320), (EBPF, 9000), (XDP, 1500)] {
        let overlay = start(Topology::builder("ipip-gso").ipv6().mtu(underlay), args);
        exchange([&overlay.pods[0], &overlay.pods[1]], underlay - 40, 32 << 20, overlay.topology.dir());
        let early = overlay.agents[0].counter("from_wire_xdp", "stripped").unwrap();
        assert_eq!(early > 500, args == XDP, "{args}: {early}");
    }
}

/// Kernels' own devices answer so, too.
#[test]
fn the_kernel_answers_what_cannot_be_carried_and_nodes_reach_pods() {
    for args in [SLOW, EBPF] {
        let overlay = start(Topology::builder("ipip-icmp").ipv6(), args);
        let (pod, peer) = (&overlay.pods[0], &overlay.pods[1]);
        pod.netns().ip("link set eth0 mtu 1500").unwrap();
        for device in ["cni0", pod.host_interface()] {
            overlay.node(0).netns().ip(&format!("link set {device} mtu 1500")).unwrap();
        }
        let table = [
            ("-M do -s 1472", peer.address(), "mtu=1480"),
            ("-M do -s 1452", peer.address6().unwrap().into(), "mtu=1460"),
            ("-t 1", peer.address(), "exceeded"),
            ("-t 2", peer.address(), "exceeded"),
            ("-t 2", peer.address6().unwrap().into(), "exceeded"),
        ];
        for (options, to, expected) in table {
            let ping =
                pod.netns().command("ping").words("-n -c 3 -i 0.2 -W 2").words(options).arg(to.to_string());
            let text = String::from_utf8(ping.output().unwrap().stdout).unwrap().to_lowercase();
            let text = text.replace("mtu: ", "mtu=").replace("mtu = ", "mtu=");
            assert!(text.contains(expected), "{args}: ping {options} {to}: {text}");
        }
        for to in peer.addresses() {
            traffic::ping(overlay.node(0).netns(), to).unwrap();
        }
    }
}

/// As a kernel's device would.
#[test]
fn what_stands_in_goes_on_without_the_agent_and_leaves_with_cleanup() {
    let mut overlay = start(Topology::builder("ipip-gone").ipv6(), SLOW);
    let ping = PingInBackground::start(overlay.pods[0].netns(), overlay.pods[1].address()).unwrap();
    overlay.agents[0].kill().unwrap();
    // Longer than the programs wait for an agent.
    ping.wait_for_more(700, 6 * SOON).unwrap();
    let mut next = overlay.start_ready(0, SLOW).unwrap();
    ping.wait_for_more(100, SOON).unwrap();
    assert_eq!(ping.stop().unwrap().lost(), 0);
    let node = overlay.node(0);
    node.netns().ip("link del flannel.ipip").unwrap();
    wait_for("the device to come back", 4 * SOON, || {
        Ok(traffic::ping(overlay.pods[0].netns(), overlay.pods[1].address()).is_ok())
    })
    .unwrap();
    next.kill().unwrap();
    let binary = ovl_tests::artifacts::agent_binary().unwrap();
    node.command(&binary).arg("cleanup").run().unwrap();
    let links = node.netns().ip("-o link").unwrap();
    assert!(!links.contains("flannel") && !links.contains("ovl-ipip"), "{links}");
}

#[test]
fn peers_on_the_link_are_routed_to_and_others_tunnelled() {
    let topology = Topology::builder("ipip-direct").nodes(3).behind_router(1).ipv6();
    let overlay = Overlay::start_with(topology, &config(&[DUAL], DIRECT), EBPF).unwrap();
    wait_for("pings between all pods", 4 * SOON, || Ok(traffic::ping_all_pairs(&overlay.pods).is_ok()))
        .unwrap();
    let found = rows(overlay.node(0)).unwrap();
    for (peer, device, onlink) in
        [(1, ["eth0", "eth0"], ""), (2, ["flannel.ipip", "flannel-v6.ipip"], " onlink")]
    {
        let env = overlay.agents[peer].subnet().unwrap();
        for (subnet, device) in env.subnets.iter().zip(device) {
            let places = overlay.node(peer).addresses();
            let place = if subnet.base().is_ipv4() { places.ipv4() } else { places.ipv6() };
            // What stands in over IPv6 needs no next hop.
            let needs_none = !onlink.is_empty() && subnet.base().is_ipv6() && !has_device();
            let (gateway, flag) = match place.unwrap().address.to_string() {
                _ if needs_none => (String::new(), ""),
                address => (address, onlink),
            };
            let route = format!("route {} via {gateway} on {device}{flag} by 111", subnet.cidr());
            assert!(found.contains(&route), "{route} is not in {found:#?}");
        }
    }
    let pcap = captured(&overlay, || _ = traffic::ping_all_pairs(&overlay.pods).unwrap());
    let far = overlay.pods[2].address();
    assert!(pcap.count(&format!("ip.proto == 4 && ip.addr == {far}")).unwrap() >= 4);
    let near = overlay.pods[1].address();
    assert_eq!(pcap.count(&format!("ip.proto == 4 && ip.addr == {near}")).unwrap(), 0);
}

#[test]
fn kernel_mode_says_what_the_kernel_lacks() {
    let overlay =
        Overlay::bare(Topology::builder("ipip-mode").nodes(1), &config(&[ONLY_IPV4], IPIP)).unwrap();
    let mut agent = overlay.start_agent(0, KERNEL).unwrap();
    if has_device() {
        agent.wait_ready().unwrap();
        return;
    }
    agent.wait_exit().unwrap();
    let log = agent.log();
    assert!(log.contains("this kernel has no ipip devices") && log.contains("modprobe ipip"), "{log}");
}

/// Our node and one that flanneld would have set up, with a pod each.
fn with_stock_peer(args: &str, plain: bool) -> (Overlay, [Pod; 2]) {
    let topology = Topology::builder("ipip-stock").ipv6();
    let topology = if plain { topology.plain_packets() } else { topology };
    let mut overlay = Overlay::bare(topology, &config(&[DUAL], IPIP)).unwrap();
    let [ours, theirs] = [overlay.node(0), overlay.node(1)];
    let stock = SubnetEnv::by_hand("10.42.0.0/16", "10.42.60.0/24", MTU).unwrap();
    let stock = stock.with_ipv6("fd42::/48", "fd42:0:0:3c::/64").unwrap();
    let lease = kernel_ipip::create(theirs, &stock).unwrap();
    overlay.store.put(&stock.lease_key(), &lease).unwrap();
    let agent: Agent = overlay.start_ready(0, args).unwrap();
    agent.wait_for_peers(1).unwrap();
    let env = agent.subnet().unwrap();
    kernel_ipip::add_peer(theirs, ours, &env).unwrap();
    let pods = [ours.add_pod("a", &env).unwrap(), theirs.add_pod("a", &stock).unwrap()];
    overlay.agents.push(agent);
    (overlay, pods)
}

#[test]
#[ignore = "needs the kernel's ipip and ip6tnl devices: `cargo xtask kernels` runs it"]
fn a_stock_peer_is_reached_at_any_size_in_both_families() {
    assert!(has_device(), "load the modules ipip and ip6_tunnel");
    for (args, plain) in [(KERNEL, true), (EBPF, true), (VERIFIED, false)] {
        let (overlay, pods) = with_stock_peer(args, plain);
        wait_for("a ping", 4 * SOON, || Ok(traffic::ping(pods[0].netns(), pods[1].address()).is_ok()))
            .unwrap();
        let before = overlay.fast(0).unwrap();
        for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
            for server in Destination::all(server) {
                traffic::ping_packet(client.netns(), server.address, MTU.into()).unwrap();
                traffic::ping_fragments(client.netns(), server.address, 4000).unwrap();
                traffic::tcp_intact(client, server, 1 << 20, overlay.topology.dir()).unwrap();
            }
        }
        let after = overlay.fast(0).unwrap();
        let went_fast = after.0 > before.0 + 20 && after.1 > before.1 + 20;
        assert_eq!(went_fast, args != KERNEL, "{args}: {before:?} {after:?}");
        // As in place of a flanneld that was stopped.
        let device = || {
            links::ip_json(overlay.node(1).netns(), "link show flannel.ipip").unwrap()[0]["ifindex"].clone()
        };
        let index = device();
        let agent = overlay.start_ready(1, args).unwrap();
        assert_eq!(agent.subnet().unwrap().subnets.first().cidr(), "10.42.60.0/24");
        assert_eq!(device(), index, "the device was made anew");
        traffic::ping(pods[0].netns(), pods[1].address()).unwrap();
    }
}
