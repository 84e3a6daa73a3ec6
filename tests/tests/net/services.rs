//! Services by DNAT, as kube-proxy makes them: whatever path packets take, connections through a service reach one of
//! its pods and none is reset.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ovl_tests::cni::Runtime;
use ovl_tests::echo::{Caller, Echo, ask_once};
use ovl_tests::flow::{BULK, Flow, SMALL};
use ovl_tests::netns::Netns;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::service::{self, Keeps, Proxy, Service};
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use crate::cni::{conflist, flags};
use crate::overlay::{Overlay, SOON, filtered_at_tc, is_fast};

/// How many connections: in rounds, each of which is open at the same time.
const ROUNDS: usize = 4;
const AT_ONCE: usize = 250;
/// How many datagrams, each from a port of its own.
const DATAGRAMS: usize = 50;

/// The port of the pods' servers.
const PORT: u16 = 8080;

/// Who answers: the client's own pod, another one on its node, and one on the other node.
const OWN: u8 = 1;
const LOCAL: u8 = 2;
const REMOTE: u8 = 3;

/// Two nodes with pods by the real CNI plugins and somebody outside, with four services on the first node.
struct Services {
    echos: Vec<Echo>,
    local: Pod,
    overlay: Overlay,
}

fn cluster(number: u8) -> SocketAddr {
    ([10, 96, 0, number], 80).into()
}

impl Services {
    fn start(proxy: Proxy, args: &str) -> Self {
        let topology = Topology::builder("services").nodes(2).switch();
        let mut overlay = Overlay::without_agents(topology, "vxlan").unwrap();
        let start = |index| overlay.start_ready(index, &flags(overlay.node(index), args)).unwrap();
        let agents = [0, 1].map(start);
        let runtimes =
            [0, 1].map(|index| Runtime::new(overlay.node(index), &conflist(overlay.node(index))).unwrap());
        let pods = runtimes.each_ref().map(|runtime| runtime.add("a", &[]).unwrap());
        let local = runtimes[0].add("b", &[]).unwrap();
        (overlay.agents, overlay.pods) = (agents.into(), pods.into());
        let [own, remote] = [&overlay.pods[0], &overlay.pods[1]];
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        traffic::ping(local.netns(), remote.address()).unwrap();
        let node = overlay.node(0);
        let echo = |pod: &Pod, mark| Echo::start(pod.netns(), (pod.address(), PORT).into(), mark).unwrap();
        let echos = vec![echo(own, OWN), echo(&local, LOCAL), echo(remote, REMOTE)];
        let both = vec![echos[1].address(), echos[2].address()];
        let named = |name, number: u8, endpoints: Vec<SocketAddr>, keeps| {
            let node_port = 30000 + u16::from(number);
            Service { name, cluster: cluster(number), node_port, endpoints, keeps }
        };
        let services = [
            named("WEB", 1, both.clone(), Keeps::Nothing),
            named("OWN", 2, vec![echos[0].address()], Keeps::Source),
            named("FAR", 3, vec![echos[2].address()], Keeps::Nothing),
            named("SAME", 4, both, Keeps::Endpoint),
        ];
        service::install(node, proxy, "10.42.0.0/16", &services).unwrap();
        Self { echos, local, overlay }
    }

    fn node(&self) -> &Node {
        self.overlay.node(0)
    }

    fn client(&self) -> &Pod {
        &self.overlay.pods[0]
    }

    /// Opens many connections and asks with datagrams: each gets its answers, and who answered by TCP
    /// and by UDP is returned.
    fn call(&self, from: &Netns, to: SocketAddr) -> [BTreeSet<u8>; 2] {
        let mut by_tcp = BTreeSet::new();
        for _ in 0..ROUNDS {
            let open = |_| Caller::connect(from, to, SOON).unwrap();
            let mut callers: Vec<_> = (0..AT_ONCE).map(open).collect();
            for length in [100, 3000] {
                for caller in &mut callers {
                    caller.ask(length).unwrap();
                }
            }
            by_tcp.extend(callers.iter().map(Caller::mark));
        }
        let by_udp = (0..DATAGRAMS).map(|_| ask_once(from, to, SOON).unwrap()).collect();
        assert!(self.echos.iter().all(|echo| echo.resets() == 0), "connections to {to} were reset");
        [by_tcp, by_udp]
    }

