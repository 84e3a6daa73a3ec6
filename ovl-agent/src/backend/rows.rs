//! The rows of every table, as they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ovl_common::{Mac, Prefix, Remote};

use crate::family::{ByFamily, Family};
use crate::lease::LeaseKey;

/// A VXLAN device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Source address of the outer packets, and so their family.
    pub local: IpAddr,
    /// Index of the underlay interface.
    pub underlay: u32,
    /// Largest inner IP packet, bytes.
    pub mtu: u32,
    /// Its own MAC, which peers address.
    pub mac: Mac,
    /// Whether it learns where MACs are from what it receives. Ours are told.
    pub learning: bool,
    /// Whether frames carry a group policy.
    pub gbp: bool,
    /// Whether it takes packets over IPv6 whose UDP checksum is zero (RFC 6935).
    pub zero_checksums: bool,
}

/// A device of IP in IP as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpTunnel {
    /// The kernel's tunnel device.
    Kernel {
        /// Source address of the outer packets, and so their family.
        local: IpAddr,
        /// Largest inner packet, bytes.
        mtu: u32,
    },
    /// An end of a veth pair, where programs do what that device would.
    StandIn {
        /// Largest inner packet, bytes.
        mtu: u32,
    },
}

impl IpTunnel {
    /// Whether it is the kernel's device.
    pub fn is_kernels(&self) -> bool {
        matches!(self, Self::Kernel { .. })
    }

    /// Its MTU, to be changed.
    pub(crate) fn mtu_mut(&mut self) -> &mut u32 {
        match self {
            Self::Kernel { mtu, .. } | Self::StandIn { mtu } => mtu,
        }
    }
}

/// A TUN device as it should be, with the sockets behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunDevice {
    /// Largest packet, bytes.
    pub mtu: u32,
    /// UDP port, ours and the peers'.
    pub port: u16,
    /// The addresses that datagrams are sent from and taken at.
    pub local: ByFamily<IpAddr>,
}

/// Which route: the kernel keeps several to one range, told apart by their metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Where to.
    pub net: IpNet,
    /// The lowest wins.
    pub metric: u32,
}

impl RouteKey {
    /// The metric that a route has when nobody asks for one, as flannel's have.
    pub fn usual(net: IpNet) -> Self {
        let metric = match net {
            IpNet::V4(_) => 0,
            IpNet::V6(_) => 1024,
        };
        Self { net, metric }
    }

    /// Behind every other route to the same range.
    pub fn last(net: IpNet) -> Self {
        Self { net, metric: u32::MAX - 1 }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.net)?;
        if *self == Self::usual(self.net) { Ok(()) } else { write!(f, " metric {}", self.metric) }
    }
}

/// A route as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a next hop.
    Via {
        /// The next hop.
        gateway: IpAddr,
        /// Name of the interface it leaves by.
        device: Arc<str>,
        /// Whether the next hop is taken to be on the link without an address saying so.
        onlink: bool,
    },
    /// Into a device that has no neighbours.
    Device(Arc<str>),
    /// What no more specific route takes is dropped.
    Blackhole,
}

/// The rows of every table that carries the overlay. An overlay device is known by the family of its outer packets;
/// what hangs on it may be of either.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Devices by name.
    pub devices: BTreeMap<String, VxlanDevice>,
    /// Devices of IP in IP by name.
    pub ip_tunnels: BTreeMap<String, IpTunnel>,
    /// TUN devices by name.
    pub tuns: BTreeMap<String, TunDevice>,
    /// Where packets out of a TUN device go: the peers' subnets and nodes.
    pub udp_peers: BTreeMap<IpNet, IpAddr>,
    /// Addresses of the overlay devices, by device.
    #[expect(clippy::zero_sized_map_values, reason = "a table's rows are a map; these are all key")]
    pub addresses: BTreeMap<(Family, IpNet), ()>,
    /// Permanent neighbours on the overlay devices, by device.
    pub neighbours: BTreeMap<(Family, IpAddr), Mac>,
    /// Forwarding entries of the overlay devices, by device: which node has which MAC.
    pub fdb: BTreeMap<(Family, Mac), IpAddr>,
    /// Routes of the main table.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Rows of the BPF lease map.
    pub remotes: BTreeMap<Prefix, Remote>,
    /// What of a lease cannot be programmed, by the family of the subnet, and why.
    pub rejected: BTreeMap<(LeaseKey, Family), String>,
    /// Subnets of leases that cannot be read: what an earlier agent programmed for them stays.
    pub kept: BTreeSet<IpNet>,
    /// Interfaces that routes to peers lead to.
    pub ways: BTreeSet<Arc<str>>,
}
