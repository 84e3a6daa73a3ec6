//! How packets travel: pure functions from this node and the leases to the rows that carry them.
//!
//! Adding a backend is one file and one variant of [`Backend`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Result, ensure};
use ipnet::IpNet;
use ovl_common::{Encapsulation, Mac, Prefix};
use tracing::warn;

use crate::family::{ByFamily, Family};
use crate::lease::LeaseAttrs;
use crate::network::Network;
use crate::node::{Node, Underlay};
use crate::view::View;

mod direct;
mod host_gw;
mod ipip;
mod rows;
mod udp;
mod vxlan;
mod way;

pub use host_gw::HostGw;
pub use ipip::{Device as IpipDevice, Ipip};
pub use rows::{Desired, IpTunnel, Route, RouteKey, TunDevice, VxlanDevice};
pub use udp::Udp;
pub use vxlan::Vxlan;
pub use way::Way;

/// A tunnel that the BPF programs have to write and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// How packets look on the wire.
    pub encapsulation: Encapsulation,
    /// Whether programs do what the overlay device of such tunnels would do.
    pub stand_in: bool,
    /// Network identifier; 0 where there is none.
    pub vni: u32,
    /// UDP port; 0 without UDP.
    pub port: u16,
    /// This node's tunnel MAC; zero where it is none that peers know.
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
    /// IP in IP.
    Ipip(Ipip),
    /// Bare packets in UDP.
    Udp(Udp),
    /// A lease and nothing else.
    Alloc,
}

/// Peers that are on the same link, by their public IP, with the interface that leads to them.
pub type OnLink = BTreeMap<IpAddr, Arc<str>>;

/// Where this node is, as far as ways to peers go by it. Names are shared by all rows.
#[derive(Debug)]
pub struct Here<'a> {
    node: &'a Node,
    on_link: &'a OnLink,
    underlay: Arc<str>,
    overlay: ByFamily<Arc<str>>,
}

/// A lease and one of its subnets.
struct Peer<'a> {
    subnet: IpNet,
    attrs: &'a LeaseAttrs,
    way: Way,
}

