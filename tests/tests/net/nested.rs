//! Namespaces behind a pod, as those of nested containers and virtual machines: what the pod forwards into them is as
//! whole as what it takes itself, with aggregates and without.

use std::net::{IpAddr, SocketAddr};

use ovl_tests::bulk::transfer;
use ovl_tests::capture::Capture;
use ovl_tests::links;
use ovl_tests::netns::Netns;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::sockets::{self, Pair};
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use crate::overlay::{CARRIED, DUAL, Overlay, config, is_fast};

const BYTES: u64 = 50 << 20;
/// For captures.
const FEW_BYTES: u64 = 4 << 20;
const PORT: u16 = 9000;

/// How a nested namespace is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It has addresses of the node's subnet, to which the node has routes by way of the pod.
    Routes,
    /// The pod hands on what comes to one of its ports.
    Dnat,
}

/// A namespace with `eth0`, the other end of which is `nested` in a pod that forwards.
struct Nested {
    netns: Netns,
    /// Its own addresses with those by which others call it.
    places: Vec<(SocketAddr, SocketAddr)>,
}

impl Nested {
    fn create(way: Way, node: &Node, pod: &Pod, env: &SubnetEnv) -> Self {
        let netns = Netns::create(&format!("{}-in", pod.netns().name())).unwrap();
        let mtu = env.mtu;
        netns.sysctl(&["net.ipv6.conf.default.accept_dad=0"]).unwrap();
        pod.netns()
            .ip(&format!(
                "link add nested mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
                netns.name()
            ))
            .unwrap();
        pod.netns().ip("link set nested up").unwrap();
        netns.ip("link set eth0 up").unwrap();
        pod.netns().sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]).unwrap();
        let mut places = Vec::new();
        for (subnet, pods) in env.subnets.iter().zip(pod.addresses()) {
            let (own, host) = match (way, pods.is_ipv4()) {
                (Way::Routes, is_ipv4) => (subnet.pod_address(100), if is_ipv4 { 32 } else { 128 }),
                (Way::Dnat, true) => (IpAddr::from([172, 31, 0, 2]), 32),
                (Way::Dnat, false) => ("fd99::2".parse().unwrap(), 128),
            };
            let gateway = if pods.is_ipv4() { "169.254.1.1" } else { "fd99::1" };
            pod.netns().ip(&format!("address add {gateway}/{host} dev nested")).unwrap();
            pod.netns().ip(&format!("route add {own}/{host} dev nested")).unwrap();
            netns.ip(&format!("address add {own}/{host} dev eth0")).unwrap();
            netns.ip(&format!("route add default via {gateway} dev eth0 onlink")).unwrap();
            let listener = SocketAddr::new(own, PORT);
            if way == Way::Routes {
                node.netns().ip(&format!("route add {own}/{host} via {pods} dev cni0")).unwrap();
                places.push((listener, listener));
            } else {
                let program = if pods.is_ipv4() { "iptables" } else { "ip6tables" };
                let rule =
                    format!("-t nat -A PREROUTING -i eth0 -p tcp --dport {PORT} -j DNAT --to {listener}");
                pod.netns().command(program).words(&rule).run().unwrap();
                places.push((listener, (pods, PORT).into()));
            }
        }
        Self { netns, places }
    }

    /// Transfers from a pod into it and out of it, in every family.
    fn exchange(&self, client: &Pod, bytes: u64) {
        for (own, to) in &self.places {
            let listener = sockets::listen(&self.netns, *own).unwrap();
            let pair = Pair::through(client.netns(), &listener, *to).unwrap();
            transfer(&pair.client, &pair.server, bytes).unwrap();
            transfer(&pair.server, &pair.client, bytes).unwrap();
        }
    }

    /// Sets offloads of the nested link, at both of its ends.
    fn offloads(&self, pod: &Pod, words: &str) {
        for (netns, interface) in [(pod.netns(), "nested"), (&self.netns, "eth0")] {
            netns.command("ethtool").args(["-K", interface]).words(words).run().unwrap();
        }
    }
}

/// The first node's interface cuts streams into segments from now on, and the other one's puts them together again,
/// tunnel and all, as real ones do: such aggregates are not what a sender of this machine makes.
fn send_segments(overlay: &Overlay) {
    links::make_packets_plain(overlay.node(0).netns(), "eth0").unwrap();
    overlay.node(1).command("ethtool").words("-K eth0 gro on").run().unwrap();
}

fn behind_a_pod(way: Way) {
    for args in CARRIED {
        let topology = Topology::builder("nested").nodes(2).ipv6();
        let overlay = Overlay::start_with(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#), args).unwrap();
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        let [client, pod] = [&overlay.pods[0], &overlay.pods[1]];
        let nested = Nested::create(way, overlay.node(1), pod, &overlay.agents[1].subnet().unwrap());
        let before = overlay.fast(1).unwrap();
        for segments in [false, true] {
            if segments {
                send_segments(&overlay);
            }
            for offloads in ["tx on tso on gso on gro off", "gro on", "tx off tso off gso off", "gro off"] {
                nested.offloads(pod, offloads);
                nested.exchange(client, BYTES);
            }
        }
        let after = overlay.fast(1).unwrap();
        if is_fast(args) {
            let [out, into] = [after.0 - before.0, after.1 - before.1];
            assert!(out > 1000 && into > 1000, "{way:?} {args}: {out} out, {into} in");
            let segments = 8 * BYTES / 1400;
            assert!(into < segments / 2, "{way:?} {args}: {into} in are not aggregates");
        }
        // Nothing is left to a device by now: what is seen is what a virtual machine would get.
        let file = overlay.topology.dir().join("nested.pcap");
        let capture = Capture::start(&nested.netns, "eth0", "tcp", &file).unwrap();
        nested.exchange(client, FEW_BYTES);
        let pcap = capture.stop().unwrap();
        assert!(pcap.count("tcp.len > 1000").unwrap() > 1000, "{way:?} {args}");
        assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new(), "{way:?} {args}");
        let limit = overlay.agents[1].subnet().unwrap().mtu + 14;
        assert_eq!(pcap.count(&format!("frame.len > {limit}")).unwrap(), 0, "{way:?} {args}: aggregates");
    }
}

#[test]
fn a_namespace_behind_a_pod_is_reached_by_routes() {
    behind_a_pod(Way::Routes);
}

#[test]
fn a_namespace_behind_a_pod_is_reached_by_dnat() {
    behind_a_pod(Way::Dnat);
}
