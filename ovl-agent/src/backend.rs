//! How packets travel: pure functions from this node and the leases to the rows that carry them.
//!
//! Adding a backend is one file and one variant of [`Backend`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use ipnet::Ipv4Net;
use ovl_common::{Encapsulation, Mac, Prefix, Remote};
use tracing::warn;

use crate::lease::{LeaseAttrs, LeaseKey};
use crate::node::{Node, Underlay};
use crate::view::View;

mod host_gw;
mod vxlan;

pub use host_gw::HostGw;
pub use vxlan::Vxlan;

/// What every IPv4 link must carry unfragmented (RFC 791).
const MIN_MTU: u32 = 68;

/// A VXLAN device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Source address of the outer packets.
    pub local: Ipv4Addr,
    /// Index of the underlay interface.
    pub underlay: u32,
    /// Largest inner IP packet, bytes.
    pub mtu: u32,
    /// Its own MAC, which peers address.
    pub mac: Mac,
    /// Whether it learns where MACs are from what it receives. Ours are told.
    pub learning: bool,
}

/// A route as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Next hop.
    pub gateway: Ipv4Addr,
    /// Name of the interface it leaves by.
    pub device: String,
    /// Whether the next hop is taken to be on the link without an address saying so.
    pub onlink: bool,
}

/// The rows of every table that carries the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Devices by name.
    pub devices: BTreeMap<String, VxlanDevice>,
    /// Addresses of the overlay device.
    #[expect(clippy::zero_sized_map_values, reason = "a table's rows are a map; these are all key")]
    pub addresses: BTreeMap<Ipv4Net, ()>,
    /// Permanent neighbours on the overlay device.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// Forwarding entries of the overlay device: which node has which MAC.
    pub fdb: BTreeMap<Mac, Ipv4Addr>,
    /// Routes of the main table.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// Rows of the BPF lease map.
    pub remotes: BTreeMap<Prefix, Remote>,
    /// Leases that cannot be programmed, and why.
    pub rejected: BTreeMap<LeaseKey, String>,
}

/// The tunnel that the BPF programs have to write and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Kind of tunnel.
    pub encapsulation: Encapsulation,
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
}

