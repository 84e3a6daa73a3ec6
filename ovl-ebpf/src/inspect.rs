//! The IP packet that might take the fast path: what must hold of it, and what the path needs to know.

use ovl_common::wire::{ETHERTYPE_IPV4, ICMP, IcmpEcho, Ipv4, TCP, Tcp, UDP};
use ovl_common::{Config, IpKey, Reason};

use crate::packet::Packet;

/// Bits of [`Ipv4::fragment`] that make a packet a fragment: MF and the offset, not DF.
const IS_FRAGMENT: u16 = 0x3fff;
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// An IP packet that may take the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Sender.
    pub source: IpKey,
    /// Receiver.
    pub destination: IpKey,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload in bytes, all segments together.
    pub length: usize,
    /// The same of the largest packet that will be on the wire.
    pub wire_length: usize,
}

/// What may follow the IP packet in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// Nothing.
    None,
    /// Padding, as drivers add to short frames; whoever receives the packet cuts it off by the length field.
    Padding,
}

/// Reads the IPv4 packet at `offset`.
#[inline(always)]
pub fn inspect<P: Packet>(
    packet: &P,
    config: &Config,
    offset: usize,
    trailer: Trailer,
) -> Result<Inner, Reason> {
    let ip: &Ipv4 = packet.at(offset)?;
    check_fixed_part(ip)?;
    let length = usize::from(u16::from_be_bytes(ip.total_length));
    let available = packet.length().wrapping_sub(offset);
    let fits = match trailer {
        Trailer::None => length == available,
        Trailer::Padding => length <= available,
    };
    if !fits || length < IPV4_HEADER {
        return Err(Reason::BadLength);
    }
    if ip.ttl <= 1 {
        return Err(Reason::Ttl);
    }
    let transport_header = transport(packet, config, ip.protocol, offset + IPV4_HEADER)?;
    if length < IPV4_HEADER + transport_header {
        return Err(Reason::BadLength);
    }
    let wire_length = match packet.segment_size() {
        None => length,
        Some(size) => IPV4_HEADER + transport_header + size,
    };
    Ok(Inner {
        source: IpKey::from_ipv4_octets(ip.source),
        destination: IpKey::from_ipv4_octets(ip.destination),
        tos: ip.tos,
        length,
        wire_length,
    })
}

/// An IPv4 packet on the link itself, not on a VLAN of it.
#[inline(always)]
pub fn check_link_layer<P: Packet>(packet: &P) -> Result<(), Reason> {
    if packet.ethertype() != ETHERTYPE_IPV4 {
        return Err(Reason::NotIp);
    }
    if packet.is_tagged() { Err(Reason::Vlan) } else { Ok(()) }
}

/// Version, header length and fragmentation: what must hold before any other field may be trusted.
#[inline(always)]
pub fn check_fixed_part(ip: &Ipv4) -> Result<(), Reason> {
    match ip.version_and_length {
        0x45 => {}
        0x46..=0x4f => return Err(Reason::Options),
        _ => return Err(Reason::BadHeader),
    }
    if u16::from_be_bytes(ip.fragment) & IS_FRAGMENT != 0 {
        return Err(Reason::Fragment);
    }
    Ok(())
}

/// Length of the transport header, where the packet is one of a connection or exchange that is under way.
#[inline(always)]
fn transport<P: Packet>(packet: &P, config: &Config, protocol: u8, offset: usize) -> Result<usize, Reason> {
    match protocol {
        TCP if config.carry_tcp == 0 => Err(Reason::StrictConntrack),
        TCP => {
            let tcp: &Tcp = packet.at(offset)?;
            if tcp.flags & Tcp::STATE_FLAGS != 0 {
                return Err(Reason::TcpFlags);
            }
            let header = usize::from(tcp.data_offset >> 4) * 4;
            if header < size_of::<Tcp>() { Err(Reason::BadHeader) } else { Ok(header) }
        }
        UDP => Ok(UDP_HEADER),
        ICMP => {
            let echo: &IcmpEcho = packet.at(offset)?;
            let is_echo = (echo.kind == 8 || echo.kind == 0) && echo.code == 0;
            if is_echo { Ok(size_of::<IcmpEcho>()) } else { Err(Reason::Protocol) }
        }
        _ => Err(Reason::Protocol),
    }
}
