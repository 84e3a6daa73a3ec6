//! What stands before every packet of a TUN device with `IFF_VNET_HDR`: the header of virtio-net (VIRTIO 1.2 section
//! 5.1.6), in its legacy form of ten bytes in the machine's byte order.

/// Its length, bytes.
pub(crate) const LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Beside a kind: the first segment carries CWR (RFC 3168), the others must not.
const GSO_ECN: u8 = 0x80;

/// What is left to do to a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offload {
    /// The checksum to complete.
    pub(crate) checksum: Option<Checksum>,
    /// The aggregate to take apart.
    pub(crate) aggregate: Option<Aggregate>,
}

/// A checksum whose field holds the sum of the pseudo-header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum {
    /// Where the transport header begins, bytes from the start of the packet.
    pub(crate) start: u16,
    /// Where in the transport header the field is, bytes.
    pub(crate) offset: u16,
}

/// Several packets in one, which differ in their payload and what depends on its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aggregate {
    pub(crate) kind: Kind,
    /// Payload of each but the last, which may have less, bytes.
    pub(crate) size: u16,
    /// Length of the headers, bytes.
    pub(crate) headers: u16,
}

/// What is aggregated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Segments of TCP over IPv4.
    TcpV4,
    /// Segments of TCP over IPv6.
    TcpV6,
    /// Datagrams.
    Udp,
}

impl Offload {
    /// Reads what the kernel wrote; `None` for what it was not asked for.
    pub(crate) fn read(bytes: [u8; LENGTH]) -> Option<Self> {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = bytes;
        let word = |one, other| u16::from_ne_bytes([one, other]);
        let checksum =
            (flags & NEEDS_CHECKSUM != 0).then_some(Checksum { start: word(c0, c1), offset: word(o0, o1) });
        let kind = match kind & !GSO_ECN {
            0 => return Some(Self { checksum, aggregate: None }),
            GSO_TCPV4 => Kind::TcpV4,
            GSO_TCPV6 => Kind::TcpV6,
            GSO_UDP_L4 => Kind::Udp,
            _ => return None,
        };
        Some(Self {
            checksum,
            aggregate: Some(Aggregate { kind, size: word(s0, s1), headers: word(h0, h1) }),
        })
    }

    /// As the kernel reads it.
    pub(crate) fn write(self) -> [u8; LENGTH] {
        let checksum = self.checksum.unwrap_or(Checksum { start: 0, offset: 0 });
        let (kind, size, headers) = self.aggregate.map_or((0, 0, 0), |aggregate| {
            let kind = match aggregate.kind {
                Kind::TcpV4 => GSO_TCPV4,
                Kind::TcpV6 => GSO_TCPV6,
                Kind::Udp => GSO_UDP_L4,
            };
            (kind, aggregate.size, aggregate.headers)
        });
        let mut bytes = [0; LENGTH];
        bytes[0] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = kind;
        for (place, word) in
            bytes[2..].chunks_exact_mut(2).zip([headers, size, checksum.start, checksum.offset])
        {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let checksum = Some(Checksum { start: 20, offset: 16 });
        for kind in [Kind::TcpV4, Kind::TcpV6, Kind::Udp] {
            let aggregate = Some(Aggregate { kind, size: 1400, headers: 52 });
            let offload = Offload { checksum, aggregate };
            assert_eq!(Offload::read(offload.write()), Some(offload));
        }
        let plain = Offload::default();
        assert_eq!((plain.write(), Offload::read(plain.write())), ([0; LENGTH], Some(plain)));
    }

    #[test]
    fn the_bit_of_ecn_is_no_kind_and_others_are_not_asked_for() {
        let aggregate = Some(Aggregate { kind: Kind::TcpV4, size: 1400, headers: 52 });
        let mut bytes = Offload { checksum: None, aggregate }.write();
        bytes[1] |= GSO_ECN;
        assert_eq!(Offload::read(bytes), Some(Offload { checksum: None, aggregate }));
        for kind in [2, 3, 6, 0x7f] {
            bytes[1] = kind;
            assert_eq!(Offload::read(bytes), None, "kind {kind}");
        }
    }
}
