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
    /// Raised whenever what netfilter once decided may not be what it would decide now: flows of an earlier epoch are
    /// verified anew.
    pub epoch: u64,
    /// For how long a flow is good once netfilter has accepted it, nanoseconds.
    pub verified_for: u64,
    /// What XDP writes in front of packets whose tunnel it took off, in the byte order of the host: a random even number that
    /// nobody outside knows, plus 1 where the tunnel was over IPv6. The same for all packets, since GRO merges only those with
    /// equal metadata. 0 where XDP is to leave every packet alone: nobody at tc waits for them.
    pub token: u64,
    /// The one bit of `skb->mark` that says that netfilter has accepted a packet of an established connection.
    pub mark: u32,
    /// A [`SourceCheck`].
    pub source_check: u32,
    /// Interface index of the underlay device.
    pub underlay: u32,
    /// Largest IP packet in bytes that fits the underlay: the underlay device's MTU.
    pub underlay_mtu: u32,
    /// Lowest outer UDP source port (`net.ipv4.ip_local_port_range`).
    pub source_port_min: u16,
    /// One past the highest outer UDP source port, as the kernel's `udp_flow_src_port` counts.
    pub source_port_max: u16,
    /// 1 where TCP may take the fast path, 0 where conntrack would call it invalid when it comes back.
    pub carry_tcp: u8,
    /// 1 where XDP sees packets that the kernel may have aggregated already (generic XDP), 0 where it does not.
    pub xdp_after_gro: u8,
    /// MAC of the underlay device.
    pub underlay_mac: Mac,
    /// Zero.
    pub reserved: [u8; 4],
    /// The tunnel between nodes' IPv4 addresses.
    pub tunnel_v4: Tunnel,
    /// The tunnel between nodes' IPv6 addresses.
    pub tunnel_v6: Tunnel,
    /// This node's own IPv4 subnet.
    pub local_v4: Range,
    /// This node's own IPv6 subnet.
    pub local_v6: Range,
}

const _: () = assert!(size_of::<Config>() == 216);

/// A tunnel, by the family of its outer addresses. Zeroed where there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tunnel {
    /// This node's address on the underlay: the outer source we write, the outer destination we accept.
    pub address: IpKey,
    /// Interface index of the overlay device.
    pub device: u32,
    /// VXLAN network identifier, 0 to 2^24-1; 0 of other tunnels.
    pub vni: u32,
    /// Largest inner IP packet in bytes that fits: the overlay device's MTU.
    pub mtu: u32,
    /// MAC of the overlay device, zero where it has none. Of VXLAN it is the inner source we write, the inner destination we
    /// accept.
    pub mac: Mac,
    /// UDP destination port, network byte order; 0 of tunnels without UDP.
    pub port: [u8; 2],
    /// An [`Encapsulation`].
    pub encapsulation: u8,
    /// TTL or hop limit of outer headers, 1 to 255 (`net.ipv4.ip_default_ttl`, `net.ipv6.conf.*.hop_limit`); without UDP they
    /// have the inner packet's.
    pub hop_limit: u8,
    /// 1 where the overlay device only stands in for a tunnel device that the kernel lacks: what is sent by it is wrapped by
    /// the programs, and what comes out of the tunnel is handed to it, whether or not the agent is alive.
    pub stand_in: u8,
    /// Zero.
    pub reserved: [u8; 1],
}

const _: () = assert!(size_of::<Tunnel>() == 40);

/// A range of addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Range {
    /// Its first address.
    pub base: IpKey,
    /// Ones where an address has to agree with `base`.
    pub mask: IpKey,
}

impl Range {
    /// One that no pod's address lies in: the unspecified address alone.
    pub const NONE: Self = Self { base: IpKey::from_words([0; 2]), mask: IpKey::from_words([u64::MAX; 2]) };

    /// The range of the first `bits` bits of `base`, counted as in [`crate::Prefix`] (an IPv4 `/24` is 120).
    pub fn new(base: IpKey, bits: u32) -> Self {
        let ones = u128::MAX.checked_shl(128u32.saturating_sub(bits)).unwrap_or(0);
        Self { base, mask: IpKey::from_ipv6_octets(ones.to_be_bytes()) }
    }

    /// Whether `address` lies in it.
    #[inline(always)]
    pub fn contains(&self, address: IpKey) -> bool {
        let (address, base, mask) = (address.words(), self.base.words(), self.mask.words());
        (address[1] ^ base[1]) & mask[1] == 0 && (address[0] ^ base[0]) & mask[0] == 0
    }
}

/// When a packet may take the fast path: `--fast-path`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPath {
    /// Never: the programs pass everything to the kernel and count it.
    Off = 0,
    /// Whenever source and destination are known. Netfilter does not see these packets.
    Always = 1,
    /// When netfilter has accepted the flow in both directions, and this direction of it lately.
    Verified = 2,
}

/// What becomes of packets whose source is not what it should be: `--source-check`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceCheck {
    /// They are the kernel's.
    Off = 0,
    /// Dropped: tunnel packets of no known node, and packets with an address that another node holds. Other addresses
    /// from outside the overlay are the kernel's, as those of clients of a NodePort that are not translated.
    Loose = 1,
    /// Dropped besides: whatever does not come from the sender's own subnet.
    Strict = 2,
}

/// How tunnel packets look on the wire.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// No tunnel: the overlay's packets travel as they are (host-gw).
    None = 0,
    /// VXLAN (RFC 7348).
    Vxlan = 1,
    /// An outer IP header and nothing else (RFC 2003, RFC 2473).
    Ipip = 2,
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn key(text: &str) -> IpKey {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn a_range_holds_its_own_addresses() {
        let ipv4 = Range::new(key("10.42.3.0"), 120);
        let ipv6 = Range::new(key("fd42:0:0:3::"), 64);
        for (range, address, inside) in [
            (ipv4, "10.42.3.0", true),
            (ipv4, "10.42.3.255", true),
            (ipv4, "10.42.4.0", false),
            (ipv4, "fd42:0:0:3::1", false),
            (ipv6, "fd42:0:0:3:ffff::1", true),
            (ipv6, "fd42:0:0:4::", false),
            (ipv6, "10.42.3.1", false),
            (Range::new(key("10.42.3.128"), 121), "10.42.3.127", false),
            (Range::new(key("10.42.3.7"), 128), "10.42.3.7", true),
            (Range::NONE, "10.42.3.7", false),
            (Range::NONE, "fd42::1", false),
        ] {
            assert_eq!(range.contains(key(address)), inside, "{range:?} {address}");
        }
    }
}
