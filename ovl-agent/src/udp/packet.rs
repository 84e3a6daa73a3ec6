//! What has to be known of an IP packet to carry it, read with suspicion.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{self, Sum};
use super::reason::Reason;
use crate::family::Family;

/// Length of an IPv6 header, and of an IPv4 header without options, bytes (RFC 8200 section 3, RFC 791 section 3.1).
pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const IPV4_HEADER: usize = 20;

/// Protocol numbers of IANA.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// The IP header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Bytes of the header: IPv4 options count, IPv6 extension headers don't.
    pub(crate) length: usize,
    /// What follows: IPv4's protocol, IPv6's next header.
    pub(crate) protocol: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Where in its datagram an IPv4 fragment belongs; `None` for a whole packet.
    pub(crate) fragment: Option<u16>,
}

impl Header {
    /// Reads the header of a packet that should be all of `packet` and no more.
    pub(crate) fn read(packet: &[u8]) -> Result<Self, Reason> {
        match packet.first().ok_or(Reason::Short)? >> 4 {
            4 => Self::ipv4(packet),
            6 => Self::ipv6(packet),
            _ => Err(Reason::BadHeader),
        }
    }

    fn ipv4(packet: &[u8]) -> Result<Self, Reason> {
        let fixed = packet.first_chunk::<IPV4_HEADER>().ok_or(Reason::Short)?;
        let length = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if length < IPV4_HEADER {
            return Err(Reason::BadHeader);
        }
        if total != packet.len() || length > total {
            return Err(Reason::BadLength);
        }
        // Flags and fragment offset: 0x2000 is "more fragments", the low 13 bits are the place.
        let place = u16::from_be_bytes([fixed[6], fixed[7]]);
        let address = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
        Ok(Self {
            source: address(12).into(),
            destination: address(16).into(),
            length,
            protocol: fixed[9],
            ttl: fixed[8],
            fragment: (place & 0x3fff != 0).then_some(place & 0x1fff),
        })
    }

    fn ipv6(packet: &[u8]) -> Result<Self, Reason> {
        let fixed = packet.first_chunk::<IPV6_HEADER>().ok_or(Reason::Short)?;
        let payload = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if IPV6_HEADER + payload != packet.len() {
            return Err(Reason::BadLength);
        }
        let address = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&fixed[at..at + 16]);
            Ipv6Addr::from(bytes)
        };
        let (source, destination) = (address(8), address(24));
        // An IPv4 address in an IPv6 packet would be checked as the IPv4 address and routed as something else.
        if source.to_ipv4_mapped().is_some() || destination.to_ipv4_mapped().is_some() {
            return Err(Reason::BadHeader);
        }
        Ok(Self {
            source: source.into(),
            destination: destination.into(),
            length: IPV6_HEADER,
            protocol: fixed[6],
            ttl: fixed[7],
            fragment: None,
        })
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.source)
    }
}

/// Source and destination as the packet has them, for a pseudo-header.
pub(crate) fn addresses(packet: &[u8], family: Family) -> &[u8] {
    let range = match family {
        Family::V4 => 12..20,
        Family::V6 => 8..40,
    };
    packet.get(range).unwrap_or_default()
}

/// Whether the checksum of an IPv4 header is right; IPv6 has none.
pub(crate) fn is_header_whole(packet: &[u8], header: &Header) -> bool {
    header.family() == Family::V6
        || packet.get(..header.length).is_some_and(|bytes| Sum::default().bytes(bytes).is_valid())
}

/// Takes one off TTL or hop limit of a packet that has been read, with IPv4's checksum (RFC 791, RFC 8200 section 3).
pub(crate) fn take_hop(packet: &mut [u8]) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => {
            let Some(fixed) = packet.first_chunk_mut::<IPV4_HEADER>() else { return };
            let old = [fixed[8], fixed[9]];
            fixed[8] = fixed[8].saturating_sub(1);
            let new = checksum::updated([fixed[10], fixed[11]], old, [fixed[8], fixed[9]]);
            fixed[10..12].copy_from_slice(&new);
        }
        Some(6) => {
            let Some(fixed) = packet.first_chunk_mut::<IPV6_HEADER>() else { return };
            fixed[7] = fixed[7].saturating_sub(1);
        }
        _ => {}
    }
}

