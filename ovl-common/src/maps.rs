//! The maps: names, sizes, keys and values, in one place for both sides.

use bytemuck::{Pod, Zeroable};

use crate::{IpKey, Mac};

/// Name and capacity of a map. The kernel cuts names at 15 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// The name in the object file.
    pub name: &'static str,
    /// Most rows it can hold.
    pub capacity: u32,
}

/// `0u32` → [`crate::Config`] (array; written by the agent).
pub const STATE: Map = Map { name: "OVL_STATE", capacity: 1 };
/// Subnet → [`Remote`] (longest prefix match; written by the agent; memory is taken per row).
pub const LEASES: Map = Map { name: "OVL_LEASES", capacity: 65_536 };
/// Address of a peer on the underlay → 1 (hash; written by the agent): every node that holds a lease.
pub const NODES: Map = Map { name: "OVL_NODES", capacity: 65_536 };
/// [`crate::FlowKey`] → [`crate::Flow`] (LRU hash; learned by `to_overlay` and `to_pod`). The capacity is what
/// `--max-flows` replaces; an entry that had to go only means the slow path until the flow is verified anew.
pub const FLOWS: Map = Map { name: "OVL_FLOWS", capacity: 262_144 };
/// `0u32` → [`crate::Trace`] (array; written by `ovl-agent trace`).
pub const TRACE: Map = Map { name: "OVL_TRACE", capacity: 1 };
/// `0u32` → [`crate::Traced`] (per-CPU array; written by the programs).
pub const TRACED: Map = Map { name: "OVL_TRACED", capacity: 1 };
/// The ring through which aya-log takes records out of the programs; the name and the size, in bytes, are its own.
pub const LOGS: Map = Map { name: "AYA_LOGS", capacity: 128 * 1024 };
/// Interface index of a pod port → [`Port`] (hash; written by the agent).
pub const PORTS: Map = Map { name: "OVL_PORTS", capacity: 4096 };
/// Interface index of a pod port → [`Mac`] of the pod behind it (hash; learned by `from_pod`, pruned by the agent).
pub const POD_MACS: Map = Map { name: "OVL_POD_MACS", capacity: 4096 };
/// Pod address → [`Endpoint`] (hash; learned by `to_pod`, pruned by the agent). Full means the slow path.
pub const ENDPOINTS: Map = Map { name: "OVL_ENDPOINTS", capacity: 16_384 };
/// `0u32` → the next identification of an outer IPv4 header (per-CPU array; written by the programs).
pub const IDS: Map = Map { name: "OVL_IDS", capacity: 1 };
/// `program × REASONS + reason` → [`Stat`] (per-CPU array; written by the programs).
pub const STATS: Map = Map { name: "OVL_STATS", capacity: crate::PROGRAMS * crate::REASONS };

/// Where packets for a peer's subnet go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Remote {
    /// The peer's address on the underlay.
    pub node: IpKey,
    /// A [`Travel`].
    pub travel: u8,
    /// 1 where the peer takes tunnel packets over IPv6 whose UDP checksum is zero (RFC 6935), which it says in its lease.
    pub zero_checksum: u8,
    /// The peer's tunnel MAC, zero where there is no tunnel.
    pub vtep_mac: Mac,
}

const _: () = assert!(size_of::<Remote>() == 24);

/// How packets reach one peer.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// As they are, with the peer as next hop on the underlay.
    Direct = 0,
    /// In VXLAN.
    Vxlan = 1,
    /// In IP.
    Ipip = 2,
}

/// What the agent knows of a pod's host-side interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Port {
    /// The MAC that the pod behind it uses as its gateway: the bridge's, or the interface's own without a bridge.
    pub gateway: Mac,
    /// Zero.
    pub reserved: [u8; 2],
}

/// A local pod, as the kernel itself last delivered to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Endpoint {
    /// Host-side interface of the pod.
    pub ifindex: u32,
    /// The pod's MAC.
    pub pod: Mac,
    /// Zero: programs copy MACs in words, whose places on the stack must be aligned.
    pub reserved: [u8; 2],
    /// The gateway's MAC as the pod sees it.
    pub gateway: Mac,
    /// Zero.
    pub reserved_too: [u8; 2],
}

const _: () = assert!(size_of::<Endpoint>() == 20);

impl Endpoint {
    /// The pod with the MAC `pod` behind the interface `ifindex`, which knows its gateway by the MAC `gateway`.
    #[inline(always)]
    pub const fn new(ifindex: u32, pod: Mac, gateway: Mac) -> Self {
        Self { ifindex, pod, reserved: [0; 2], gateway, reserved_too: [0; 2] }
    }
}

/// One counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Stat {
    /// Packets; one that carries several segments (GSO, GRO) counts once.
    pub packets: u64,
    /// Bytes from the link layer on, as the program first saw the packet.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_names_survive_the_kernel() {
        for map in [STATE, LEASES, NODES, FLOWS, TRACE, TRACED, LOGS, PORTS, POD_MACS, ENDPOINTS, IDS, STATS]
        {
            assert!(map.name.len() <= 15, "{} is cut at 15 bytes", map.name);
        }
    }
}
