//! Packets that are not good, or not for the fast path.

use ovl_common::wire::{Ethernet, IcmpEcho, Ipv4, Ipv6, Udp, Vxlan};
use ovl_common::{Mac, Reason};

use super::{Frame, POD_PORT};
use crate::packet::{IP, inner_ip};

/// How a good packet becomes one that the path must leave alone.
pub type Change = fn(&mut Frame);

const INNER_IP: usize = inner_ip::<Ipv4>();

/// Packets of a pod that go to the kernel untouched, with the reason, made from [`from_pod_frame`].
pub fn left_to_the_kernel_from_pod() -> Vec<(&'static str, Change, Reason)> {
    vec![
        ("arp", |f| f.change::<Ethernet>(0, |e| e.ethertype = [8, 6]), Reason::NotIp),
        ("vlan", |f| f.tagged = true, Reason::Vlan),
        ("not ipv6", |f| f.change::<Ethernet>(0, |e| e.ethertype = [0x86, 0xdd]), Reason::BadHeader),
        ("empty", |f| f.bytes.truncate(14), Reason::Short),
        ("half a header", |f| f.bytes.truncate(30), Reason::Short),
        ("version 6", |f| f.change::<Ipv4>(IP, |i| i.version_and_length = 0x65), Reason::BadHeader),
        ("header of 16", |f| f.change::<Ipv4>(IP, |i| i.version_and_length = 0x44), Reason::BadHeader),
        ("options", |f| f.change::<Ipv4>(IP, |i| i.version_and_length = 0x46), Reason::Options),
        ("first fragment", |f| f.change::<Ipv4>(IP, |i| i.fragment = [0x20, 0]), Reason::Fragment),
        ("last fragment", |f| f.change::<Ipv4>(IP, |i| i.fragment = [0, 9]), Reason::Fragment),
        ("ttl 1", |f| f.change::<Ipv4>(IP, |i| i.ttl = 1), Reason::Ttl),
        ("ttl 0", |f| f.change::<Ipv4>(IP, |i| i.ttl = 0), Reason::Ttl),
        ("sctp", |f| f.change::<Ipv4>(IP, |i| i.protocol = 132), Reason::Protocol),
        ("longer than said", |f| f.bytes.push(0), Reason::BadLength),
        ("shorter than said", |f| f.bytes.truncate(100), Reason::BadLength),
        ("length 0", |f| f.change::<Ipv4>(IP, |i| i.total_length = [0; 2]), Reason::BadLength),
        ("elsewhere", |f| f.change::<Ipv4>(IP, |i| i.destination = [8, 8, 8, 8]), Reason::NotOverlay),
        ("group", |f| f.change::<Ipv4>(IP, |i| i.destination = [224, 0, 0, 1]), Reason::NotOverlay),
        ("borrowed source", |f| f.change::<Ipv4>(IP, |i| i.source = [10, 42, 3, 9]), Reason::UnknownSource),
        ("borrowed mac", |f| f.change::<Ethernet>(0, |e| e.source = Mac([2; 6])), Reason::UnknownSource),
        (
            "to a neighbour",
            |f| f.change::<Ethernet>(0, |e| e.destination = Mac([2; 6])),
            Reason::NotToGateway,
        ),
        ("other port", |f| f.ifindex = POD_PORT + 1, Reason::MovedSource),
        ("no room", |f| f.rigid = true, Reason::NoRoom),
    ]
}

/// The same of IPv6, made from [`from_pod_frame_of`].
pub fn left_to_the_kernel_from_pod6() -> Vec<(&'static str, Change, Reason)> {
    let mut rows = extension_headers(IP);
    rows.extend::<Vec<(&'static str, Change, Reason)>>(vec![
        ("half a header", |f| f.bytes.truncate(50), Reason::Short),
        ("version 4", |f| f.change::<Ipv6>(IP, |i| i.version_class_label[0] = 0x45), Reason::BadHeader),
        ("ipv4 in ipv6", |f| f.change::<Ipv6>(IP, |i| i.source = MAPPED), Reason::BadHeader),
        ("to ipv4 in ipv6", |f| f.change::<Ipv6>(IP, |i| i.destination = MAPPED), Reason::BadHeader),
        ("hop limit 1", |f| f.change::<Ipv6>(IP, |i| i.hop_limit = 1), Reason::Ttl),
        ("hop limit 0", |f| f.change::<Ipv6>(IP, |i| i.hop_limit = 0), Reason::Ttl),
        ("neighbour solicitation", |f| icmp(f, IP, 135, 0), Reason::Protocol),
        ("packet too big", |f| icmp(f, IP, 2, 0), Reason::Protocol),
        ("longer than said", |f| f.bytes.push(0), Reason::BadLength),
        ("shorter than said", |f| f.bytes.truncate(100), Reason::BadLength),
        ("jumbogram", |f| f.change::<Ipv6>(IP, |i| i.payload_length = [0; 2]), Reason::BadLength),
        ("group", |f| f.change::<Ipv6>(IP, |i| i.destination[0] = 0xff), Reason::NotOverlay),
        (
            "link-local",
            |f| f.change::<Ipv6>(IP, |i| i.destination[..2].copy_from_slice(&[0xfe, 0x80])),
            Reason::NotOverlay,
        ),
        ("borrowed source", |f| f.change::<Ipv6>(IP, |i| i.source[15] = 9), Reason::UnknownSource),
        ("other port", |f| f.ifindex = POD_PORT + 1, Reason::MovedSource),
        ("no room", |f| f.rigid = true, Reason::NoRoom),
    ]);
    rows
}

