//! `vxlan`: a device per family outside, and per peer and family inside one route, one neighbour and one forwarding
//! entry (FLANNEL.md 5.1).

use anyhow::ensure;
use ovl_common::{Encapsulation, Mac, Remote, Travel};
use serde::{Deserialize, Serialize};

use super::way::outer;
use super::{
    Desired, Here, Peer, Route, RouteKey, Tunnel, VxlanDevice, Way, bpf_prefix, direct, own_address, way,
};
use crate::family::{ByFamily, Family};
use crate::lease::{BackendData, LeaseAttrs};
use crate::network::VxlanOptions;
use crate::node::Node;

/// The tunnels as the network config wants them, with this node's MACs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Options of the network config.
    pub options: VxlanOptions,
    /// This node's tunnel MACs, one per family that it uses outside.
    pub macs: ByFamily<Mac>,
    /// Whether this node's tunnel over IPv6 takes packets whose UDP checksum is zero, which peers that know of it then
    /// send: a program cannot make checksums for what devices cut into segments. A flanneld's device does not, and
    /// cannot be changed; one that we make does.
    pub zero_checksums: bool,
}

/// `BackendData` and `BackendV6Data` of a lease. Members in this order and no other string member: flannel reads the
/// MAC by splitting the text.
#[derive(Deserialize, Serialize)]
struct LeaseData {
    /// Not compared, as flannel doesn't: its older versions write none, or its lower 16 bits.
    #[serde(rename = "VNI", default)]
    vni: u32,
    /// Ours alone; flannel passes over what it does not know.
    #[serde(rename = "UDP6ZeroCsum", default, skip_serializing_if = "std::ops::Not::not")]
    zero_checksums: bool,
    #[serde(rename = "VtepMAC")]
    vtep_mac: String,
}

impl Vxlan {
    /// The name in leases.
    pub const NAME: &str = "vxlan";

    /// The names that flannel gives the devices, too.
    pub fn device_names(&self) -> ByFamily<String> {
        self.macs.map(|family, _| self.device_name(family))
    }

    /// `flannel.<VNI>` for tunnels over IPv4, `flannel-v6.<VNI>` for those over IPv6.
    pub(super) fn device_name(&self, family: Family) -> String {
        match family {
            Family::V4 => format!("flannel.{}", self.options.vni),
            Family::V6 => format!("flannel-v6.{}", self.options.vni),
        }
    }

    /// Whether the kernel takes the devices' names. Where they are of the network's families, the config was checked.
    pub(super) fn check_names(&self) -> anyhow::Result<()> {
        for (_, name) in self.device_names().iter() {
            ensure!(
                name.len() < nix::libc::IFNAMSIZ,
                "VNI {} is too long for a tunnel over IPv6, whose device would be called {name}; choose one below 10000",
                self.options.vni
            );
        }
        Ok(())
    }

    /// An MTU in the config is the underlay's where the path is narrower than the interface; wider than the interface
    /// it cannot be.
    pub(super) fn mtu(&self, family: Family, underlay_mtu: u32) -> u32 {
        self.options.mtu.unwrap_or(underlay_mtu).min(underlay_mtu).saturating_sub(overhead(family))
    }

    /// What the narrowest of the tunnels carries.
    pub(super) fn narrowest(&self, underlay_mtu: u32) -> u32 {
        let each = self.macs.iter().map(|(family, _)| self.mtu(family, underlay_mtu));
        each.min().unwrap_or(underlay_mtu)
    }

    /// What programs may write and read: not where tunnel headers carry packets' marks, which they don't know.
    pub(super) fn tunnels(&self, underlay_mtu: u32) -> ByFamily<Tunnel> {
        if self.options.gbp {
            return ByFamily::default();
        }
        self.macs.map(|family, mac| Tunnel {
            encapsulation: Encapsulation::Vxlan,
            stand_in: false,
            vni: self.options.vni,
            port: self.options.port,
            mac: *mac,
            mtu: self.mtu(family, underlay_mtu),
        })
    }

    /// The MAC in what a node told its peers, where it is one that a device can have.
    pub(crate) fn told_mac(data: &BackendData) -> Option<Mac> {
        let data: LeaseData = data.read().ok()?;
        data.vtep_mac.parse().ok().filter(|mac: &Mac| is_one_devices(*mac))
    }

    pub(super) fn lease_data(&self) -> ByFamily<BackendData> {
        ByFamily::from_fn(|family| {
            let mac = self.macs.get(family)?;
            // Two plain members always have a form in JSON.
            let zero_checksums = self.takes_zero_checksums(family);
            BackendData::new(&LeaseData { vni: self.options.vni, zero_checksums, vtep_mac: mac.to_string() })
                .ok()
        })
    }