/// Writes the lengths of a packet that is `packet`, and the checksum of its IPv4 header.
pub(crate) fn write_length(packet: &mut [u8], header_length: usize, family: Family) {
    // No packet here is longer than a datagram can be.
    let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    match family {
        Family::V4 => {
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[10..12].fill(0);
            let sum = Sum::default().bytes(&packet[..header_length]).checksum();
            packet[10..12].copy_from_slice(&sum);
        }
        Family::V6 => {
            let payload = total.saturating_sub(u16::try_from(IPV6_HEADER).unwrap_or_default());
            packet[4..6].copy_from_slice(&payload.to_be_bytes());
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An IP packet around `payload`, with a TTL of 64 and a right header checksum.
    pub(crate) fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut packet = vec![0x60, 0, 0, 7, 0, 0, protocol, 64];
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet
            }
            _ => panic!("two families in one packet"),
        };
        let length = packet.len();
        packet.extend(payload);
        write_length(&mut packet, length, Family::of(source));
        packet
    }

    /// A TCP packet with a timestamp option and right checksums.
    pub(crate) fn tcp(addresses: (IpAddr, IpAddr), sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut segment = vec![0x9c, 0x40, 0x14, 0xb6];
        segment.extend(sequence.to_be_bytes());
        segment.extend([0, 0, 0, 9, 0x80, flags, 1, 0, 0, 0, 0, 0]);
        segment.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        segment.extend(payload);
        with_checksum(addresses, TCP, segment, 16)
    }

    /// A UDP packet with right checksums.
    pub(crate) fn udp(addresses: (IpAddr, IpAddr), payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).expect("a datagram");
        let mut datagram = vec![0x9c, 0x40, 0x14, 0xb6];
        datagram.extend(length.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        with_checksum(addresses, UDP, datagram, 6)
    }

    fn with_checksum(addresses: (IpAddr, IpAddr), protocol: u8, mut body: Vec<u8>, at: usize) -> Vec<u8> {
        let (source, destination) = addresses;
        let head = ip(source, destination, protocol, &[]);
        let length = u32::try_from(body.len()).expect("a packet");
        let pseudo = Sum::pseudo_header(super::addresses(&head, Family::of(source)), protocol, length);
        let sum = pseudo.bytes(&body).checksum();
        body[at..at + 2].copy_from_slice(&sum);
        ip(source, destination, protocol, &body)
    }

    /// A pair of pods of each family.
    pub(crate) fn pods() -> [(IpAddr, IpAddr); 2] {
        [("10.42.3.2", "10.42.7.2"), ("fd42:0:0:3::2", "fd42:0:0:7::2")]
            .map(|(one, other)| (one.parse().expect(one), other.parse().expect(other)))
    }

    /// Whether every checksum of a packet of TCP or UDP without options is right.
    pub(crate) fn is_whole(packet: &[u8]) -> bool {
        let Ok(header) = Header::read(packet) else { return false };
        let body = &packet[header.length..];
        let length = u32::try_from(body.len()).expect("a packet");
        let pseudo = Sum::pseudo_header(addresses(packet, header.family()), header.protocol, length);
        is_header_whole(packet, &header) && pseudo.bytes(body).is_valid()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ip, pods, udp};
    use super::*;

    #[test]
    fn a_header_says_what_the_packet_says() {
        for (source, destination) in pods() {
            let packet = ip(source, destination, UDP, b"body");
            let header = Header::read(&packet).expect("sound");
            assert_eq!((header.source, header.destination), (source, destination));
            assert_eq!((header.ttl, header.protocol, header.fragment), (64, UDP, None));
            assert_eq!(&packet[header.length..], b"body");
            assert!(is_header_whole(&packet, &header));
        }
    }

    #[test]
    fn a_packet_that_lies_is_refused_by_reason() {
        let (source, destination) = pods()[0];
        let ipv4 = ip(source, destination, UDP, b"body");
        let (source, destination) = pods()[1];
        let ipv6 = ip(source, destination, UDP, b"body");
        let with = |packet: &[u8], at: usize, byte: u8| {
            let mut packet = packet.to_vec();
            packet[at] = byte;
            packet
        };
        let mapped = ip("::ffff:10.42.3.2".parse().expect("valid"), destination, UDP, b"");
        let table = [
            ("nothing", vec![], Reason::Short),
            ("version 5", with(&ipv4, 0, 0x55), Reason::BadHeader),
            ("IPv4, 19 bytes", ipv4[..19].to_vec(), Reason::Short),
            ("a header of 16 bytes", with(&ipv4, 0, 0x44), Reason::BadHeader),
            ("options past the end", with(&ipv4, 0, 0x4f), Reason::BadLength),
            ("longer than it is", with(&ipv4, 3, 25), Reason::BadLength),
            ("shorter than it is", with(&ipv4, 3, 23), Reason::BadLength),
            ("cut off", ipv4[..22].to_vec(), Reason::BadLength),
            ("IPv6, 39 bytes", ipv6[..39].to_vec(), Reason::Short),
            ("IPv6, longer than it is", with(&ipv6, 5, 5), Reason::BadLength),
            ("IPv6, shorter than it is", with(&ipv6, 5, 3), Reason::BadLength),
            ("an IPv4 address in IPv6", mapped, Reason::BadHeader),
        ];
        for (what, packet, reason) in table {
            assert_eq!(Header::read(&packet), Err(reason), "{what}");
        }
    }

    #[test]
    fn fragments_are_told() {
        let (source, destination) = pods()[0];
        for (bytes, fragment) in [([0x40, 0], None), ([0x20, 0], Some(0)), ([0x00, 0xb9], Some(185))] {
            let mut packet = ip(source, destination, UDP, b"body");
            packet[6..8].copy_from_slice(&bytes);
            assert_eq!(Header::read(&packet).expect("sound").fragment, fragment);
        }
    }

    #[test]
    fn a_hop_costs_one_and_leaves_the_checksum_right() {
        for addresses in pods() {
            let mut packet = udp(addresses, b"body");
            for ttl in (0..64).rev() {
                take_hop(&mut packet);
                let header = Header::read(&packet).expect("sound");
                assert_eq!(header.ttl, ttl);
                assert!(is_header_whole(&packet, &header));
            }
            take_hop(&mut packet);
            assert_eq!(Header::read(&packet).expect("sound").ttl, 0, "nothing is below 0");
        }
    }
}