/// `::ffff:10.42.7.2`: the row of the peer's IPv4 subnet.
const MAPPED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 42, 7, 2];

fn icmp(frame: &mut Frame, ip: usize, kind: u8, code: u8) {
    frame.change::<Ipv6>(ip, |header| header.next_header = 58);
    frame.change::<IcmpEcho>(ip + 40, |echo| (echo.kind, echo.code) = (kind, code));
}

fn extension_headers(ip: usize) -> Vec<(&'static str, Change, Reason)> {
    if ip == IP {
        vec![
            ("hop-by-hop", |f| f.change::<Ipv6>(IP, |i| i.next_header = 0), Reason::Options),
            ("routing", |f| f.change::<Ipv6>(IP, |i| i.next_header = 43), Reason::Options),
            ("fragment", |f| f.change::<Ipv6>(IP, |i| i.next_header = 44), Reason::Fragment),
            ("esp", |f| f.change::<Ipv6>(IP, |i| i.next_header = 50), Reason::Protocol),
            ("destination options", |f| f.change::<Ipv6>(IP, |i| i.next_header = 60), Reason::Options),
            ("nothing", |f| f.change::<Ipv6>(IP, |i| i.next_header = 59), Reason::Protocol),
        ]
    } else {
        vec![
            ("inner hop-by-hop", |f| f.change::<Ipv6>(INNER_IP6, |i| i.next_header = 0), Reason::Options),
            ("inner fragment", |f| f.change::<Ipv6>(INNER_IP6, |i| i.next_header = 44), Reason::Fragment),
            ("inner solicitation", |f| icmp(f, INNER_IP6, 135, 0), Reason::Protocol),
        ]
    }
}

const INNER_IP6: usize = inner_ip::<Ipv6>();

/// Packets on an IPv6 underlay with an IPv6 packet inside that go to the kernel untouched.
pub fn left_to_the_kernel_from_wire6() -> Vec<(&'static str, Change, Reason)> {
    let mut rows = extension_headers(INNER_IP6);
    rows.extend::<Vec<(&'static str, Change, Reason)>>(vec![
        ("outer fragment", |f| f.change::<Ipv6>(IP, |i| i.next_header = 44), Reason::NotTunnel),
        ("outer options", |f| f.change::<Ipv6>(IP, |i| i.next_header = 60), Reason::NotTunnel),
        ("outer length", |f| f.change::<Ipv6>(IP, |i| i.payload_length = [0, 99]), Reason::BadLength),
        ("outer version", |f| f.change::<Ipv6>(IP, |i| i.version_class_label[0] = 0x40), Reason::BadHeader),
        ("another address", |f| f.change::<Ipv6>(IP, |i| i.destination[15] = 99), Reason::NotTunnel),
        ("another port", |f| f.change::<Udp>(IP + 40, |u| u.destination = [0, 53]), Reason::NotTunnel),
        ("inner hop limit", |f| f.change::<Ipv6>(INNER_IP6, |i| i.hop_limit = 1), Reason::Ttl),
        ("unknown pod", |f| f.change::<Ipv6>(INNER_IP6, |i| i.destination[15] = 99), Reason::UnknownPod),
        ("inner ipv4 in ipv6", |f| f.change::<Ipv6>(INNER_IP6, |i| i.source = MAPPED), Reason::BadHeader),
        ("a client of a pod", |f| f.change::<Ipv6>(INNER_IP6, |i| i.source[0] = 0x20), Reason::ForeignSource),
        (
            "congestion it can't mark",
            |f| f.change::<Ipv6>(IP, |i| i.version_class_label[1] |= 0x30),
            Reason::Ecn,
        ),
        ("no room", |f| f.rigid = true, Reason::NoRoom),
    ]);
    rows
}

/// Packets on the underlay that are dropped while sources are checked, made from [`from_wire_frame`], with the reason,
/// and whether that takes the strict check.
pub fn dropped_from_wire() -> Vec<(&'static str, Change, Reason, bool)> {
    vec![
        ("unknown node", |f| outer(f, |i| i.source = [192, 0, 2, 99]), Reason::UnknownNode, false),
        (
            "unknown node, fragment inside",
            |f| {
                outer(f, |i| i.source = [192, 0, 2, 99]);
                f.change::<Ipv4>(INNER_IP, |i| i.fragment = [0x20, 0]);
            },
            Reason::UnknownNode,
            false,
        ),
        (
            "unknown node, arp inside",
            |f| {
                outer(f, |i| i.source = [192, 0, 2, 99]);
                f.change::<Ethernet>(INNER, |e| e.ethertype = [8, 6]);
            },
            Reason::UnknownNode,
            false,
        ),
        (
            "unknown node, gbp",
            |f| {
                outer(f, |i| i.source = [192, 0, 2, 99]);
                f.change::<Vxlan>(VXLAN, |v| v.flags[0] = 0x88);
            },
            Reason::UnknownNode,
            false,
        ),
        ("another node's pod", |f| outer(f, |i| i.source = [192, 0, 2, 13]), Reason::WrongNode, false),
        (
            "a client of a pod",
            |f| f.change::<Ipv4>(INNER_IP, |i| i.source = [8, 8, 8, 8]),
            Reason::ForeignSource,
            true,
        ),
        (
            "our own pod",
            |f| f.change::<Ipv4>(INNER_IP, |i| i.source = [10, 42, 3, 2]),
            Reason::ForeignSource,
            true,
        ),
    ]
}

