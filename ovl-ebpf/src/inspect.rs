//! The IP packet that might take the fast path: what must hold of it, and what the path needs to know.

use ovl_common::wire::{IcmpEcho, TCP, Tcp, UDP, Udp};
use ovl_common::{Config, IpKey, Reason};

use crate::ip::IpHeader;
use crate::packet::{Bytes, Packet};

/// Bytes behind an IP header that [`inspect`] may read.
pub const TRANSPORT: usize = size_of::<Tcp>();
/// What stands for the port of who answers echoes; the identifier stands for that of who asks.
const ECHO: [u8; 2] = [0; 2];

/// An IP packet that may take the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Sender.
    pub source: IpKey,
    /// Receiver.
    pub destination: IpKey,
    /// IP protocol number.
    pub protocol: u8,
    /// Port of the sender, network byte order.
    pub source_port: [u8; 2],
    /// Port of the receiver, network byte order.
    pub destination_port: [u8; 2],
    /// Flags of TCP; 0 of anything else.
    pub tcp_flags: u8,
    /// Whether the transport checksum covers the packet, so that the packet's own sum is known without reading it.
    pub has_checksum: bool,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload in bytes, all segments together.
    pub length: usize,
    /// The same of the largest packet that will be on the wire.
    pub wire_length: usize,
}

/// What a packet does to its connection. All but the last are conntrack's to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begins it, or breaks it off: TCP with SYN or RST. What was known of the flow is void.
    Break,
    /// Accepts it: TCP with SYN and ACK.
    Accept,
    /// Ends it: TCP with FIN.
    Close,
    /// Goes on with it.
    Go,
}

impl Inner {
    /// What it does to its connection.
    #[inline(always)]
    pub fn step(&self) -> Step {
        const CHANGES: u8 = Tcp::SYN | Tcp::FIN | Tcp::RST;
        match self.tcp_flags & CHANGES {
            0 => Step::Go,
            Tcp::FIN => Step::Close,
            Tcp::SYN if self.tcp_flags & Tcp::ACK != 0 => Step::Accept,
            _ => Step::Break,
        }
    }
}

/// What may follow the IP packet in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// Nothing.
    None,
    /// Padding, as drivers add to short frames; whoever receives the packet cuts it off by the length field.
    Padding,
}

/// The part of an [`Inner`] that is behind the IP header.
struct Transport {
    header: usize,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    tcp_flags: u8,
    has_checksum: bool,
}

/// Reads the IP packet at `offset`.
#[inline(always)]
pub fn inspect<I: IpHeader, P: Bytes>(
    packet: &P,
    config: &Config,
    offset: usize,
    trailer: Trailer,
) -> Result<Inner, Reason> {
    let ip: &I = packet.at(offset)?;
    ip.check_fixed_part()?;
    let length = ip.length();
    let available = packet.length().wrapping_sub(offset);
    let fits = match trailer {
        Trailer::None => length == available,
        Trailer::Padding => length <= available,
    };
    if !fits || length < I::LENGTH {
        return Err(Reason::BadLength);
    }
    if ip.hop_limit() <= 1 {
        return Err(Reason::Ttl);
    }
    let payload = length - I::LENGTH;
    let transport = transport::<I, P>(packet, config, ip.protocol(), offset + I::LENGTH, payload)?;
    if payload < transport.header {
        return Err(Reason::BadLength);
    }
    let wire_length = match packet.segment_size() {
        None => length,
        Some(size) => I::LENGTH + transport.header + size,
    };
    Ok(Inner {
        source: ip.source(),
        destination: ip.destination(),
        protocol: ip.protocol(),
        source_port: transport.source_port,
        destination_port: transport.destination_port,
        tcp_flags: transport.tcp_flags,
        has_checksum: transport.has_checksum,
        tos: ip.tos(),
        length,
        wire_length,
    })
}

/// Not on a VLAN of the link.
#[inline(always)]
pub fn check_link_layer<P: Packet>(packet: &P) -> Result<(), Reason> {
    if packet.is_tagged() { Err(Reason::Vlan) } else { Ok(()) }
}

#[inline(always)]
fn transport<I: IpHeader, P: Bytes>(
    packet: &P,
    config: &Config,
    protocol: u8,
    offset: usize,
    length: usize,
) -> Result<Transport, Reason> {
    if protocol == TCP {
        tcp(packet.at(offset)?, config)
    } else if protocol == UDP {
        Ok(udp::<I>(packet.at(offset)?, length))
    } else if protocol == I::ICMP {
        echo::<I>(packet.at(offset)?)
    } else {
        Err(Reason::Protocol)
    }
}

#[inline(always)]
fn tcp(tcp: &Tcp, config: &Config) -> Result<Transport, Reason> {
    if config.carry_tcp == 0 {
        return Err(Reason::StrictConntrack);
    }
    let header = usize::from(tcp.data_offset >> 4) * 4;
    if header < size_of::<Tcp>() {
        return Err(Reason::BadHeader);
    }
    Ok(Transport {
        header,
        source_port: tcp.source,
        destination_port: tcp.destination,
        tcp_flags: tcp.flags,
        has_checksum: true,
    })
}

/// The checksum ends with the datagram, which may be shorter than the IP packet around it.
#[inline(always)]
fn udp<I: IpHeader>(udp: &Udp, length: usize) -> Transport {
    let is_whole = usize::from(u16::from_be_bytes(udp.length)) == length;
    Transport {
        header: size_of::<Udp>(),
        source_port: udp.source,
        destination_port: udp.destination,
        tcp_flags: 0,
        has_checksum: is_whole && (!I::UDP_CHECKSUM_OPTIONAL || udp.checksum != [0; 2]),
    }
}

/// An echo or its answer. To netfilter it is a flow of its own who asks: so the identifier is the port of the side that
/// does. One of zero could be either.
#[inline(always)]
fn echo<I: IpHeader>(echo: &IcmpEcho) -> Result<Transport, Reason> {
    let (request, reply) = I::ECHO;
    if echo.code != 0 || echo.id == ECHO {
        return Err(Reason::Protocol);
    }
    let (source_port, destination_port) = if echo.kind == request {
        (echo.id, ECHO)
    } else if echo.kind == reply {
        (ECHO, echo.id)
    } else {
        return Err(Reason::Protocol);
    };
    Ok(Transport {
        header: size_of::<IcmpEcho>(),
        source_port,
        destination_port,
        tcp_flags: 0,
        has_checksum: true,
    })
}
