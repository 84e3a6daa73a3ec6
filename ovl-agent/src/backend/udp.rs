//! `udp`: a TUN device, whose packets a process carries in UDP datagrams (FLANNEL.md 5.3). The rows are the device, a
//! route for the whole network, and where each peer's subnet is.

use ipnet::IpNet;

use super::{Desired, Peer, Route, RouteKey, TunDevice};
use crate::family::{ByFamily, Family};
use crate::network::{Network, UdpOptions};
use crate::node::{Node, Underlay};

/// Bare packets in UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Options of the network config.
    pub options: UdpOptions,
}

/// The device, as flannel calls it: one for both families.
const DEVICE: &str = "flannel0";

impl Udp {
    /// The name for people; leases have none.
    pub const NAME: &str = "udp";

    /// The name of the device. It has the packets of both families, whatever they travel in: as the overlay's first one
    /// it is known by IPv4.
    pub fn device_names(&self) -> ByFamily<String> {
        ByFamily { v4: Some(DEVICE.to_owned()), v6: None }
    }

    /// What fits a datagram over any family, bytes.
    pub(super) fn narrowest(underlay: &Underlay) -> u32 {
        let each = underlay.addresses.iter().map(|(family, _)| Self::mtu(family, underlay.mtu));
        each.min().unwrap_or(underlay.mtu)
    }

    /// The largest packet that fits a datagram over `family`, bytes.
    fn mtu(family: Family, underlay_mtu: u32) -> u32 {
        underlay_mtu.saturating_sub(overhead(family))
    }

    /// The device, the addresses and the routes into it.
    pub(super) fn own_rows(&self, node: &Node, network: &Network, desired: &mut Desired) {
        let local = node.underlay.addresses;
        let mtu = Self::narrowest(&node.underlay);
        let device = TunDevice { mtu, port: self.options.port, local };
        desired.tuns.insert(DEVICE.to_owned(), device);
        for (family, range) in network.ranges().iter() {
            if let Some(subnet) = node.subnet(family) {
                desired.addresses.insert((Family::V4, IpNet::from(subnet.addr())), ());
                desired.routes.insert(RouteKey::usual(*range), Route::Device(DEVICE.into()));
            }
        }
    }

    /// Where a peer's subnet is.
    pub(super) fn peer_rows(peer: &Peer<'_>, desired: &mut Desired) {
        desired.udp_peers.insert(peer.subnet, peer.way.node);
    }
}

/// What carrying a packet adds to it, bytes: 20 (IPv4) or 40 (IPv6) + 8 (UDP).
fn overhead(family: Family) -> u32 {
    match family {
        Family::V4 => 28,
        Family::V6 => 48,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::{desired, node};
    use crate::backend::{Backend, Desired};

    const UDP: Backend = Backend::Udp(Udp { options: UdpOptions { port: 8285 } });

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    fn routes(desired: &Desired) -> Vec<(String, &Route)> {
        desired.routes.iter().map(|(key, route)| (key.to_string(), route)).collect()
    }

    #[test]
    fn rows_are_those_that_flannel_would_write_in_both_families() {
        let peer =
            ("10.42.7.0-24&fd42:0:0:7::-64", r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12"}"#);
        let desired = desired(&UDP, &[peer]);
        let device = &desired.tuns["flannel0"];
        assert_eq!((device.mtu, device.port, device.local), (1452, 8285, node().underlay.addresses));
        let addresses: Vec<IpNet> = desired.addresses.keys().map(|(_, net)| *net).collect();
        assert_eq!(addresses, [net("10.42.3.0/32"), net("fd42:0:0:3::/128")]);
        let into = Route::Device("flannel0".into());
        assert_eq!(routes(&desired), [("10.42.0.0/16".into(), &into), ("fd42::/48".into(), &into)]);
        let peers: Vec<_> =
            desired.udp_peers.iter().map(|(subnet, node)| (subnet.to_string(), node.to_string())).collect();
        let expected = [("10.42.7.0/24", "192.0.2.12"), ("fd42:0:0:7::/64", "2001:db8::12")];
        assert_eq!(peers, expected.map(|(subnet, node)| (subnet.to_owned(), node.to_owned())));
        assert!(desired.devices.is_empty() && desired.neighbours.is_empty() && desired.rejected.is_empty());
        assert!(desired.remotes.is_empty(), "programs have no part in it");
        assert_eq!(UDP.mtu(&node().underlay), 1452, "pods have the narrower of the two");
    }

    #[test]
    fn leases_say_no_more_than_flannels() {
        let attrs = UDP.attrs(&node().public_ips);
        let json = serde_json::to_string(&attrs).expect("plain data");
        assert_eq!(json, r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11"}"#);
        let other = ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12","BackendType":"vxlan"}"#);
        let desired = desired(&UDP, &[other]);
        assert!(desired.udp_peers.is_empty() && desired.rejected.len() == 1);
    }
}
