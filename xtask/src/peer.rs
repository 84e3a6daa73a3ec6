//! Nodes that are not there, and their leases as flannel writes them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::overlay::Backend;

/// So many fit into the ranges below, with room for those that come later.
pub(crate) const MOST: u32 = 40_000;

/// Where all public addresses are.
pub(crate) const UNDERLAY: &str = "172.16.0.0/12";
/// The same for IPv6.
pub(crate) const UNDERLAY6: &str = "2001:db8:f000::/36";

const FIRST_SUBNET: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// A node that has moved is that far from where it was.
const MOVE: u32 = 1 << 19;
const VNI: u32 = 1;

/// The overlay that the leases belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) backend: Backend,
    pub(crate) ipv6: bool,
}

impl Overlay {
    /// The name for people.
    pub(crate) fn name(self) -> String {
        let families = if self.ipv6 { "IPv4 and IPv6" } else { "IPv4" };
        format!("{}, {families}", self.backend.name())
    }

    /// How many routes a peer takes.
    pub(crate) fn families(self) -> u32 {
        if self.ipv6 { 2 } else { 1 }
    }

    /// The network config.
    pub(crate) fn config(self) -> String {
        let backend = self.backend.name();
        let ipv6 = if self.ipv6 { r#""EnableIPv6":true,"IPv6Network":"fd42::/48","# } else { "" };
        format!(r#"{{"Network":"10.0.0.0/8","SubnetLen":24,{ipv6}"Backend":{{"Type":"{backend}"}}}}"#)
    }
}

/// A node that is not there. Its number decides its subnets, its addresses and its MACs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) overlay: Overlay,
    pub(crate) number: u32,
    /// Whether it has another address and other MACs than at first.
    pub(crate) has_moved: bool,
}

impl Peer {
    /// Where it is at first.
    pub(crate) fn new(overlay: Overlay, number: u32) -> Self {
        Self { overlay, number, has_moved: false }
    }

    /// Its key in a store, below the prefix.
    pub(crate) fn key(self) -> String {
        let ipv6 = if self.overlay.ipv6 { format!("&{}-64", self.subnet6()) } else { String::new() };
        format!("subnets/{}-24{ipv6}", self.subnet())
    }

    /// What it says there.
    pub(crate) fn value(self) -> String {
        let Overlay { backend, ipv6 } = self.overlay;
        let address = self.address();
        let address6 = if ipv6 { format!(r#""{}""#, self.address6()) } else { "null".to_owned() };
        let data = |member: &str, mac: &str| format!(r#","{member}":{{"VNI":{VNI},"VtepMAC":"{mac}"}}"#);
        let data = match backend {
            Backend::HostGw | Backend::Ipip | Backend::Udp => String::new(),
            Backend::Vxlan if ipv6 => {
                data("BackendData", &self.mac(4)) + &data("BackendV6Data", &self.mac(6))
            }
            Backend::Vxlan => data("BackendData", &self.mac(4)),
        };
        let name = backend.name();
        // Flannel's udp says nothing of itself.
        let kind =
            if backend == Backend::Udp { String::new() } else { format!(r#","BackendType":"{name}""#) };
        format!(r#"{{"PublicIP":"{address}","PublicIPv6":{address6}{kind}{data}}}"#)
    }

    /// Its end of the overlay in each family.
    pub(crate) fn ends(self) -> Vec<End> {
        let ipv4 = End {
            subnet: self.subnet().to_string(),
            bits: 24,
            address: self.address().to_string(),
            device: "flannel.1",
            mac: self.mac(4),
        };
        let ipv6 = self.overlay.ipv6.then(|| End {
            subnet: self.subnet6().to_string(),
            bits: 64,
            address: self.address6().to_string(),
            device: "flannel-v6.1",
            mac: self.mac(6),
        });
        std::iter::once(ipv4).chain(ipv6).collect()
    }

    fn subnet(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_SUBNET.to_bits() + (self.number << 8))
    }

    fn subnet6(self) -> Ipv6Addr {
        // Agents take the lowest for themselves.
        let number = u16::try_from(self.number + 0x1000).unwrap_or(u16::MAX);
        Ipv6Addr::new(0xfd42, 0, 0, number, 0, 0, 0, 0)
    }

    fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + self.place())
    }

    fn address6(self) -> Ipv6Addr {
        let [_, a, b, c] = self.place().to_be_bytes().map(u16::from);
        Ipv6Addr::new(0x2001, 0xdb8, 0xf000, 0, 0, 0, a, b << 8 | c)
    }

    fn place(self) -> u32 {
        self.number + if self.has_moved { MOVE } else { 0 }
    }

    fn mac(self, family: u8) -> String {
        let [_, a, b, c] = self.place().to_be_bytes();
        format!("02:11:{family:02x}:{a:02x}:{b:02x}:{c:02x}")
    }
}

/// One family of a peer.
pub(crate) struct End {
    pub(crate) subnet: String,
    pub(crate) bits: u8,
    pub(crate) address: String,
    pub(crate) device: &'static str,
    pub(crate) mac: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const VXLAN: Overlay = Overlay { backend: Backend::Vxlan, ipv6: true };

    #[test]
    fn leases_are_as_flannel_writes_them() {
        let dual = Peer::new(VXLAN, 300);
        assert_eq!(dual.key(), "subnets/10.65.44.0-24&fd42:0:0:112c::-64");
        assert_eq!(
            dual.value(),
            concat!(
                r#"{"PublicIP":"172.16.1.45","PublicIPv6":"2001:db8:f000::12c","BackendType":"vxlan","#,
                r#""BackendData":{"VNI":1,"VtepMAC":"02:11:04:00:01:2c"},"#,
                r#""BackendV6Data":{"VNI":1,"VtepMAC":"02:11:06:00:01:2c"}}"#
            )
        );
        let routed = Peer::new(Overlay { backend: Backend::HostGw, ipv6: false }, 0);
        assert_eq!(routed.key(), "subnets/10.64.0.0-24");
        assert_eq!(routed.value(), r#"{"PublicIP":"172.16.0.1","PublicIPv6":null,"BackendType":"host-gw"}"#);
    }

    #[test]
    fn no_two_peers_are_alike() {
        let keys: BTreeSet<_> = (0..MOST).map(|number| Peer::new(VXLAN, number).key()).collect();
        let both = [false, true];
        let peers =
            (0..MOST).flat_map(|number| both.map(|has_moved| Peer { has_moved, ..Peer::new(VXLAN, number) }));
        let values: BTreeSet<_> = peers.map(Peer::value).collect();
        assert_eq!((keys.len(), values.len()), (MOST as usize, 2 * MOST as usize));
    }
}
