//! Aggregates of the pods taken apart into the packets that a peer gets: each whole, with headers and checksums of its
//! own. What a device would do that has the offload.

use super::checksum::Sum;
use super::offload::{Aggregate, Checksum, Kind};
use super::packet::{Header, TCP, UDP, addresses, write_length};
use super::reason::Reason;
use crate::family::Family;

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// TCP's flags, the low byte of the word that has them (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// Fills in a checksum that the kernel left to a device.
pub(crate) fn complete(packet: &mut [u8], checksum: Checksum) -> Result<(), Reason> {
    let start = usize::from(checksum.start);
    let covered = packet.get_mut(start..).ok_or(Reason::BadOffload)?;
    let place = usize::from(checksum.offset);
    // The field has the pseudo-header's sum, which counts along.
    let mut sum = Sum::default().bytes(covered).checksum();
    if sum == [0; 2] {
        // Nothing in UDP (RFC 768), and the same number to everybody else.
        sum = [0xff; 2];
    }
    let field = covered.get_mut(place..place + 2).ok_or(Reason::BadOffload)?;
    field.copy_from_slice(&sum);
    Ok(())
}

/// An aggregate as the packets that it stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segments<'packet> {
    headers: &'packet [u8],
    payload: &'packet [u8],
    size: usize,
    protocol: u8,
    ip_header: usize,
    transport: usize,
    family: Family,
}

impl<'packet> Segments<'packet> {
    /// Reads the headers of an aggregate, which the kernel has described.
    pub(crate) fn of(
        packet: &'packet [u8],
        header: &Header,
        aggregate: Aggregate,
        checksum: Option<Checksum>,
    ) -> Result<Self, Reason> {
        // With IPv6's extension headers only the kernel's word says where transport begins.
        let transport = checksum.map_or(header.length, |checksum| usize::from(checksum.start));
        let family = header.family();
        let (protocol, least) = match (aggregate.kind, family) {
            (Kind::TcpV4, Family::V4) | (Kind::TcpV6, Family::V6) => (TCP, TCP_HEADER),
            (Kind::Udp, _) => (UDP, UDP_HEADER),
            (Kind::TcpV4, Family::V6) | (Kind::TcpV6, Family::V4) => return Err(Reason::BadOffload),
        };
        let fixed = packet.get(transport..transport + least).ok_or(Reason::BadOffload)?;
        let length = if protocol == TCP { usize::from(fixed[12] >> 4) * 4 } else { UDP_HEADER };
        let size = usize::from(aggregate.size);
        if transport < header.length || length < least || size == 0 || header.fragment.is_some() {
            return Err(Reason::BadOffload);
        }
        let (headers, payload) = packet.split_at_checked(transport + length).ok_or(Reason::BadOffload)?;
        Ok(Self { headers, payload, size, protocol, ip_header: header.length, transport, family })
    }

