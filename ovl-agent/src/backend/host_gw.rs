//! `host-gw`: a route per peer, with the peer itself as next hop (FLANNEL.md 5.2).

/// Routes through the peers, which must be on the same link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostGw;

impl HostGw {
    /// The name in leases.
    pub const NAME: &str = "host-gw";
}

#[cfg(test)]
mod tests {
    use ovl_common::Travel;

    use super::*;
    use crate::backend::testing::desired;
    use crate::backend::{Backend, Route, RouteKey};

    #[test]
    fn a_peer_is_one_route_per_family_through_its_public_ip() {
        let peer = (
            "10.42.7.0-24&fd42:0:0:7::-64",
            r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12","BackendType":"host-gw"}"#,
        );
        let desired = desired(&Backend::HostGw(HostGw), &[peer]);
        for (subnet, gateway) in [("10.42.7.0/24", "192.0.2.12"), ("fd42:0:0:7::/64", "2001:db8::12")] {
            let gateway = gateway.parse().expect(gateway);
            let route = Route::Via { gateway, device: "eth0".into(), onlink: false };
            assert_eq!(desired.routes.get(&RouteKey::usual(subnet.parse().expect(subnet))), Some(&route));
        }
        let remote = desired.remotes.values().next().expect("a remote of each family");
        assert_eq!(remote.travel, Travel::Direct as u8);
        assert!(desired.devices.is_empty() && desired.fdb.is_empty() && desired.neighbours.is_empty());
    }
}
