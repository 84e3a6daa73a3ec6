//! Headers as they stand on the wire, and the Internet checksum.
//!
//! Every header is made of byte arrays (alignment 1, network byte order), so that a reference into a packet is
//! always aligned and nothing can be read in the wrong order by accident.

use bytemuck::{Pod, Zeroable};

use crate::Mac;

/// EtherType of ARP.
pub const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of IPv4 in IP.
pub const IPIP: u8 = 4;
/// IP protocol number of IPv6 in IP.
pub const IPV6_IN_IP: u8 = 41;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Ethernet II.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ethernet {
    /// Destination.
    pub destination: Mac,
    /// Source.
    pub source: Mac,
    /// EtherType.
    pub ethertype: [u8; 2],
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Arp {
    /// 1 for Ethernet.
    pub hardware: [u8; 2],
    /// EtherType of the protocol whose addresses follow.
    pub protocol: [u8; 2],
    /// 6.
    pub hardware_length: u8,
    /// 4.
    pub protocol_length: u8,
    /// 1 asks, 2 answers.
    pub operation: [u8; 2],
    /// MAC of the sender.
    pub sender_mac: Mac,
    /// Address of the sender.
    pub sender: [u8; 4],
    /// MAC of the target, where it is known.
    pub target_mac: Mac,
    /// Address of the target.
    pub target: [u8; 4],
}

/// IPv4 without options (RFC 791 section 3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv4 {
    /// Version (high half, 4) and header length in 32-bit words (low half, 5).
    pub version_and_length: u8,
    /// DSCP (RFC 2474, high six bits) and ECN (RFC 3168, low two).
    pub tos: u8,
    /// Header and payload, bytes.
    pub total_length: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags (high three bits) and fragment offset in units of 8 bytes.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

/// IPv6 without extension headers (RFC 8200 section 3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv6 {
    /// Version (highest four bits, 6), traffic class (the next eight), flow label (the lowest twenty).
    pub version_class_label: [u8; 4],
    /// What follows this header, bytes.
    pub payload_length: [u8; 2],
    /// Protocol of the payload, or the kind of the first extension header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// UDP (RFC 768).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Udp {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// Header and payload, bytes.
    pub length: [u8; 2],
    /// Checksum; zero means none was computed.
    pub checksum: [u8; 2],
}

/// TCP without options (RFC 9293 section 3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tcp {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgment number.
    pub acknowledgment: [u8; 4],
    /// Header length in 32-bit words (high half) and reserved bits.
    pub data_offset: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit down.
    pub flags: u8,
    /// Receive window.
    pub window: [u8; 2],
    /// Checksum.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

impl Tcp {
    /// No more data (RFC 9293 section 3.1, as the others).
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// The first eight bytes of an ICMP echo (RFC 792) or an ICMPv6 echo (RFC 4443 section 4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IcmpEcho {
    /// 8 is a request, 0 a reply; of ICMPv6 128 and 129.
    pub kind: u8,
    /// 0 for an echo.
    pub code: u8,
    /// Checksum.
    pub checksum: [u8; 2],
    /// Identifier.
    pub id: [u8; 2],
    /// Sequence number.
    pub sequence: [u8; 2],
}

/// The first 24 bytes of a neighbour advertisement (RFC 4861 section 4.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NeighbourAdvertisement {
    /// [`NeighbourAdvertisement::KIND`].
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// Checksum.
    pub checksum: [u8; 2],
    /// Router, solicited and override flags in the highest three bits.
    pub flags: [u8; 4],
    /// The address that the sender has.
    pub target: [u8; 16],
}

impl NeighbourAdvertisement {
    /// Its type among ICMPv6's.
    pub const KIND: u8 = 136;
}

/// VXLAN (RFC 7348 section 5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Vxlan {
    /// Bit 0x08 of the first byte: a VNI is present. All others are zero.
    pub flags: [u8; 4],
    /// Network identifier in three bytes, and a zero.
    pub vni: [u8; 4],
}

impl Vxlan {
    /// The header of a frame of network `vni` (0 to 2^24-1; higher bits are cut).
    #[inline(always)]
    pub const fn new(vni: u32) -> Self {
        Self { flags: [0x08, 0, 0, 0], vni: (vni << 8).to_be_bytes() }
    }
}

