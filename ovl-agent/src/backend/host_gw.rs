//! `host-gw`: a route per peer, with the peer itself as next hop (FLANNEL.md 5.2).

use bytemuck::Zeroable as _;
use ipnet::Ipv4Net;
use ovl_common::{Prefix, Remote, Travel};

use crate::backend::{Desired, Route};
use crate::lease::LeaseAttrs;
use crate::node::Node;

/// Routes through the peers, which must be on the same link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostGw;

impl HostGw {
    /// The name in leases.
    pub const NAME: &str = "host-gw";

    pub(super) fn peer_rows(subnet: Ipv4Net, attrs: &LeaseAttrs, node: &Node, desired: &mut Desired) {
        let route = Route { gateway: attrs.public_ip, device: node.underlay.name.clone(), onlink: false };
        desired.routes.insert(subnet, route);
        let remote =
            Remote { node: attrs.public_ip.into(), travel: Travel::Direct as u16, ..Remote::zeroed() };
        desired.remotes.insert(Prefix::new(subnet.addr().into(), subnet.prefix_len()), remote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::testing::{network, node, view};

    #[test]
    fn a_peer_is_one_route_through_its_public_ip() {
        let peer = ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#);
        let desired = Backend::HostGw(HostGw).desired(&node(), network(), &view(&[peer]));
        let subnet: Ipv4Net = "10.42.7.0/24".parse().expect("valid");
        let route = Route { gateway: [192, 0, 2, 12].into(), device: "eth0".into(), onlink: false };
        assert_eq!(desired.routes.get(&subnet), Some(&route));
        let remote = desired.remotes.values().next().expect("one remote");
        assert_eq!(remote.travel, Travel::Direct as u16);
        assert!(desired.devices.is_empty() && desired.fdb.is_empty() && desired.neighbours.is_empty());
    }
}
