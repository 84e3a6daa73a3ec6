//! What a node has to choose from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rtnetlink::packet_route::address::{AddressFlags, AddressScope};

use crate::family::Family;
use crate::netlink::{Hop, Interface, MainRoute, NodeAddress};

/// Interfaces, addresses and routes, as the kernel lists them.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// All interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// All addresses.
    pub addresses: Vec<NodeAddress>,
    /// The default routes of the network's families, where the choice goes by them.
    pub defaults: Vec<MainRoute>,
    /// The way to `--iface-can-reach`.
    pub way: Option<Hop>,
}

impl Facts {
    /// The interface that has an address, whatever the kernel thinks of it; the first of several.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&Interface> {
        let mut owners = self.addresses.iter().filter(|known| known.address() == address);
        owners.find_map(|known| self.interfaces.get(&known.ifindex))
    }

    /// Whether an interface has an address.
    pub(super) fn has(&self, interface: &Interface, address: IpAddr) -> bool {
        self.addresses.iter().any(|known| known.ifindex == interface.ifindex && known.address() == address)
    }

    /// The addresses of an interface that a node can be known by, best first: global before link-local, permanent
    /// before dynamic, others before temporary ones.
    pub(super) fn usable(&self, interface: &Interface, family: Family) -> Vec<IpAddr> {
        let mine = self
            .addresses
            .iter()
            .filter(|known| known.ifindex == interface.ifindex && Family::of(known.address()) == family);
        let mut ranked: Vec<(Rank, IpAddr)> =
            mine.filter_map(|known| Some((rank(known)?, known.address()))).collect();
        // Stable: the kernel's order decides among equals.
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, address)| address).collect()
    }

    /// The interfaces of one family's default routes, best first. What the kernel passes over comes last, and among
    /// equals that called `current` comes first.
    pub(super) fn default_interfaces(&self, family: Family, current: Option<&str>) -> Vec<&Interface> {
        let routes = self.defaults.iter().filter(|route| Family::of_net(&route.destination) == family);
        let mut ways: Vec<_> = routes
            .flat_map(|route| route.hops.iter().map(|hop| (hop.dead, route.metric, hop.ifindex)))
            .filter_map(|(dead, metric, ifindex)| Some((dead, metric, self.interfaces.get(&ifindex)?)))
            .collect();
        ways.sort_by_key(|(dead, metric, interface)| {
            (*dead, *metric, current.is_some_and(|current| interface.name != current))
        });
        let mut interfaces: Vec<&Interface> = Vec::new();
        for (_, _, interface) in ways {
            if !interfaces.contains(&interface) {
                interfaces.push(interface);
            }
        }
        interfaces
    }

    /// For error messages: the interfaces that have addresses of these families, and those addresses.
    pub(super) fn describe(&self, families: &[Family]) -> String {
        let mut without = 0;
        let mut parts = Vec::new();
        for interface in self.interfaces.values() {
            let addresses: Vec<String> = families
                .iter()
                .flat_map(|family| self.usable(interface, *family))
                .map(|address| address.to_string())
                .collect();
            if addresses.is_empty() {
                without += 1;
            } else {
                parts.push(format!("{} ({})", interface.name, addresses.join(", ")));
            }
        }
        if without > 0 {
            parts.push(format!("{without} without a usable address"));
        }
        parts.join(", ")
    }
}

/// Whether it is link-local, dynamic, temporary: the less, the better.
type Rank = (bool, bool, bool);

/// `None` for what no peer can send to, or soon cannot.
fn rank(known: &NodeAddress) -> Option<Rank> {
    let address = known.address();
    let unfit = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    let inward = matches!(known.scope, AddressScope::Host | AddressScope::Nowhere);
    if unfit || inward || known.flags.intersects(AddressFlags::Deprecated | AddressFlags::Dadfailed) {
        return None;
    }
    let link_local = known.scope == AddressScope::Link || is_link_local(address);
    let dynamic = !known.flags.contains(AddressFlags::Permanent);
    // One bit: "temporary" in IPv6, "secondary" in IPv4.
    Some((link_local, dynamic, known.flags.contains(AddressFlags::Secondary)))
}

/// Whether an address means something on one link only.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
