//! How packets travel: pure functions from this node and the leases to the rows that carry them.
//!
//! Adding a backend is one file and one variant of [`Backend`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Result, ensure};
use ipnet::IpNet;
use ovl_common::{Mac, Prefix};
use tracing::warn;

use crate::family::{ByFamily, Family};
use crate::lease::LeaseAttrs;
use crate::network::Network;
use crate::node::{Node, Underlay};
use crate::view::View;

mod direct;
mod host_gw;
mod rows;
mod vxlan;

pub use host_gw::HostGw;
pub use rows::{Desired, Route, RouteKey, VxlanDevice};
pub use vxlan::Vxlan;

/// A tunnel that the BPF programs have to write and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's tunnel MAC.
    pub mac: Mac,
    /// Largest inner IP packet, bytes.
    pub mtu: u32,
}

/// The backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// VXLAN.
    Vxlan(Vxlan),
    /// Routes through the peers.
    HostGw(HostGw),
    /// A lease and nothing else.
    Alloc,
}

/// Peers that are on the same link, by their public IP, with the interface that leads to them.
pub type OnLink = BTreeMap<IpAddr, Arc<str>>;

impl Backend {
    /// The name for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => Vxlan::NAME,
            Self::HostGw(_) => HostGw::NAME,
            Self::Alloc => "alloc",
        }
    }

    /// The name in leases: flannel's alloc writes none.
    fn lease_type(&self) -> &'static str {
        match self {
            Self::Vxlan(_) | Self::HostGw(_) => self.name(),
            Self::Alloc => "",
        }
    }

    /// The names of the overlay devices, where there are any.
    pub fn devices(&self) -> ByFamily<String> {
        match self {
            Self::Vxlan(vxlan) => vxlan.device_names(),
            Self::HostGw(_) | Self::Alloc => ByFamily::default(),
        }
    }

    /// Whether it matters which peers are on the same link.
    pub fn wants_on_link(&self) -> bool {
        matches!(self, Self::Vxlan(vxlan) if vxlan.options.direct_routing)
    }

    /// What to tell the peers.
    pub fn attrs(&self, public_ips: &ByFamily<IpAddr>) -> LeaseAttrs {
        let data = match self {
            Self::Vxlan(vxlan) => vxlan.lease_data(),
            Self::HostGw(_) | Self::Alloc => ByFamily::default(),
        };
        let ipv4 = public_ips.v4.and_then(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None });
        let ipv6 = public_ips.v6.and_then(|ip| if let IpAddr::V6(v6) = ip { Some(v6) } else { None });
        LeaseAttrs {
            public_ip: ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            public_ipv6: ipv6,
            backend_type: self.lease_type().to_owned(),
            backend_data: data.v4,
            backend_v6_data: data.v6,
        }
    }

    /// Whether this node can take part at all.
    ///
    /// # Errors
    /// A sentence that says what stands in the way.
    pub fn check(&self, underlay: &Underlay, public_ips: &ByFamily<IpAddr>) -> Result<()> {
        for (family, _) in public_ips.iter() {
            let (mtu, min) = (self.overlay_mtu(family, underlay.mtu), min_mtu(family));
            ensure!(
                mtu >= min,
                "the MTU of {} is {}, which leaves pods {mtu} bytes, less than the {min} that {family} needs",
                underlay.name,
                underlay.mtu
            );
        }
        if let Self::Vxlan(vxlan) = self
            && let Some(mtu) = vxlan.options.mtu
            && mtu > underlay.mtu
        {
            warn!("Backend.MTU is {mtu}, but {} carries only {}; using that", underlay.name, underlay.mtu);
        }
        if let Self::HostGw(_) = self {
            for (family, public_ip) in public_ips.iter() {
                let own = underlay.addresses.get(family);
                ensure!(
                    own == Some(public_ip),
                    "host-gw needs the public IP {public_ip} to be the address of {}, which is {}: peers route \
                     through it",
                    underlay.name,
                    own.map_or_else(|| "none".to_owned(), ToString::to_string)
                );
            }
        }
        Ok(())
    }

    /// The largest packet of one family that the overlay carries whole, bytes.
    fn overlay_mtu(&self, family: Family, underlay_mtu: u32) -> u32 {
        match self {
            Self::Vxlan(vxlan) => vxlan.mtu(family, underlay_mtu),
            Self::HostGw(_) | Self::Alloc => underlay_mtu,
        }
    }

    /// The MTU of the pods, whose one interface has packets of all families.
    pub fn mtu(&self, network: &Network, underlay_mtu: u32) -> u32 {
        let each = network.pools.iter().map(|(family, _)| self.overlay_mtu(family, underlay_mtu));
        each.min().unwrap_or(underlay_mtu)
    }

    /// What the BPF programs have to know of the tunnels, by the family of their outer addresses.
    pub fn tunnels(&self, underlay_mtu: u32) -> ByFamily<Tunnel> {
        match self {
            Self::Vxlan(vxlan) => vxlan.tunnels(underlay_mtu),
            Self::HostGw(_) | Self::Alloc => ByFamily::default(),
        }
    }

    /// All rows, given all leases.
    pub fn desired(&self, node: &Node, network: &Network, view: &View, on_link: &OnLink) -> Desired {
        let mut desired = Desired::default();
        // One name for all routes.
        let underlay: Arc<str> = node.underlay.name.as_str().into();
        let overlay = self.devices().map(|_, name| Arc::from(name.as_str()));
        if let Self::Vxlan(vxlan) = self {
            vxlan.own_rows(node, &mut desired);
        }
        desired.ways = self.ways(&underlay, &overlay);
        if matches!(self, Self::Alloc) {
            return desired;
        }
        for (key, attrs) in view.iter() {
            if node.lease.subnets() == key.subnets() {
                continue;
            }
            // Family by family: a peer that has one of them is reached by that one.
            for (family, range) in network.ranges().iter() {
                let Some(subnet) = key.subnet(family) else { continue };
                let programmed = self.peer(node, *range, subnet, attrs).and_then(|public_ip| match self {
                    Self::Vxlan(vxlan) => vxlan.peer_rows(
                        subnet,
                        public_ip,
                        attrs,
                        (&overlay, on_link, &underlay),
                        &mut desired,
                    ),
                    Self::HostGw(_) => {
                        direct::peer_rows(subnet, public_ip, (&underlay, &underlay), &mut desired);
                        Ok(())
                    }
                    Self::Alloc => Ok(()),
                });
                if let Err(reason) = programmed {
                    desired.rejected.insert((*key, family), reason);
                }
            }
        }
        desired
    }

    /// Interfaces that routes to peers lead to.
    fn ways(&self, underlay: &Arc<str>, overlay: &ByFamily<Arc<str>>) -> BTreeSet<Arc<str>> {
        let is_direct = match self {
            Self::Vxlan(vxlan) => vxlan.options.direct_routing,
            Self::HostGw(_) => true,
            Self::Alloc => false,
        };
        let overlay = overlay.iter().map(|(_, device)| Arc::clone(device));
        overlay.chain(is_direct.then(|| Arc::clone(underlay))).collect()
    }

    /// The public IP of a lease that is one to program.
    fn peer(
        &self,
        node: &Node,
        range: IpNet,
        subnet: IpNet,
        attrs: &LeaseAttrs,
    ) -> std::result::Result<IpAddr, String> {
        let family = Family::of_net(&subnet);
        if !range.contains(&subnet) {
            return Err(format!("it lies outside the network {range}"));
        }
        if let Some(own) = node.subnet(family)
            && (subnet.contains(&own) || own.contains(&subnet))
        {
            return Err(format!("it overlaps this node's own subnet {own}"));
        }
        if attrs.backend_type != self.lease_type() {
            return Err(format!("its backend is '{}', this node's is '{}'", attrs.backend_type, self.name()));
        }
        let address = attrs.public_ip(family).ok_or_else(|| format!("it has no public {family} address"))?;
        let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.is_multicast() || address.is_loopback() || is_broadcast {
            return Err(format!("its public IP {address} is not an address of a node"));
        }
        if node.is_known_as(address) {
            return Err(format!("its public IP {address} is this node's own"));
        }
        Ok(address)
    }
}

