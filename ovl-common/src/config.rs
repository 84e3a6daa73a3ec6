//! The per-node constants that the programs read once per packet.

use bytemuck::{Pod, Zeroable};

use crate::{IpKey, Mac};

/// Row 0 of the map [`crate::STATE`].
///
/// The agent replaces it whole. A zeroed row (before the agent's first write) has ABI 0 and so passes everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// [`crate::ABI`] of the agent.
    pub abi: u32,
    /// A [`FastPath`].
    pub fast_path: u32,
    /// Until when the programs may act, nanoseconds of `CLOCK_MONOTONIC`. The agent moves it on every second; an
    /// agent that died without detaching its programs leaves them passing everything from then on.
    pub deadline: u64,
    /// Interface index of the underlay device.
    pub underlay: u32,
    /// An [`Encapsulation`]: what the underlay program looks for besides plain packets.
    pub encapsulation: u32,
    /// VXLAN network identifier, 0 to 2^24-1.
    pub vni: u32,
    /// Largest inner IP packet in bytes that fits the tunnel: the overlay device's MTU.
    pub tunnel_mtu: u32,
    /// Largest IP packet in bytes that fits the underlay: the underlay device's MTU.
    pub underlay_mtu: u32,
    /// Lowest outer UDP source port (`net.ipv4.ip_local_port_range`).
    pub source_port_min: u16,
    /// One past the highest outer UDP source port, as the kernel's `udp_flow_src_port` counts.
    pub source_port_max: u16,
    /// UDP destination port of the tunnel, network byte order.
    pub tunnel_port: [u8; 2],
    /// This node's own tunnel MAC: the inner source we write, the inner destination we accept.
    pub vtep_mac: Mac,
    /// This node's address on the underlay: the outer source we write, the outer destination we accept.
    pub underlay_address: IpKey,
    /// First address of this node's own subnet.
    pub local_subnet: IpKey,
    /// Its length, counted as in [`crate::Prefix`] (an IPv4 `/24` is 120).
    pub local_bits: u32,
    /// TTL of outer headers, 1 to 255 (`net.ipv4.ip_default_ttl`).
    pub outer_ttl: u8,
    /// 1 where TCP may take the fast path, 0 where conntrack would call it invalid when it comes back.
    pub carry_tcp: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<Config>() == 88);

/// When a packet may take the fast path: `--fast-path`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPath {
    /// Never: the programs pass everything to the kernel and count it.
    Off = 0,
    /// Whenever source and destination are known. Netfilter does not see these packets.
    Always = 1,
}

/// How tunnel packets look on the wire.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// No tunnel: the overlay's packets travel as they are (host-gw).
    None = 0,
    /// VXLAN (RFC 7348).
    Vxlan = 1,
}