    /// How many there are; an aggregate without payload is one packet.
    pub(crate) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// The length of one of them, bytes.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.headers.len() + self.part(index).len()
    }

    /// Writes one of them, to a place of its length.
    pub(crate) fn write(&self, index: usize, place: &mut [u8]) {
        let part = self.part(index);
        let (headers, payload) = place.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        payload.copy_from_slice(part);
        if self.family == Family::V4 {
            // As the kernel numbers the packets of an aggregate.
            let first = u16::from_be_bytes([place[4], place[5]]);
            let identification = first.wrapping_add(u16::try_from(index).unwrap_or_default());
            place[4..6].copy_from_slice(&identification.to_be_bytes());
        }
        write_length(place, self.ip_header, self.family);
        let length = place.len() - self.transport;
        let (ip, transport) = place.split_at_mut(self.transport);
        let field = if self.protocol == TCP {
            self.write_tcp(index, transport);
            16
        } else {
            transport[4..6].copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
            6
        };
        transport[field..field + 2].fill(0);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let sum = Sum::pseudo_header(addresses(ip, self.family), self.protocol, length).bytes(transport);
        let sum = sum.checksum();
        let is_none = self.protocol == UDP && sum == [0; 2];
        transport[field..field + 2].copy_from_slice(if is_none { &[0xff; 2] } else { &sum });
    }

    fn write_tcp(&self, index: usize, transport: &mut [u8]) {
        let first = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        let before = u32::try_from(index * self.size).unwrap_or_default();
        transport[4..8].copy_from_slice(&first.wrapping_add(before).to_be_bytes());
        // What is said once is said at the start (CWR) or at the end.
        if index > 0 {
            transport[13] &= !CWR;
        }
        if index + 1 < self.count() {
            transport[13] &= !(FIN | PSH);
        }
    }

    fn part(&self, index: usize) -> &'packet [u8] {
        let start = (index * self.size).min(self.payload.len());
        let end = (start + self.size).min(self.payload.len());
        &self.payload[start..end]
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::udp::packet::testing::{is_whole, pods, tcp, udp};

    fn aggregate(kind: Kind, size: u16) -> Aggregate {
        Aggregate { kind, size, headers: 0 }
    }

    fn apart(packet: &[u8], aggregate: Aggregate) -> Result<Vec<Vec<u8>>, Reason> {
        let header = Header::read(packet)?;
        let segments = Segments::of(packet, &header, aggregate, None)?;
        let each = (0..segments.count()).map(|index| {
            let mut place = vec![0xa5; segments.length(index)];
            segments.write(index, &mut place);
            place
        });
        Ok(each.collect())
    }

    #[test]
    fn segments_of_a_stream_are_those_that_its_sender_would_send() {
        let payload: Vec<u8> = (0..=255).cycle().take(3000).collect();
        for (addresses, kind) in pods().into_iter().zip([Kind::TcpV4, Kind::TcpV6]) {
            let sequence = u32::MAX - 1500;
            let whole = tcp(addresses, sequence, CWR | FIN | PSH | ACK, &payload);
            let segments = apart(&whole, aggregate(kind, 1400)).expect("sound");
            let flags = [CWR | ACK, ACK, FIN | PSH | ACK];
            for (index, (segment, part)) in segments.iter().zip(payload.chunks(1400)).enumerate() {
                let at = u32::try_from(index * 1400).expect("small");
                let mut expected = tcp(addresses, sequence.wrapping_add(at), flags[index], part);
                if addresses.0.is_ipv4() {
                    expected[5] += u8::try_from(index).expect("small");
                    write_length(&mut expected, 20, Family::V4);
                }
                assert_eq!(segment, &expected, "segment {index}");
                assert!(is_whole(segment));
            }
            assert_eq!(segments.len(), 3);
        }
    }

    #[test]
    fn datagrams_keep_their_bounds() {
        let payload: Vec<u8> = (0..=255).cycle().take(1100).collect();
        for addresses in pods() {
            let segments = apart(&udp(addresses, &payload), aggregate(Kind::Udp, 500)).expect("sound");
            let parts: Vec<&[u8]> =
                segments.iter().map(|packet| &packet[packet.len() - packet.len() % 500..]).collect();
            assert_eq!((segments.len(), parts.len()), (3, 3));
            for (segment, part) in segments.iter().zip(payload.chunks(500)) {
                assert!(is_whole(segment) && segment.ends_with(part));
            }
        }
    }

    #[test]
    fn a_checksum_is_completed_where_the_kernel_says() {
        for addresses in pods() {
            let whole = tcp(addresses, 7, ACK, b"some bytes");
            let header = Header::read(&whole).expect("sound");
            let mut packet = whole.clone();
            let length = u32::try_from(whole.len() - header.length).expect("small");
            let sum = Sum::pseudo_header(super::addresses(&whole, header.family()), TCP, length).partial();
            let start = header.length;
            packet[start + 16..start + 18].copy_from_slice(&sum);
            let checksum = Checksum { start: u16::try_from(start).expect("small"), offset: 16 };
            complete(&mut packet, checksum).expect("sound");
            assert_eq!(packet, whole);
            for (start, offset) in [(u16::MAX, 16), (20, u16::MAX), (20, 200)] {
                assert_eq!(complete(&mut packet, Checksum { start, offset }), Err(Reason::BadOffload));
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let [ipv4, ipv6] = pods().map(|addresses| tcp(addresses, 7, ACK, b"payload"));
        let mut flat = ipv4.clone();
        flat[32] = 0x10;
        let mut long = ipv4.clone();
        long[32] = 0xf0;
        for (what, packet, aggregate) in [
            ("no size", &ipv4, aggregate(Kind::TcpV4, 0)),
            ("the other family", &ipv4, aggregate(Kind::TcpV6, 100)),
            ("the other family", &ipv6, aggregate(Kind::TcpV4, 100)),
            ("a header of 4 bytes", &flat, aggregate(Kind::TcpV4, 100)),
            ("a header past the end", &long, aggregate(Kind::TcpV4, 100)),
        ] {
            assert_eq!(apart(packet, aggregate), Err(Reason::BadOffload), "{what}");
        }
    }

    /// Whatever the bytes: no panic, and never more than there was.
    #[test]
    fn mutated_aggregates_do_no_harm() {
        let mut random = StdRng::seed_from_u64(65);
        for round in 0..20_000 {
            let addresses = pods()[round % 2];
            let mut packet = tcp(addresses, 7, ACK, &[0x5a; 300]);
            for _ in 0..random.random_range(0..6) {
                let at = random.random_range(0..packet.len());
                packet[at] = random.random();
            }
            packet.truncate(random.random_range(0..=packet.len()));
            let bytes: [u8; super::super::offload::LENGTH] = random.random();
            let Some(offload) = super::super::offload::Offload::read(bytes) else { continue };
            let Ok(header) = Header::read(&packet) else { continue };
            if let Some(aggregate) = offload.aggregate
                && let Ok(segments) = Segments::of(&packet, &header, aggregate, offload.checksum)
            {
                for index in 0..segments.count() {
                    let mut place = vec![0; segments.length(index)];
                    assert!(place.len() <= packet.len());
                    segments.write(index, &mut place);
                }
            } else if let Some(checksum) = offload.checksum {
                let _maybe = complete(&mut packet, checksum);
            }
        }
    }
}
