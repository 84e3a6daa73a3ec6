//! Two nodes with agents and a stock one, with a pod on each, and everything that pods can send each other.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ovl_tests::bulk::transfer;
use ovl_tests::capture::{Capture, Pcap};
use ovl_tests::datagrams::Datagrams;
use ovl_tests::kernel_vtep::{KernelVtep, Peer};
use ovl_tests::links;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::sockets::Pair;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use crate::overlay::{DUAL, Overlay, config, is_fast, wait_until_seen};

pub(crate) const VXLAN: &str = r#"{"Type":"vxlan"}"#;
pub(crate) const HOST_GW: &str = r#"{"Type":"host-gw"}"#;
pub(crate) const DIRECT: &str = r#"{"Type":"vxlan","DirectRouting":true}"#;

/// The families that the three nodes use outside, the stock one last.
pub(crate) type Outside = [Ends; 3];

/// The families that a node uses outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Ipv4,
    Ipv6,
    Both,
}

impl Ends {
    fn flag(self) -> &'static str {
        match self {
            Self::Ipv4 => " --underlay-family ipv4",
            Self::Ipv6 => " --underlay-family ipv6",
            // What a network of both has anyhow.
            Self::Both => "",
        }
    }

    fn has(self, is_ipv4: bool) -> bool {
        self == Self::Both || (self == Self::Ipv4) == is_ipv4
    }
}

/// The address of `node` that packets of a family are sent to, between ends such as these; `None` where there is no way.
fn outside(node: &Node, is_ipv4: bool, ends: [Ends; 2]) -> Option<IpAddr> {
    let families = [is_ipv4, !is_ipv4].into_iter();
    let is_ipv4 = families.into_iter().find(|is_ipv4| ends.iter().all(|ends| ends.has(*is_ipv4)))?;
    let places = node.addresses();
    Some(if is_ipv4 { places.ipv4() } else { places.ipv6() }?.address)
}

/// Two nodes with agents and a stock one, with a pod on each.
pub(crate) struct Cluster {
    pub(crate) pods: Vec<Pod>,
    pub(crate) overlay: Overlay,
    is_direct: bool,
    /// Whether one of two tunnels, which is wider than the pods, carries IPv6.
    is_wider: bool,
}

impl Cluster {
    /// All of them use both families outside, and so each inside its own.
    pub(crate) fn start(backend: &str, mtu: u32, args: &str) -> Self {
        Self::start_over([Ends::Both; 3], backend, mtu, args)
    }

    /// They use these families outside.
    pub(crate) fn start_over(ends: Outside, backend: &str, mtu: u32, args: &str) -> Self {
        let topology = Topology::builder("matrix").nodes(3).ipv6().mtu(mtu);
        let mut overlay = Overlay::bare(topology, &config(&[DUAL], backend)).unwrap();
        // 20 bytes more of outer header than IPv4 has; host-gw has none.
        let outer = if ends == [Ends::Ipv4; 3] { 50 } else { 70 };
        let pod_mtu = if backend == HOST_GW { mtu } else { mtu - outer };
        let stock = SubnetEnv::by_hand("10.42.0.0/16", "10.42.200.0/24", pod_mtu).unwrap();
        let stock = stock.with_ipv6("fd42::/48", "fd42:0:0:200::/64").unwrap();
        let place = overlay.node(2).addresses();
        let vtep = match ends[2] {
            Ends::Ipv4 => KernelVtep::over(place.ipv4().unwrap().address, overlay.node(2), &stock),
            Ends::Ipv6 => KernelVtep::over(place.ipv6().unwrap().address, overlay.node(2), &stock),
            Ends::Both => KernelVtep::create(overlay.node(2), &stock),
        };
        let vtep = vtep.unwrap();
        let lease = if backend == HOST_GW { as_host_gw(overlay.node(2), ends[2]) } else { vtep.lease_json() };
        overlay.store.put(&stock.lease_key(), &lease).unwrap();
        let agents =
            [0, 1].map(|index| overlay.start_ready(index, &format!("{args}{}", ends[index].flag())).unwrap());
        let mut pods = Vec::new();
        for ((node, agent), own) in overlay.topology.nodes().iter().zip(&agents).zip(ends) {
            agent.wait_for_peers(2).unwrap();
            let env = agent.subnet().unwrap();
            assert_eq!(env.mtu, pod_mtu, "{backend} {mtu}");
            for subnet in env.subnets.iter() {
                let (base, prefix_len) = (subnet.base(), subnet.prefix_len);
                let Some(public_ip) = outside(node, base.is_ipv4(), [own, ends[2]]) else { continue };
                // Past the tunnel, but for IPv6 through IPv4, which Linux has no routes for.
                if backend == VXLAN || (base.is_ipv6() && public_ip.is_ipv4()) {
                    vtep.add_peer(&Peer::at(public_ip, node, subnet).unwrap()).unwrap();
                } else {
                    vtep.add_direct_peer(&Peer { base, prefix_len, public_ip, vtep_mac: String::new() })
                        .unwrap();
                }
            }
            pods.push(node.add_pod("a", &env).unwrap());
        }
        pods.push(overlay.node(2).add_pod("a", &stock).unwrap());
        overlay.agents.extend(agents);
        let is_wider = ends[0] == Ends::Both && ends.contains(&Ends::Ipv4);
        let cluster = Self { pods, overlay, is_direct: backend == DIRECT, is_wider };
        cluster.ping().unwrap();
        if is_fast(args) {
            wait_until_seen(&cluster.overlay.agents, || cluster.ping()).unwrap();
        }
        cluster
    }

