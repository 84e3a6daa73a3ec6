//! Good packets.

use std::net::IpAddr;

use bytemuck::Zeroable as _;
use ovl_common::wire::{Ethernet, IPIP, IPV6_IN_IP, Ipv4, Ipv6, TunnelHeaders, UDP, Udp, Vxlan, fold, sum};
use ovl_common::{IpKey, Mac};

use super::{
    Frame, GATEWAY, NODE, NODE6, PEER_NODE, PEER_NODE6, PEER_POD, PEER_POD6, PEER_VTEP, POD, POD_MAC,
    POD_PORT, POD6, UNDERLAY, UNDERLAY_MAC, VTEP,
};
use crate::ip::{Family, IpHeader, Outer, pseudo_header};
use crate::ipip::Ipip;
use crate::packet::IP;

/// An Ethernet frame around a UDP packet with `payload` bytes, with all its checksums.
///
/// # Panics
/// Where that is more than a UDP packet can hold, or where the addresses are of two families.
pub fn udp(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    macs: (Mac, Mac),
    payload: usize,
) -> Vec<u8> {
    let payload: Vec<u8> = (0..=u8::MAX).cycle().take(payload).collect();
    let (source, destination) = (source.into(), destination.into());
    let ports = Udp { source: [0x30, 0x39], destination: [0, 53], length: [0; 2], checksum: [0; 2] };
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            frame::<Ipv4>(source.into(), destination.into(), macs, ports, &payload)
        }
        (IpAddr::V6(_), IpAddr::V6(_)) => {
            frame::<Ipv6>(source.into(), destination.into(), macs, ports, &payload)
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

fn frame<I: IpHeader>(
    source: IpKey,
    destination: IpKey,
    macs: (Mac, Mac),
    mut udp: Udp,
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = Ethernet { source: macs.0, destination: macs.1, ethertype: I::ETHERTYPE };
    let length = u16::try_from(size_of::<Udp>() + payload.len()).expect("fits");
    let mut ip = I::zeroed();
    let fields = Outer {
        source: &source,
        destination: &destination,
        protocol: UDP,
        may_be_cut: true,
        tos: 0,
        hop_limit: 64,
        payload: length,
        id: 0x1234,
    };
    ip.write_outer(&fields);
    udp.length = length.to_be_bytes();
    let (_, addresses) = ip.sums();
    udp.checksum =
        checksum(pseudo_header(addresses, UDP, length.into()), &[bytemuck::bytes_of(&udp), payload]);
    [bytemuck::bytes_of(&ethernet), bytemuck::bytes_of(&ip), bytemuck::bytes_of(&udp), payload].concat()
}

/// The Internet checksum over parts of even length but the last.
fn checksum(start: u16, parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| sum(&[pair[0], pair.get(1).copied().unwrap_or(0)]));
    (!fold(u32::from(fold(words.sum::<u32>())) + u32::from(start))).to_be_bytes()
}

/// Whether the UDP checksum of the packet behind `offset` of a frame is right.
pub fn is_udp_intact<I: IpHeader>(frame: &Frame, offset: usize) -> bool {
    let ip: I = frame.read(offset);
    let segment = &frame.bytes[offset + I::LENGTH..];
    let (_, addresses) = ip.sums();
    checksum(pseudo_header(addresses, UDP, segment.len()), &[segment]) == [0; 2]
}

/// What the pod sends to its peer.
pub fn from_pod_frame() -> Frame {
    from_pod_frame_of(Family::V4)
}

/// The same of one family.
pub fn from_pod_frame_of(inner: Family) -> Frame {
    let bytes = match inner {
        Family::V4 => udp(POD, PEER_POD, (POD_MAC, GATEWAY), 100),
        Family::V6 => udp(POD6, PEER_POD6, (POD_MAC, GATEWAY), 100),
    };
    Frame::new(POD_PORT, bytes)
}

/// What the kernel delivers to the pod.
pub fn to_pod_frame_of(inner: Family) -> Frame {
    let bytes = match inner {
        Family::V4 => udp(PEER_POD, POD, (GATEWAY, POD_MAC), 100),
        Family::V6 => udp(PEER_POD6, POD6, (GATEWAY, POD_MAC), 100),
    };
    swapped_ports(Frame::new(POD_PORT, bytes), inner)
}

/// The peer's answer in its tunnel.
pub fn from_wire_frame() -> Frame {
    from_wire_frame_of(Family::V4, Family::V4)
}