    /// The devices and their addresses: the subnet's first, which peers use as the next hop.
    pub(super) fn own_rows(&self, node: &Node, desired: &mut Desired) {
        for (family, mac) in self.macs.iter() {
            let Some(local) = node.underlay.addresses.get(family) else { continue };
            let device = VxlanDevice {
                vni: self.options.vni,
                port: self.options.port,
                local: *local,
                underlay: node.underlay.ifindex,
                mtu: self.mtu(family, node.underlay.mtu),
                mac: *mac,
                learning: self.options.learning,
                gbp: self.options.gbp,
                zero_checksums: self.takes_zero_checksums(family),
            };
            desired.devices.insert(self.device_name(family), device);
        }
        for (inner, subnet) in node.lease.subnets().iter() {
            if let Some(family) = outer(inner, &self.macs, &self.macs) {
                desired.addresses.insert((family, own_address(subnet)), ());
            }
        }
    }

    pub(super) fn peer_rows(
        &self,
        peer: &Peer<'_>,
        here: &Here<'_>,
        desired: &mut Desired,
    ) -> Result<(), String> {
        let Peer { subnet, way: Way { node, .. }, .. } = *peer;
        let (inner, outer) = (Family::of_net(&subnet), Family::of(node));
        let (mac, zero_checksum) = self.peer_device(outer, peer.attrs).inspect_err(|_| {
            // Garbage says nothing.
            desired.kept.insert(subnet);
        })?;
        if peer.way.link.is_some() {
            direct::peer_rows(peer, here, desired);
            return Ok(());
        }
        // One node may hold two leases, the older of which is only waiting for its end.
        if let Some(other) = desired.fdb.get(&(outer, mac))
            && *other != node
        {
            return Err(format!("its VtepMAC {mac} is that of node {other}, too"));
        }
        let gateway = subnet.addr();
        let of_another = |family: Family| {
            let neighbour = desired.neighbours.get(&(family, gateway));
            neighbour.is_some_and(|other| (family, *other) != (outer, mac))
        };
        if Family::ALL.into_iter().any(of_another) {
            return Err(format!("another node's lease starts at {gateway}, too"));
        }
        desired.neighbours.insert((outer, gateway), mac);
        desired.fdb.insert((outer, mac), node);
        if let Some(device) = here.overlay.get(outer).cloned() {
            desired.routes.insert(RouteKey::usual(subnet), Route::Via { gateway, device, onlink: true });
        }
        // What the node itself sends by this device has an address of its own, too.
        if let Some(own) = here.node.subnet(inner) {
            desired.addresses.insert((outer, own_address(&own)), ());
        }
        if !self.options.gbp {
            let remote = Remote {
                node: node.into(),
                travel: Travel::Vxlan as u8,
                zero_checksum: u8::from(zero_checksum),
                vtep_mac: mac,
            };
            desired.remotes.insert(bpf_prefix(subnet), remote);
        }
        Ok(())
    }

    fn takes_zero_checksums(&self, family: Family) -> bool {
        family == Family::V6 && self.zero_checksums
    }

    /// A peer's MAC, and whether it takes packets without UDP checksums.
    fn peer_device(&self, family: Family, attrs: &LeaseAttrs) -> Result<(Mac, bool), String> {
        let name = way::data_name(family);
        let data = attrs.backend_data(family).ok_or_else(|| format!("it has no {name}"))?;
        let data: LeaseData = data.read().map_err(|error| format!("its {name} is not vxlan's: {error}"))?;
        let mac: Mac =
            data.vtep_mac.parse().map_err(|error| format!("its VtepMAC '{}' is {error}", data.vtep_mac))?;
        if self.macs.get(family) == Some(&mac) {
            return Err(format!("its VtepMAC {mac} is this node's own"));
        }
        if !is_one_devices(mac) {
            return Err(format!("its VtepMAC {mac} is not the address of one device"));
        }
        Ok((mac, data.zero_checksums))
    }
}

/// Whether a MAC is the address of one device, not of a group or of nobody.
fn is_one_devices(mac: Mac) -> bool {
    mac.0[0] & 1 == 0 && mac != Mac::default()
}

/// What VXLAN adds to an IP packet, bytes: 20 (IPv4) or 40 (IPv6) + 8 (UDP) + 8 (VXLAN) + 14 (Ethernet). Flannel
/// leaves out that IPv6's header is longer.
fn overhead(family: Family) -> u32 {
    match family {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

#[cfg(test)]
mod tests;
