//! The two families of IP, as one interface: the packet path is one body of code, generic over it.

use bytemuck::Pod;
use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, Ipv4, Ipv6, fold, sum};
use ovl_common::{Config, IpKey, Range, Reason, Tunnel};

/// A family of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What an outer header has to say.
#[derive(Clone, Copy, Debug)]
pub struct Outer<'a> {
    /// This node.
    pub source: &'a IpKey,
    /// The peer.
    pub destination: &'a IpKey,
    /// Protocol of what follows.
    pub protocol: u8,
    /// Whether DF is clear (IPv4 only).
    pub may_be_cut: bool,
    /// The ECN bits; the DSCP is 0.
    pub tos: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// What follows the header, bytes.
    pub payload: u16,
    /// Identification (IPv4 only).
    pub id: u16,
}

/// An IP header without options.
pub trait IpHeader: Pod {
    /// Which one.
    const FAMILY: Family;
    /// Its length in bytes.
    const LENGTH: usize;
    /// What stands in front of it in a frame.
    const ETHERTYPE: [u8; 2];
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// The type of an ICMP echo request and of its reply (RFC 792, RFC 4443 section 4).
    const ECHO: (u8, u8);
    /// Whether the checksum of ICMP covers the addresses, as that of TCP and UDP does.
    const ICMP_PSEUDO_HEADER: bool;
    /// Whether a UDP checksum of zero says that there is none (RFC 768); IPv6 wants one, tunnels aside (RFC 8200
    /// section 8.1).
    const UDP_CHECKSUM_OPTIONAL: bool;
    /// What every way takes, bytes. Of IPv4 the least that Linux takes a router's word for (`net.ipv4.route.min_pmtu`).
    const LEAST_MTU: usize;

    /// Version, header length and fragmentation: what must hold before any other field may be trusted.
    fn check_fixed_part(&self) -> Result<(), Reason>;
    /// The version, without which not even the addresses are where they should be.
    fn check_version(&self) -> Result<(), Reason>;
    /// Whether the header's own checksum, where it has one, is right.
    fn is_intact(&self) -> bool;
    /// Source address.
    fn source(&self) -> IpKey;
    /// Destination address.
    fn destination(&self) -> IpKey;
    /// Protocol of the payload.
    fn protocol(&self) -> u8;
    /// DSCP and ECN.
    fn tos(&self) -> u8;
    /// TTL or hop limit.
    fn hop_limit(&self) -> u8;
    /// Header and payload, bytes.
    fn length(&self) -> usize;
    /// Takes one hop off, which the caller has checked to be over 1. Returns what that adds to the one's-complement sum of
    /// the header: 0 where the header has a checksum, which makes up for it.
    fn take_hop(&mut self) -> u16;
    /// Marks congestion experienced (RFC 3168 section 5: both ECN bits set). Returns the same.
    fn mark_congestion(&mut self) -> u16;
    /// The sum of the header's own 16-bit words, and that of its addresses alone.
    fn sums(&self) -> (u32, u32);
    /// Whether routers may take the packet apart.
    fn may_be_cut(&self) -> bool;
    /// Makes this the header in front of a tunnel's payload.
    fn write_outer(&mut self, outer: &Outer<'_>);
    /// The tunnel with outer headers of this family.
    fn tunnel(config: &Config) -> &Tunnel;
    /// This node's own subnet of this family.
    fn local(config: &Config) -> &Range;
}

/// Bits of [`Ipv4::fragment`] that make a packet a fragment: MF and the offset, not DF.
const IS_FRAGMENT: u16 = 0x3fff;
/// DF, in the first byte of [`Ipv4::fragment`].
const DONT_FRAGMENT: u8 = 0x40;

impl IpHeader for Ipv4 {
    const FAMILY: Family = Family::V4;
    const LENGTH: usize = size_of::<Self>();
    const ETHERTYPE: [u8; 2] = ETHERTYPE_IPV4;
    const ICMP: u8 = ICMP;
    const ECHO: (u8, u8) = (8, 0);
    const ICMP_PSEUDO_HEADER: bool = false;
    const UDP_CHECKSUM_OPTIONAL: bool = true;
    const LEAST_MTU: usize = 552;