impl Backend {
    /// The name for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => Vxlan::NAME,
            Self::HostGw(_) => HostGw::NAME,
            Self::Ipip(_) => Ipip::NAME,
            Self::Udp(_) => Udp::NAME,
            Self::Alloc => "alloc",
        }
    }

    /// The name in leases: flannel's alloc and udp write none.
    fn lease_type(&self) -> &'static str {
        match self {
            Self::Vxlan(_) | Self::HostGw(_) | Self::Ipip(_) => self.name(),
            Self::Udp(_) | Self::Alloc => "",
        }
    }

    /// The names of the overlay devices, where there are any, by the family of their outer packets.
    pub fn devices(&self) -> ByFamily<String> {
        match self {
            Self::Vxlan(vxlan) => vxlan.device_names(),
            Self::Ipip(ipip) => ipip.device_names(),
            Self::Udp(udp) => udp.device_names(),
            Self::HostGw(_) | Self::Alloc => ByFamily::default(),
        }
    }

    /// What tells this overlay's firewall rules from another's on the same node, whatever family its nodes use outside:
    /// the name of its first device in flannel's, else the network's.
    pub fn rules_name(&self, network: &Network) -> String {
        let first = network.pools.iter().next().map(|(family, _)| family);
        match (self, first) {
            (Self::Vxlan(vxlan), Some(family)) => vxlan.device_name(family),
            (Self::Ipip(_), Some(family)) => Ipip::device_name(family),
            (Self::Vxlan(_) | Self::Ipip(_) | Self::HostGw(_) | Self::Udp(_) | Self::Alloc, _) => {
                network.name()
            }
        }
    }

    /// Whether it matters which peers are on the same link.
    pub fn wants_on_link(&self) -> bool {
        match self {
            Self::Vxlan(vxlan) => vxlan.options.direct_routing,
            Self::Ipip(ipip) => ipip.options.direct_routing,
            Self::HostGw(_) | Self::Udp(_) | Self::Alloc => false,
        }
    }

    /// Whether nothing but programs carries packets here.
    pub fn needs_programs(&self) -> bool {
        matches!(self, Self::Ipip(ipip) if ipip.needs_programs())
    }

    /// What to tell the peers.
    pub fn attrs(&self, public_ips: &ByFamily<IpAddr>) -> LeaseAttrs {
        let data = match self {
            Self::Vxlan(vxlan) => vxlan.lease_data(),
            Self::HostGw(_) | Self::Ipip(_) | Self::Udp(_) | Self::Alloc => ByFamily::default(),
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
    pub fn check(&self, underlay: &Underlay, network: &Network, public_ips: &ByFamily<IpAddr>) -> Result<()> {
        let mtu = self.mtu(underlay);
        for (family, _) in network.pools.iter() {
            let min = min_mtu(family);
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
        if let Self::Vxlan(vxlan) = self {
            vxlan.check_names()?;
        }
        if let Self::HostGw(_) | Self::Ipip(_) = self {
            way::check_routes(self.name(), network, public_ips)?;
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

    /// The MTU of the pods, whose one interface has the packets for all peers: what the narrowest tunnel carries whole.
    pub fn mtu(&self, underlay: &Underlay) -> u32 {
        match self {
            Self::Vxlan(vxlan) => vxlan.narrowest(underlay.mtu),
            Self::Ipip(_) => Ipip::narrowest(underlay),
            Self::Udp(_) => Udp::narrowest(underlay),
            Self::HostGw(_) | Self::Alloc => underlay.mtu,
        }
    }

    /// What the BPF programs have to know of the tunnels, by the family of their outer addresses.
    pub fn tunnels(&self, underlay_mtu: u32) -> ByFamily<Tunnel> {
        match self {
            Self::Vxlan(vxlan) => vxlan.tunnels(underlay_mtu),
            Self::Ipip(ipip) => ipip.tunnels(underlay_mtu),
            Self::HostGw(_) | Self::Udp(_) | Self::Alloc => ByFamily::default(),
        }
    }

    /// All rows, given all leases.
    pub fn desired(&self, node: &Node, network: &Network, view: &View, on_link: &OnLink) -> Desired {
        let mut desired = Desired::default();
        let here = self.here(node, on_link);
        match self {
            Self::Vxlan(vxlan) => vxlan.own_rows(node, &mut desired),
            Self::Ipip(ipip) => ipip.own_rows(node, &mut desired),
            Self::Udp(udp) => udp.own_rows(node, network, &mut desired),
            Self::HostGw(_) | Self::Alloc => {}
        }
        desired.ways = self.ways(&here);
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
                let programmed = self.peer(*range, subnet, attrs, &here).and_then(|peer| match self {
                    Self::Vxlan(vxlan) => vxlan.peer_rows(&peer, &here, &mut desired),
                    Self::Ipip(ipip) => {
                        ipip.peer_rows(&peer, &here, &mut desired);
                        Ok(())
                    }
                    Self::Udp(_) => {
                        Udp::peer_rows(&peer, &mut desired);
                        Ok(())
                    }
                    Self::HostGw(_) | Self::Alloc => {
                        direct::peer_rows(&peer, &here, &mut desired);
                        Ok(())
                    }
                });
                if let Err(reason) = programmed {
                    desired.rejected.insert((*key, family), reason);
                }
            }
        }
        desired
    }

    /// Where `node` is.
    pub fn here<'a>(&self, node: &'a Node, on_link: &'a OnLink) -> Here<'a> {
        Here {
            node,
            on_link,
            underlay: node.underlay.name.as_str().into(),
            overlay: self.devices().map(|_, name| Arc::from(name.as_str())),
        }
    }

    /// Interfaces that routes to peers lead to, or led to while nodes used another family outside.
    fn ways(&self, here: &Here<'_>) -> BTreeSet<Arc<str>> {
        let underlay = || Arc::clone(&here.underlay);
        match self {
            Self::Vxlan(vxlan) => {
                let devices = Family::ALL.map(|family| vxlan.device_name(family).into());
                devices.into_iter().chain(vxlan.options.direct_routing.then(underlay)).collect()
            }
            Self::Ipip(ipip) => {
                let devices = Family::ALL.map(|family| Ipip::device_name(family).into());
                devices.into_iter().chain(ipip.options.direct_routing.then(underlay)).collect()
            }
            Self::HostGw(_) => BTreeSet::from([underlay()]),
            // Flannel's device takes its routes along, and has none to peers.
            Self::Udp(_) | Self::Alloc => BTreeSet::new(),
        }
    }

    /// The subnet of a lease, where it is one to program, and the way to it.
    fn peer<'a>(
        &self,
        range: IpNet,
        subnet: IpNet,
        attrs: &'a LeaseAttrs,
        here: &Here<'_>,
    ) -> std::result::Result<Peer<'a>, String> {
        let family = Family::of_net(&subnet);
        if !range.contains(&subnet) {
            return Err(format!("it lies outside the network {range}"));
        }
        if let Some(own) = here.node.subnet(family)
            && (subnet.contains(&own) || own.contains(&subnet))
        {
            return Err(format!("it overlaps this node's own subnet {own}"));
        }
        if attrs.backend_type != self.lease_type() {
            return Err(format!("its backend is '{}', this node's is '{}'", attrs.backend_type, self.name()));
        }
        let way = self.way(family, attrs, here)?;
        let address = way.node;
        let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.is_multicast() || address.is_loopback() || is_broadcast {
            return Err(format!("its public IP {address} is not an address of a node"));
        }
        if here.node.is_known_as(address) {
            return Err(format!("its public IP {address} is this node's own"));
        }
        Ok(Peer { subnet, attrs, way })
    }
}

/// The address of the overlay devices: the subnet's first, alone.
fn own_address(subnet: &IpNet) -> IpNet {
    IpNet::from(subnet.addr())
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
pub(crate) mod testing;
#[cfg(test)]
mod tests;
