//! A node, its network and what the backends make of leases there, for tests.

use super::*;
use crate::lease::Lease;
use crate::node::Underlay;

/// A node of both families.
pub(crate) fn node() -> Node {
    let addresses = ByFamily { v4: "192.0.2.11".parse().ok(), v6: "2001:db8::11".parse().ok() };
    Node {
        underlay: Underlay { name: "eth0".into(), ifindex: 7, addresses, mtu: 1500, ethernet: true },
        public_ips: addresses,
        lease: "10.42.3.0-24&fd42:0:0:3::-64".parse().expect("valid"),
    }
}

pub(crate) fn network() -> Network {
    Network::parse(
        r#"{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd42::/48","Backend":{"Type":"alloc"}}"#,
    )
    .expect("valid")
}

pub(crate) fn view(leases: &[(&str, &str)]) -> View {
    let mut view = View::default();
    let leases = leases
        .iter()
        .map(|(key, attrs)| Lease {
            key: key.parse().expect(key),
            attrs: serde_json::from_str(attrs).expect(attrs),
        })
        .collect();
    view.replace(leases, &[]);
    view
}

/// The rows that `leases` ask for.
pub(crate) fn desired(backend: &Backend, leases: &[(&str, &str)]) -> Desired {
    backend.desired(&node(), &network(), &view(leases), &OnLink::new())
}