/// The key of the BPF lease map.
pub(crate) fn bpf_prefix(subnet: IpNet) -> Prefix {
    Prefix::new(subnet.addr(), subnet.prefix_len())
}

/// What every link must carry unfragmented (RFC 791, RFC 8200 section 5), bytes.
fn min_mtu(family: Family) -> u32 {
    match family {
        Family::V4 => 68,
        Family::V6 => 1280,
    }
}

#[cfg(test)]
pub(crate) mod testing {
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
}

#[cfg(test)]
mod tests {
    use super::testing::desired;
    use super::*;

    const HOST_GW: Backend = Backend::HostGw(HostGw);

    #[test]
    fn a_lease_that_cannot_be_a_peer_is_rejected_by_name() {
        let table = [
            ("10.9.1.0-24", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "outside the network"),
            ("10.42.3.0-25", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "overlaps"),
            ("10.42.0.0-16", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "overlaps"),
            ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12","BackendType":"vxlan"}"#, "its backend is 'vxlan'"),
            ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12"}"#, "its backend is ''"),
            ("10.42.7.0-24", r#"{"PublicIP":"0.0.0.0","BackendType":"host-gw"}"#, "no public IPv4 address"),
            ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.11","BackendType":"host-gw"}"#, "this node's own"),
            ("10.42.7.0-24", r#"{"PublicIP":"224.0.0.1","BackendType":"host-gw"}"#, "not an address"),
            ("fd43::-64", r#"{"PublicIPv6":"2001:db8::12","BackendType":"host-gw"}"#, "outside the network"),
            ("fd42:0:0:7::-64", r#"{"PublicIPv6":"::1","BackendType":"host-gw"}"#, "not an address"),
            ("fd42:0:0:7::-64", r#"{"PublicIPv6":"2001:db8::11","BackendType":"host-gw"}"#, "own"),
        ];
        for (key, attrs, expected) in table {
            let good = ("10.42.8.0-24", r#"{"PublicIP":"192.0.2.18","BackendType":"host-gw"}"#);
            let desired = desired(&HOST_GW, &[(key, attrs), good]);
            let reason = desired.rejected.values().next().expect(key);
            assert!(reason.contains(expected), "{key} {attrs}: {reason}");
            assert_eq!(desired.routes.len(), 1, "the good one stands");
        }
    }

    #[test]
    fn a_peer_is_programmed_for_the_families_it_has() {
        let both = r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12","BackendType":"host-gw"}"#;
        let table: [(&str, &str, &[&str], usize); 4] = [
            ("10.42.7.0-24&fd42:0:0:7::-64", both, &["10.42.7.0/24", "fd42:0:0:7::/64"], 0),
            ("10.42.7.0-24", both, &["10.42.7.0/24"], 0),
            ("fd42:0:0:7::-64", both, &["fd42:0:0:7::/64"], 0),
            (
                "10.42.7.0-24&fd42:0:0:7::-64",
                r#"{"PublicIP":"192.0.2.12","PublicIPv6":null,"BackendType":"host-gw"}"#,
                &["10.42.7.0/24"],
                1,
            ),
        ];
        for (key, attrs, routes, rejected) in table {
            let desired = desired(&HOST_GW, &[(key, attrs)]);
            let have: Vec<String> = desired.routes.keys().map(ToString::to_string).collect();
            assert_eq!(have, routes, "{key} {attrs}");
            assert_eq!(desired.rejected.len(), rejected, "{key} {attrs}");
        }
    }

    #[test]
    fn our_own_lease_is_no_peer_and_alloc_has_none() {
        let own = ("10.42.3.0-24&fd42:0:0:3::-64", r#"{"PublicIP":"192.0.2.11","BackendType":"host-gw"}"#);
        assert_eq!(desired(&HOST_GW, &[own]), desired(&HOST_GW, &[]));
        let peer = ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12"}"#);
        assert_eq!(desired(&Backend::Alloc, &[peer]), Desired::default());
        let attrs = Backend::Alloc.attrs(&testing::node().public_ips);
        let json = serde_json::to_string(&attrs).expect("plain data");
        assert_eq!(json, r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11"}"#);
    }

    #[test]
    fn a_node_that_cannot_take_part_is_told_why() {
        let node = testing::node();
        let narrow = Underlay { mtu: 1200, ..node.underlay.clone() };
        let error = HOST_GW.check(&narrow, &node.public_ips).expect_err("too narrow").to_string();
        assert!(error.contains("less than the 1280 that IPv6 needs"), "{error}");
        let ipv4 = ByFamily { v6: None, ..node.public_ips };
        HOST_GW.check(&narrow, &ipv4).expect("wide enough for IPv4");
        let behind_nat = ByFamily { v4: "203.0.113.1".parse().ok(), v6: None };
        let error = HOST_GW.check(&node.underlay, &behind_nat).expect_err("NAT").to_string();
        assert!(error.contains("203.0.113.1") && error.contains("192.0.2.11"), "{error}");
    }
}