    /// Whom each server has seen.
    fn peers(&self) -> [Vec<IpAddr>; 3] {
        [0, 1, 2].map(|index| self.echos[index].peers().into_iter().collect())
    }
}

/// These and no others have answered, by either protocol.
fn only<const N: usize>(marks: [u8; N]) -> [BTreeSet<u8>; 2] {
    [marks.into(), marks.into()]
}

#[test]
fn a_cluster_address_leads_to_pods_on_this_node_and_others() {
    for (args, proxy) in combinations() {
        let services = Services::start(proxy, args);
        let (pod, overlay) = (services.client(), &services.overlay);
        let bulk = Flow::tcp(pod.netns(), cluster(3), BULK).unwrap();
        let direct = Flow::udp(pod.netns(), (overlay.pods[1].address(), PORT).into(), SMALL).unwrap();
        let before = overlay.fast(0).unwrap();
        assert_eq!(services.call(pod.netns(), cluster(1)), only([LOCAL, REMOTE]), "{args} {proxy:?}");
        let marks = services.call(pod.netns(), cluster(4));
        let stays = marks.iter().all(|marks| marks.len() == 1);
        assert!(stays, "{args} {proxy:?}: it stays with its endpoint: {marks:?}");
        // To itself, by way of the service: as its node, or it would answer past it.
        assert_eq!(services.call(pod.netns(), cluster(2)), only([OWN]));
        let gateway = overlay.agents[0].subnet().unwrap().subnets.first().gateway;
        let own = pod.address();
        assert_eq!(services.peers(), [vec![gateway], vec![own], vec![own]], "{args} {proxy:?}");
        let outcome = bulk.stop().unwrap();
        assert!(outcome.longest_gap < Duration::from_secs(1), "{args} {proxy:?}: {outcome:?}");
        assert_eq!(direct.stop().unwrap().lost(), 0);
        let after = overlay.fast(0).unwrap();
        if is_fast(args) {
            assert!(after.0 > before.0 + 50 && after.1 > before.1 + 50, "{args}: what is direct goes fast");
        }
        // The other pod of the node is a client like the first.
        assert_eq!(services.call(services.local.netns(), cluster(3)), only([REMOTE]));
    }
}

#[test]
fn a_node_port_leads_to_pods_from_outside() {
    for (args, proxy) in combinations() {
        let services = Services::start(proxy, args);
        let outside = services.overlay.topology.switch().unwrap();
        let port = |number: u16| SocketAddr::from((services.node().address(), 30000 + number));
        // The answers find the way back, since the node asks in its own name.
        assert_eq!(services.call(outside, port(1)), only([LOCAL, REMOTE]), "{args} {proxy:?}");
        // The pod sees who asks.
        assert_eq!(services.call(outside, port(2)), only([OWN]), "{args} {proxy:?}");
        let subnet = services.overlay.agents[0].subnet().unwrap();
        let [gateway, overlay] = [subnet.subnets.first().gateway, subnet.base()];
        let asking = services.node().addresses().first().gateway;
        assert_eq!(services.peers(), [vec![asking], vec![gateway], vec![overlay]], "{args} {proxy:?}");
    }
}

fn combinations() -> impl Iterator<Item = (&'static str, Proxy)> {
    let proxies = [Proxy::Iptables, Proxy::Nftables];
    filtered_at_tc().iter().flat_map(move |args| proxies.map(|proxy| (*args, proxy)))
}