    #[inline(always)]
    fn check_fixed_part(&self) -> Result<(), Reason> {
        match self.version_and_length {
            0x45 => {}
            0x46..=0x4f => return Err(Reason::Options),
            _ => return Err(Reason::BadHeader),
        }
        if u16::from_be_bytes(self.fragment) & IS_FRAGMENT != 0 {
            return Err(Reason::Fragment);
        }
        Ok(())
    }

    #[inline(always)]
    fn check_version(&self) -> Result<(), Reason> {
        if self.version_and_length >> 4 == 4 { Ok(()) } else { Err(Reason::BadHeader) }
    }

    #[inline(always)]
    fn is_intact(&self) -> bool {
        self.checksum == self.computed_checksum()
    }

    #[inline(always)]
    fn source(&self) -> IpKey {
        IpKey::from_ipv4_octets(self.source)
    }

    #[inline(always)]
    fn destination(&self) -> IpKey {
        IpKey::from_ipv4_octets(self.destination)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn tos(&self) -> u8 {
        self.tos
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn length(&self) -> usize {
        usize::from(u16::from_be_bytes(self.total_length))
    }

    #[inline(always)]
    fn take_hop(&mut self) -> u16 {
        self.decrement_ttl();
        0
    }

    #[inline(always)]
    fn mark_congestion(&mut self) -> u16 {
        self.set_congestion_experienced();
        0
    }

    #[inline(always)]
    fn sums(&self) -> (u32, u32) {
        (sum(bytes::<20, _>(self)), sum(&self.source) + sum(&self.destination))
    }

    #[inline(always)]
    fn may_be_cut(&self) -> bool {
        self.fragment[0] & DONT_FRAGMENT == 0
    }

    #[inline(always)]
    fn write_outer(&mut self, outer: &Outer<'_>) {
        self.version_and_length = 0x45;
        self.tos = outer.tos;
        self.total_length = outer.payload.wrapping_add(20).to_be_bytes();
        self.id = outer.id.to_be_bytes();
        self.fragment = [if outer.may_be_cut { 0 } else { DONT_FRAGMENT }, 0];
        self.ttl = outer.hop_limit;
        self.protocol = outer.protocol;
        self.source = outer.source.ipv4_octets();
        self.destination = outer.destination.ipv4_octets();
        self.checksum = self.computed_checksum();
    }

    #[inline(always)]
    fn tunnel(config: &Config) -> &Tunnel {
        &config.tunnel_v4
    }

    #[inline(always)]
    fn local(config: &Config) -> &Range {
        &config.local_v4
    }
}

/// The extension header of a fragment (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

impl IpHeader for Ipv6 {
    const FAMILY: Family = Family::V6;
    const LENGTH: usize = size_of::<Self>();
    const ETHERTYPE: [u8; 2] = ETHERTYPE_IPV6;
    const ICMP: u8 = ICMPV6;
    const ECHO: (u8, u8) = (128, 129);
    const ICMP_PSEUDO_HEADER: bool = true;
    const UDP_CHECKSUM_OPTIONAL: bool = false;
    // RFC 8200 section 5.
    const LEAST_MTU: usize = 1280;

    #[inline(always)]
    fn check_fixed_part(&self) -> Result<(), Reason> {
        self.check_version()?;
        match self.next_header {
            FRAGMENT => Err(Reason::Fragment),
            // The other headers that may stand before the payload (RFC 7045 section 4).
            0 | 43 | 51 | 60 | 135 | 139 | 140 => Err(Reason::Options),
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn check_version(&self) -> Result<(), Reason> {
        // An IPv4 address in IPv6 would be taken for a row of IPv4.
        let aliases = self.source().is_ipv4() || self.destination().is_ipv4();
        if self.version_class_label[0] >> 4 == 6 && !aliases { Ok(()) } else { Err(Reason::BadHeader) }
    }

    #[inline(always)]
    fn is_intact(&self) -> bool {
        true
    }

    #[inline(always)]
    fn source(&self) -> IpKey {
        IpKey::from_ipv6_octets(self.source)
    }

    #[inline(always)]
    fn destination(&self) -> IpKey {
        IpKey::from_ipv6_octets(self.destination)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.next_header
    }

    #[inline(always)]
    fn tos(&self) -> u8 {
        self.version_class_label[0] << 4 | self.version_class_label[1] >> 4
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    #[inline(always)]
    fn length(&self) -> usize {
        Self::LENGTH + usize::from(u16::from_be_bytes(self.payload_length))
    }

    #[inline(always)]
    fn take_hop(&mut self) -> u16 {
        self.hop_limit = self.hop_limit.wrapping_sub(1);
        // Less by one.
        !1
    }

    #[inline(always)]
    fn mark_congestion(&mut self) -> u16 {
        let added = !self.version_class_label[1] & 0x30;
        self.version_class_label[1] |= added;
        u16::from(added)
    }

    #[inline(always)]
    fn sums(&self) -> (u32, u32) {
        (sum(bytes::<40, _>(self)), sum(&self.source) + sum(&self.destination))
    }

    #[inline(always)]
    fn may_be_cut(&self) -> bool {
        false
    }

    #[inline(always)]
    fn write_outer(&mut self, outer: &Outer<'_>) {
        self.version_class_label = [0x60 | outer.tos >> 4, outer.tos << 4, 0, 0];
        self.payload_length = outer.payload.to_be_bytes();
        self.next_header = outer.protocol;
        self.hop_limit = outer.hop_limit;
        write_words(&mut self.source, outer.source);
        write_words(&mut self.destination, outer.destination);
    }

    #[inline(always)]
    fn tunnel(config: &Config) -> &Tunnel {
        &config.tunnel_v6
    }

    #[inline(always)]
    fn local(config: &Config) -> &Range {
        &config.local_v6
    }
}

/// Word by word: as a whole the compiler would call a function that copies byte by byte.
#[inline(always)]
fn write_words(to: &mut [u8; 16], address: &IpKey) {
    for (bytes, word) in to.as_chunks_mut::<8>().0.iter_mut().zip(address.words()) {
        *bytes = word.to_ne_bytes();
    }
}

#[inline(always)]
fn bytes<const N: usize, H: IpHeader>(header: &H) -> &[u8; N] {
    bytemuck::cast_ref(header)
}

/// The sum over a pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1), folded.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "IP packets are shorter than 64 KiB")]
pub fn pseudo_header(addresses: u32, protocol: u8, length: usize) -> u16 {
    fold(addresses + u32::from(protocol) + length as u32)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn ipv6() -> Ipv6 {
        let mut ip = Ipv6::zeroed();
        ip.version_class_label = [0x60, 0, 0, 0];
        ip.source[0] = 0xfd;
        ip.destination[0] = 0xfd;
        ip
    }

    #[test]
    fn traffic_class_goes_in_and_comes_out() {
        for tos in 0..=u8::MAX {
            let outer = Outer {
                source: &IpKey::from_ipv6_octets([1; 16]),
                destination: &IpKey::from_ipv6_octets([2; 16]),
                protocol: 17,
                may_be_cut: true,
                tos,
                hop_limit: 64,
                payload: 9,
                id: 0,
            };
            let mut ip = Ipv6::zeroed();
            ip.write_outer(&outer);
            assert_eq!((ip.tos(), ip.check_fixed_part(), ip.length()), (tos, Ok(()), 49));
            ip.mark_congestion();
            assert_eq!(ip.tos(), tos | 0b11);
        }
    }

    #[test]
    fn extension_headers_are_the_kernels() {
        for (next_header, expected) in [
            (6, Ok(())),
            (58, Ok(())),
            (0, Err(Reason::Options)),
            (43, Err(Reason::Options)),
            (44, Err(Reason::Fragment)),
            (60, Err(Reason::Options)),
        ] {
            assert_eq!(Ipv6 { next_header, ..ipv6() }.check_fixed_part(), expected, "{next_header}");
        }
        let mut mapped = ipv6();
        mapped.source = IpKey::from_ipv4_octets([10, 42, 7, 2]).octets();
        assert_eq!(mapped.check_fixed_part(), Err(Reason::BadHeader), "it would alias a row of IPv4");
    }
}