/// What VXLAN puts between the outer and the inner IP header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TunnelHeaders {
    /// Outer UDP.
    pub udp: Udp,
    /// Tunnel header.
    pub vxlan: Vxlan,
    /// Inner Ethernet.
    pub ethernet: Ethernet,
}

const _: () = assert!(size_of::<TunnelHeaders>() == 30 && align_of::<TunnelHeaders>() == 1);
const _: () = assert!(size_of::<Ipv4>() == 20 && size_of::<Ipv6>() == 40);

/// The sum of 16-bit words in network byte order, not folded; `bytes` has an even number of them, at most 2^16.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(N.is_multiple_of(2)) };
    let mut sum = 0;
    let mut at = 0;
    while at < N {
        sum += u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    sum
}

/// Folds a sum of 16-bit words into the one's-complement sum of RFC 1071.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

impl Ipv4 {
    /// The header checksum over all fields but the checksum itself (RFC 791: "the 16-bit one's complement of the
    /// one's complement sum of all 16-bit words in the header").
    #[inline(always)]
    pub fn computed_checksum(&self) -> [u8; 2] {
        let word = |high: u8, low: u8| u32::from(u16::from_be_bytes([high, low]));
        let [s0, s1, s2, s3] = self.source;
        let [d0, d1, d2, d3] = self.destination;
        let sum = word(self.version_and_length, self.tos)
            + word(self.total_length[0], self.total_length[1])
            + word(self.id[0], self.id[1])
            + word(self.fragment[0], self.fragment[1])
            + word(self.ttl, self.protocol)
            + word(s0, s1)
            + word(s2, s3)
            + word(d0, d1)
            + word(d2, d3);
        (!fold(sum)).to_be_bytes()
    }

    /// Replaces the 16-bit word `old` by `new` in the checksum: RFC 1624 equation 3, `HC' = ~(~HC + ~m + m')`.
    #[inline(always)]
    pub fn update_checksum(&mut self, old: u16, new: u16) {
        let checksum = u16::from_be_bytes(self.checksum);
        let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
        self.checksum = (!fold(sum)).to_be_bytes();
    }

    /// Takes one hop off the TTL, which the caller has checked to be over 1.
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        let old = u16::from_be_bytes([self.ttl, self.protocol]);
        self.ttl = self.ttl.wrapping_sub(1);
        self.update_checksum(old, u16::from_be_bytes([self.ttl, self.protocol]));
    }

    /// Marks congestion experienced (RFC 3168 section 5: both ECN bits set).
    #[inline(always)]
    pub fn set_congestion_experienced(&mut self) {
        let old = u16::from_be_bytes([self.version_and_length, self.tos]);
        self.tos |= 0b11;
        self.update_checksum(old, u16::from_be_bytes([self.version_and_length, self.tos]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example header of RFC 1071's many expositions: its checksum is 0xb861.
    const KNOWN: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0,
        0xa8, 0x00, 0xc7,
    ];

    fn known() -> Ipv4 {
        *bytemuck::from_bytes(&KNOWN)
    }

    #[test]
    fn the_checksum_of_a_known_header() {
        assert_eq!(known().computed_checksum(), [0xb8, 0x61]);
    }

    #[test]
    fn every_ttl_and_tos_keeps_the_checksum_right() {
        for ttl in 2..=u8::MAX {
            for tos in 0..=u8::MAX {
                let mut ip = Ipv4 { tos, ttl, ..known() };
                ip.checksum = ip.computed_checksum();
                ip.decrement_ttl();
                assert_eq!(ip.ttl, ttl - 1);
                assert_eq!(ip.checksum, ip.computed_checksum(), "ttl {ttl} tos {tos}");
                ip.set_congestion_experienced();
                assert_eq!(ip.checksum, ip.computed_checksum(), "ce: ttl {ttl} tos {tos}");
            }
        }
    }

    #[test]
    fn a_vxlan_header_as_rfc_7348_draws_it() {
        assert_eq!(bytemuck::bytes_of(&Vxlan::new(0x0a_0b0c)), [8, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0]);
    }
}