const UDP: usize = IP + 20;
const VXLAN: usize = IP + 28;
const INNER: usize = IP + 36;

/// Changes the outer IP header and makes its checksum right again.
pub fn outer(frame: &mut Frame, change: impl FnOnce(&mut Ipv4)) {
    frame.change::<Ipv4>(IP, |ip| {
        change(ip);
        ip.checksum = ip.computed_checksum();
    });
}

/// Packets on the underlay that go to the kernel untouched, with the reason, made from [`from_wire_frame`].
pub fn left_to_the_kernel_from_wire() -> Vec<(&'static str, Change, Reason)> {
    vec![
        ("arp", |f| f.change::<Ethernet>(0, |e| e.ethertype = [8, 6]), Reason::NotIp),
        ("vlan", |f| f.tagged = true, Reason::Vlan),
        ("another host's", |f| f.to_this_host = false, Reason::NotForUs),
        ("empty", |f| f.bytes.truncate(20), Reason::Short),
        ("no vxlan header", |f| f.bytes.truncate(IP + 30), Reason::Short),
        ("another address", |f| outer(f, |i| i.destination = [192, 0, 2, 99]), Reason::NotTunnel),
        ("not udp", |f| outer(f, |i| i.protocol = 6), Reason::NotTunnel),
        ("another port", |f| f.change::<Udp>(UDP, |u| u.destination = [0, 53]), Reason::NotTunnel),
        ("outer options", |f| outer(f, |i| i.version_and_length = 0x46), Reason::Options),
        ("outer fragment", |f| outer(f, |i| i.fragment = [0x20, 0]), Reason::Fragment),
        ("outer checksum", |f| f.change::<Ipv4>(IP, |i| i.checksum = [1, 2]), Reason::BadHeader),
        ("outer length", |f| outer(f, |i| i.total_length = [0, 100]), Reason::BadLength),
        ("udp length", |f| f.change::<Udp>(UDP, |u| u.length = [0, 9]), Reason::BadLength),
        ("udp length 0", |f| f.change::<Udp>(UDP, |u| u.length = [0; 2]), Reason::BadLength),
        ("no vni bit", |f| f.change::<Vxlan>(VXLAN, |v| v.flags[0] = 0), Reason::TunnelFlags),
        ("gbp bit", |f| f.change::<Vxlan>(VXLAN, |v| v.flags[0] = 0x88), Reason::TunnelFlags),
        ("reserved bits", |f| f.change::<Vxlan>(VXLAN, |v| v.flags[2] = 1), Reason::TunnelFlags),
        ("last reserved byte", |f| f.change::<Vxlan>(VXLAN, |v| v.vni[3] = 1), Reason::TunnelFlags),
        ("another vni", |f| f.change::<Vxlan>(VXLAN, |v| v.vni = [0, 0, 2, 0]), Reason::OtherVni),
        ("inner mac", |f| f.change::<Ethernet>(INNER, |e| e.destination = Mac([2; 6])), Reason::InnerMac),
        ("inner group", |f| f.change::<Ethernet>(INNER, |e| e.destination = Mac([255; 6])), Reason::InnerMac),
        ("inner arp", |f| f.change::<Ethernet>(INNER, |e| e.ethertype = [8, 6]), Reason::NotIp),
        ("inner options", |f| f.change::<Ipv4>(INNER_IP, |i| i.version_and_length = 0x4f), Reason::Options),
        ("inner length", |f| f.change::<Ipv4>(INNER_IP, |i| i.total_length = [0, 40]), Reason::BadLength),
        ("inner fragment", |f| f.change::<Ipv4>(INNER_IP, |i| i.fragment = [0, 1]), Reason::Fragment),
        ("inner ttl", |f| f.change::<Ipv4>(INNER_IP, |i| i.ttl = 1), Reason::Ttl),
        (
            "a client of a pod",
            |f| f.change::<Ipv4>(INNER_IP, |i| i.source = [8, 8, 8, 8]),
            Reason::ForeignSource,
        ),
        (
            "unknown pod",
            |f| f.change::<Ipv4>(INNER_IP, |i| i.destination = [10, 42, 3, 9]),
            Reason::UnknownPod,
        ),
        ("congestion it can't mark", |f| outer(f, |i| i.tos = 0b11), Reason::Ecn),
        ("no room", |f| f.rigid = true, Reason::NoRoom),
    ]
}