impl Backend {
    /// The name in leases and for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => Vxlan::NAME,
            Self::HostGw(_) => HostGw::NAME,
        }
    }

    /// The name of the overlay device, where there is one.
    pub fn device(&self) -> Option<String> {
        match self {
            Self::Vxlan(vxlan) => Some(vxlan.device_name()),
            Self::HostGw(_) => None,
        }
    }

    /// What to tell the peers.
    pub fn attrs(&self, public_ip: Ipv4Addr) -> LeaseAttrs {
        let backend_data = match self {
            Self::Vxlan(vxlan) => Some(vxlan.lease_data()),
            Self::HostGw(_) => None,
        };
        LeaseAttrs {
            public_ip,
            public_ipv6: None,
            backend_type: self.name().to_owned(),
            backend_data,
            backend_v6_data: None,
        }
    }

    /// Whether this node can take part at all.
    ///
    /// # Errors
    /// A sentence that says what stands in the way.
    pub fn check(&self, underlay: &Underlay, public_ip: Ipv4Addr) -> Result<()> {
        ensure!(
            self.mtu(underlay.mtu) >= MIN_MTU,
            "the MTU of {} is {}, which leaves pods less than the {MIN_MTU} bytes that IPv4 needs",
            underlay.name,
            underlay.mtu
        );
        if let Self::Vxlan(vxlan) = self
            && let Some(mtu) = vxlan.options.mtu
            && mtu > underlay.mtu
        {
            warn!("Backend.MTU is {mtu}, but {} carries only {}; using that", underlay.name, underlay.mtu);
        }
        if let Self::HostGw(_) = self {
            ensure!(
                public_ip == underlay.ipv4(),
                "host-gw needs --public-ip {public_ip} to be the address of {}, which is {}: peers route through it",
                underlay.name,
                underlay.ipv4()
            );
        }
        Ok(())
    }

    /// The MTU of the pods.
    pub fn mtu(&self, underlay_mtu: u32) -> u32 {
        match self {
            Self::Vxlan(vxlan) => vxlan.mtu(underlay_mtu),
            Self::HostGw(_) => underlay_mtu,
        }
    }

    /// What the BPF programs have to know.
    pub fn tunnel(&self, underlay_mtu: u32) -> Tunnel {
        match self {
            Self::Vxlan(vxlan) => vxlan.tunnel(underlay_mtu),
            Self::HostGw(_) => Tunnel {
                encapsulation: Encapsulation::None,
                vni: 0,
                port: 0,
                mac: Mac::default(),
                mtu: underlay_mtu,
            },
        }
    }

    /// All rows, given all leases.
    pub fn desired(&self, node: &Node, network: Ipv4Net, view: &View) -> Desired {
        let mut desired = Desired::default();
        if let Self::Vxlan(vxlan) = self {
            vxlan.own_rows(node, &mut desired);
        }
        for (key, attrs) in view.iter() {
            if key.ipv4 == node.subnet {
                continue;
            }
            let programmed = self.is_peer(key, attrs, node, network).and_then(|()| match self {
                Self::Vxlan(vxlan) => vxlan.peer_rows(key.ipv4, attrs, &mut desired),
                Self::HostGw(_) => {
                    HostGw::peer_rows(key.ipv4, attrs, node, &mut desired);
                    Ok(())
                }
            });
            if let Err(reason) = programmed {
                desired.rejected.insert(*key, reason);
            }
        }
        desired
    }

    /// Whether a lease is one to program at all.
    fn is_peer(
        &self,
        key: &LeaseKey,
        attrs: &LeaseAttrs,
        node: &Node,
        network: Ipv4Net,
    ) -> std::result::Result<(), String> {
        let subnet = key.ipv4;
        if !network.contains(&subnet) {
            return Err(format!("it lies outside Network {network}"));
        }
        if subnet.contains(&node.subnet) || node.subnet.contains(&subnet) {
            return Err(format!("it overlaps this node's own subnet {}", node.subnet));
        }
        if attrs.backend_type != self.name() {
            return Err(format!("its backend is '{}', this node's is '{}'", attrs.backend_type, self.name()));
        }
        let address = attrs.public_ip;
        if address.is_unspecified()
            || address.is_multicast()
            || address.is_loopback()
            || address.is_broadcast()
        {
            return Err(format!("its PublicIP {address} is not an address of a node"));
        }
        if address == node.public_ip || address == node.underlay.ipv4() {
            return Err(format!("its PublicIP {address} is this node's own"));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::family::ByFamily;
    use crate::lease::Lease;
    use crate::node::Underlay;

    pub(crate) fn node() -> Node {
        Node {
            underlay: Underlay {
                name: "eth0".into(),
                ifindex: 7,
                addresses: ByFamily { v4: Some([192, 0, 2, 11].into()), v6: None },
                mtu: 1500,
                ethernet: true,
            },
            public_ip: [192, 0, 2, 11].into(),
            subnet: "10.42.3.0/24".parse().expect("valid"),
        }
    }

    pub(crate) fn network() -> Ipv4Net {
        "10.42.0.0/16".parse().expect("valid")
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
}

#[cfg(test)]
mod tests {
    use super::testing::{network, node, view};
    use super::*;

    #[test]
    fn a_lease_that_cannot_be_a_peer_is_rejected_by_name() {
        let table = [
            ("10.9.1.0-24", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "outside Network"),
            ("10.42.3.0-25", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "overlaps"),
            ("10.42.0.0-16", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "overlaps"),
            ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12","BackendType":"vxlan"}"#, "its backend is 'vxlan'"),
            ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12"}"#, "its backend is ''"),
            ("10.42.7.0-24", r#"{"PublicIP":"0.0.0.0","BackendType":"host-gw"}"#, "not an address"),
            ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.11","BackendType":"host-gw"}"#, "this node's own"),
        ];
        for (key, attrs, expected) in table {
            let good = ("10.42.8.0-24", r#"{"PublicIP":"192.0.2.18","BackendType":"host-gw"}"#);
            let desired = Backend::HostGw(HostGw).desired(&node(), network(), &view(&[(key, attrs), good]));
            let reason = desired.rejected.values().next().expect(key);
            assert!(reason.contains(expected), "{key} {attrs}: {reason}");
            assert_eq!(desired.routes.len(), 1, "the good one stands");
        }
    }

    #[test]
    fn our_own_lease_is_no_peer() {
        let own = ("10.42.3.0-24", r#"{"PublicIP":"192.0.2.11","BackendType":"host-gw"}"#);
        let desired = Backend::HostGw(HostGw).desired(&node(), network(), &view(&[own]));
        assert_eq!(desired, Desired::default());
    }
}
