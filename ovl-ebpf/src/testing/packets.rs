//! Good packets.

use bytemuck::Zeroable as _;
use ovl_common::Mac;
use ovl_common::wire::{ETHERTYPE_IPV4, Ethernet, Ipv4, Udp, Vxlan, VxlanOverIpv4};

use super::{
    Frame, GATEWAY, NODE, PEER_NODE, PEER_POD, PEER_VTEP, POD, POD_MAC, POD_PORT, UNDERLAY, UNDERLAY_MAC,
    VTEP,
};

/// An Ethernet frame around a UDP packet with `payload` bytes.
///
/// # Panics
/// Where that is more than a UDP packet can hold.
pub fn udp(source: [u8; 4], destination: [u8; 4], macs: (Mac, Mac), payload: usize) -> Vec<u8> {
    let ethernet = Ethernet { source: macs.0, destination: macs.1, ethertype: ETHERTYPE_IPV4 };
    let length = |headers: usize| u16::try_from(headers + payload).expect("fits").to_be_bytes();
    let mut ip = Ipv4 {
        version_and_length: 0x45,
        tos: 0,
        total_length: length(28),
        id: [0x12, 0x34],
        fragment: [0x40, 0],
        ttl: 64,
        protocol: 17,
        checksum: [0; 2],
        source,
        destination,
    };
    ip.checksum = ip.computed_checksum();
    let udp = Udp { source: [0x30, 0x39], destination: [0, 53], length: length(8), checksum: [0; 2] };
    let mut bytes =
        [bytemuck::bytes_of(&ethernet), bytemuck::bytes_of(&ip), bytemuck::bytes_of(&udp)].concat();
    bytes.extend((0..=u8::MAX).cycle().take(payload));
    bytes
}

/// What the pod sends to its peer.
pub fn from_pod_frame() -> Frame {
    Frame::new(POD_PORT, udp(POD, PEER_POD, (POD_MAC, GATEWAY), 100))
}

/// The peer's answer in its tunnel.
///
/// # Panics
/// Never: it is short.
pub fn from_wire_frame() -> Frame {
    let inner = udp(PEER_POD, POD, (PEER_VTEP, VTEP), 100);
    let length = |headers: usize| u16::try_from(headers + inner.len()).expect("fits").to_be_bytes();
    let mut outer = VxlanOverIpv4::zeroed();
    outer.ip = Ipv4 {
        version_and_length: 0x45,
        tos: 0,
        total_length: length(36),
        id: [0xab, 0xcd],
        fragment: [0; 2],
        ttl: 64,
        protocol: 17,
        checksum: [0; 2],
        source: PEER_NODE,
        destination: NODE,
    };
    outer.ip.checksum = outer.ip.computed_checksum();
    outer.udp =
        Udp { source: [0xc0, 0], destination: 8472u16.to_be_bytes(), length: length(16), checksum: [0; 2] };
    outer.vxlan = Vxlan::new(1);
    let ethernet = Ethernet { source: Mac([2; 6]), destination: UNDERLAY_MAC, ethertype: ETHERTYPE_IPV4 };
    let mut bytes = bytemuck::bytes_of(&ethernet).to_vec();
    bytes.extend_from_slice(&bytemuck::bytes_of(&outer)[..36]);
    bytes.extend_from_slice(&inner);
    Frame::new(UNDERLAY, bytes)
}