    fn ping(&self) -> Result<()> {
        self.each_way(|client, _, to| traffic::ping(client.netns(), to))
    }

    /// From now on nothing is left to devices: no aggregates, complete checksums.
    pub(crate) fn make_packets_plain(&self) {
        for (node, pod) in self.overlay.topology.nodes().iter().zip(&self.pods) {
            for (netns, interface) in
                [(node.netns(), "eth0"), (node.netns(), pod.host_interface()), (pod.netns(), "eth0")]
            {
                links::make_packets_plain(netns, interface).unwrap();
            }
        }
    }

    /// The first pod with each of the others, both ways, at every address.
    pub(crate) fn each_way(&self, exchange: impl Fn(&Pod, &Pod, IpAddr) -> Result<()>) -> Result<()> {
        for peer in &self.pods[1..] {
            for (client, server) in [(&self.pods[0], peer), (peer, &self.pods[0])] {
                for to in server.addresses() {
                    exchange(client, server, to)
                        .with_context(|| format!("between {} and {to}", client.label()))?;
                }
            }
        }
        Ok(())
    }

    /// So many bytes over connections, and datagrams of all sizes.
    pub(crate) fn exchange(&self, bytes: u64) -> Result<()> {
        let mtu = usize::try_from(self.overlay.agents[0].subnet()?.mtu)?;
        self.each_way(|client, server, to| {
            let largest = mtu - 8 - if to.is_ipv4() { 20 } else { 40 };
            let mut lengths = vec![1, 100, largest - 1, largest, largest + 1, 3 * mtu];
            // Conntrack puts fragments of IPv6 together and sends them on in one piece where that fits the underlay,
            // which is wider than the pods are, or in pieces that fit the tunnel, where that is; the next node then
            // calls them too big. So it is on the kernel path.
            if to.is_ipv6() && self.is_direct {
                lengths.retain(|length| *length != largest + 1);
            }
            if to.is_ipv6() && self.is_wider {
                lengths.retain(|length| *length <= largest);
            }
            exchange(client, server, to, &lengths, bytes)
        })
    }
}

impl Cluster {
    /// What is on the wire to the first node while so many bytes are exchanged and nothing is left to devices.
    pub(crate) fn captured(&self, bytes: u64) -> Result<Pcap> {
        self.make_packets_plain();
        let file = self.overlay.topology.dir().join("cluster.pcap");
        // On the node itself, XDP would have been there first.
        let (switch, port) = self.overlay.topology.port(self.overlay.node(0))?;
        let capture = Capture::start(switch, &port, "", &file)?;
        self.exchange(bytes)?;
        capture.stop()
    }
}

/// Streams both ways, and datagrams of every size: in a packet, just not in a packet, in many.
pub(crate) fn exchange(client: &Pod, server: &Pod, to: IpAddr, lengths: &[usize], bytes: u64) -> Result<()> {
    let pair = Pair::connect(client.netns(), server.netns(), to)?;
    transfer(&pair.client, &pair.server, bytes)?;
    transfer(&pair.server, &pair.client, bytes)?;
    let datagrams = Datagrams::between(client.netns(), server.netns(), to)?;
    for length in lengths {
        datagrams.exchange(20, *length)?;
    }
    Ok(())
}

/// The lease of a node without tunnels.
fn as_host_gw(node: &Node, ends: Ends) -> String {
    let [ipv4, ipv6] = [node.address(), node.address6().unwrap().into()];
    let ipv4 = if ends.has(true) { ipv4.to_string() } else { "0.0.0.0".to_owned() };
    let ipv6 = if ends.has(false) { format!("\"{ipv6}\"") } else { "null".to_owned() };
    format!(r#"{{"PublicIP":"{ipv4}","PublicIPv6":{ipv6},"BackendType":"host-gw"}}"#)
}
