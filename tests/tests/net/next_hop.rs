//! The way to a peer's node changes under traffic, by the kernel's own means: its MAC, and the route to it.

use std::collections::BTreeSet;
use std::time::Duration;

use ovl_tests::capture::Capture;
use ovl_tests::echo::Echo;
use ovl_tests::flow::{Flow, SMALL};
use ovl_tests::links;
use ovl_tests::topology::{Builder, Topology};
use ovl_tests::traffic;

use crate::overlay::{DUAL, Overlay, SOON, config, is_fast, silent_no_longer_than_the_kernel};

/// An overlay with traffic in both families between its pods.
struct Busy {
    flows: Vec<Flow>,
    _echos: Vec<Echo>,
    overlay: Overlay,
}

impl Busy {
    fn start(topology: Builder, backend: &str, args: &str) -> Self {
        let config = config(&[DUAL], &format!(r#"{{"Type":"{backend}"}}"#));
        let overlay = Overlay::start_with(topology.nodes(2).ipv6(), &config, args).unwrap();
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let echo = |address| Echo::start(server.netns(), (address, 7777).into(), 1).unwrap();
        let echos: Vec<_> = server.addresses().map(echo).collect();
        let flow = |echo: &Echo| Flow::udp(client.netns(), echo.address(), SMALL).unwrap();
        let flows = echos.iter().map(flow).collect();
        Self { flows, _echos: echos, overlay }
    }

    /// All flows go on, and what the first node sends goes to this MAC and no other.
    fn goes_to(&self, mac: &str, args: &str) {
        for flow in &self.flows {
            flow.wait_for_more(10, SOON * 3).unwrap();
        }
        let node = self.overlay.node(0);
        let before = self.overlay.fast(0).unwrap();
        let file = self.overlay.topology.dir().join("hop.pcap");
        let own = links::mac(node.netns(), "eth0").unwrap();
        let capture =
            Capture::start(node.netns(), "eth0", &format!("udp and ether src {own}"), &file).unwrap();
        for flow in &self.flows {
            flow.wait_for_more(20, SOON).unwrap();
        }
        let rows = capture.stop().unwrap().rows("", &["eth.dst"]).unwrap();
        let outer = |row: Vec<String>| row[0].split(',').next().unwrap_or_default().to_owned();
        let hops: BTreeSet<_> = rows.into_iter().map(outer).collect();
        assert_eq!(hops, BTreeSet::from([mac.to_owned()]), "{args}");
        let after = self.overlay.fast(0).unwrap();
        assert!(!is_fast(args) || after.0 > before.0 + 30, "{args}: not the fast path");
    }

    fn silence(self) -> Duration {
        self.flows.into_iter().map(|flow| flow.stop().unwrap().longest_gap).max().unwrap()
    }
}

#[test]
fn a_peers_new_mac_is_found() {
    for backend in ["vxlan", "host-gw"] {
        silent_no_longer_than_the_kernel(|args| {
            let busy = Busy::start(Topology::builder("newmac"), backend, args);
            let peer = busy.overlay.node(1).netns();
            peer.sysctl(&["net.ipv4.conf.eth0.arp_notify=1", "net.ipv6.conf.eth0.ndisc_notify=1"]).unwrap();
            // News about a neighbour that is itself news is not believed for a second (`locktime`).
            busy.flows[0].wait_for_more(120, SOON).unwrap();
            peer.ip("link set eth0 address 02:00:00:00:77:01").unwrap();
            busy.goes_to("02:00:00:00:77:01", args);
            busy.silence()
        });
    }
}

#[test]
fn a_new_route_of_the_underlay_is_taken() {
    silent_no_longer_than_the_kernel(|args| {
        let busy = Busy::start(Topology::builder("detour").switch(), "vxlan", args);
        let (node, peer) = (busy.overlay.node(0), busy.overlay.node(1));
        let router = links::mac(busy.overlay.topology.switch().unwrap(), "switch").unwrap();
        let direct = links::mac(peer.netns(), "eth0").unwrap();
        let detours = |verb: &str| {
            for place in peer.addresses().iter() {
                node.netns().ip(&format!("route {verb} {} via {}", place.address, place.gateway)).unwrap();
            }
        };
        detours("add");
        busy.goes_to(&router, args);
        detours("del");
        busy.goes_to(&direct, args);
        busy.silence()
    });
}