/// The same with so many bytes of payload.
pub fn from_wire_frame_with(payload: usize) -> Frame {
    let inner =
        swapped_ports(Frame::new(UNDERLAY, udp(PEER_POD, POD, (PEER_VTEP, VTEP), payload)), Family::V4);
    let bytes = wrapped::<Ipv4>(IpAddr::from(PEER_NODE).into(), IpAddr::from(NODE).into(), &inner.bytes);
    Frame::new(UNDERLAY, bytes)
}

/// The same of these families.
pub fn from_wire_frame_of(inner: Family, outer: Family) -> Frame {
    let bytes = match inner {
        Family::V4 => udp(PEER_POD, POD, (PEER_VTEP, VTEP), 100),
        Family::V6 => udp(PEER_POD6, POD6, (PEER_VTEP, VTEP), 100),
    };
    let inner = swapped_ports(Frame::new(UNDERLAY, bytes), inner).bytes;
    let bytes = match outer {
        Family::V4 => wrapped::<Ipv4>(IpAddr::from(PEER_NODE).into(), IpAddr::from(NODE).into(), &inner),
        Family::V6 => wrapped::<Ipv6>(IpAddr::from(PEER_NODE6).into(), IpAddr::from(NODE6).into(), &inner),
    };
    Frame::new(UNDERLAY, bytes)
}

/// The answer comes from the port that was asked.
fn swapped_ports(mut frame: Frame, family: Family) -> Frame {
    let offset = 14 + if family == Family::V4 { 20 } else { 40 };
    frame.change::<Udp>(offset, |udp| std::mem::swap(&mut udp.source, &mut udp.destination));
    frame
}

fn wrapped<O: IpHeader>(source: IpKey, destination: IpKey, inner: &[u8]) -> Vec<u8> {
    let ethernet = Ethernet { source: Mac([2; 6]), destination: UNDERLAY_MAC, ethertype: O::ETHERTYPE };
    let payload = u16::try_from(16 + inner.len()).expect("fits");
    let mut ip = O::zeroed();
    ip.write_outer(&outer(&source, &destination, UDP, payload));
    let mut tunnel = TunnelHeaders::zeroed();
    tunnel.udp = Udp {
        source: [0xc0, 0],
        destination: 8472u16.to_be_bytes(),
        length: payload.to_be_bytes(),
        checksum: [0; 2],
    };
    tunnel.vxlan = Vxlan::new(1);
    [bytemuck::bytes_of(&ethernet), bytemuck::bytes_of(&ip), &bytemuck::bytes_of(&tunnel)[..16], inner]
        .concat()
}

fn outer<'a>(source: &'a IpKey, destination: &'a IpKey, protocol: u8, payload: u16) -> Outer<'a> {
    Outer { source, destination, protocol, may_be_cut: true, tos: 0, hop_limit: 64, payload, id: 0xabcd }
}

/// What the pod sends to its peer in a network with IP in IP.
pub fn ipip_from_pod_frame_of(inner: Family) -> Frame<Ipip> {
    Frame::of(POD_PORT, from_pod_frame_of(inner).bytes)
}

/// The peer's answer in IP. IPv6 does not travel in IPv4.
pub fn ipip_from_wire_frame_of(inner: Family, outer: Family) -> Frame<Ipip> {
    let packet = &to_pod_frame_of(inner).bytes[IP..];
    let protocol = if inner == Family::V4 { IPIP } else { IPV6_IN_IP };
    let bytes = match outer {
        Family::V4 => {
            in_ip::<Ipv4>(IpAddr::from(PEER_NODE).into(), IpAddr::from(NODE).into(), protocol, packet)
        }
        Family::V6 => {
            in_ip::<Ipv6>(IpAddr::from(PEER_NODE6).into(), IpAddr::from(NODE6).into(), protocol, packet)
        }
    };
    Frame::of(UNDERLAY, bytes)
}

fn in_ip<O: IpHeader>(source: IpKey, destination: IpKey, protocol: u8, packet: &[u8]) -> Vec<u8> {
    let ethernet = Ethernet { source: Mac([2; 6]), destination: UNDERLAY_MAC, ethertype: O::ETHERTYPE };
    let mut ip = O::zeroed();
    ip.write_outer(&outer(&source, &destination, protocol, u16::try_from(packet.len()).expect("fits")));
    [bytemuck::bytes_of(&ethernet), bytemuck::bytes_of(&ip), packet].concat()
}
