use std::net::IpAddr;

use ovl_common::wire::{TunnelHeaders, Udp, Vxlan};

use super::*;
use crate::ip::Family;
use crate::packet::inner_ip;
use crate::testing::{
    Frame, GATEWAY, NODE, NODE6, PEER_NODE, PEER_NODE6, PEER_POD, PEER_VTEP, POD, POD_MAC, POD_PORT,
    UNDERLAY, VTEP, config, endpoint, from_pod_frame, from_pod_frame_of, is_udp_intact,
    left_to_the_kernel_from_pod, left_to_the_kernel_from_pod6, tables, tables_over, udp,
};

const SENT: Verdict<'static> = Verdict::Send { ifindex: UNDERLAY, next_hop: None };

/// Every field of a packet wrapped for the peer, but its outer header's own.
fn wrapped<I: IpHeader, O: IpHeader>(
    mut frame: Frame,
    tables: &crate::testing::Mem,
) -> (Frame, TunnelHeaders) {
    let before = frame.clone();
    assert_eq!(from_pod(&mut frame, tables), SENT);
    let tunnel: TunnelHeaders = frame.read(IP + O::LENGTH);
    assert_eq!(usize::from(u16::from_be_bytes(tunnel.udp.length)), frame.bytes.len() - IP - O::LENGTH);
    assert_eq!(tunnel.udp.destination, 8472u16.to_be_bytes());
    assert_eq!(tunnel.vxlan, Vxlan::new(1));
    let ethernet = Ethernet { source: VTEP, destination: PEER_VTEP, ethertype: I::ETHERTYPE };
    assert_eq!(tunnel.ethernet, ethernet);
    let outer: O = frame.read(IP);
    assert_eq!((outer.hop_limit(), outer.tos(), outer.protocol()), (64, 0, 17));
    assert_eq!((outer.length(), outer.is_intact()), (frame.bytes.len() - IP, true));
    let inner: I = frame.read(inner_ip::<O>());
    assert_eq!((inner.hop_limit(), inner.is_intact()), (63, true));
    assert_eq!(frame.bytes[inner_ip::<O>() + I::LENGTH..], before.bytes[IP + I::LENGTH..], "the payload");
    (frame, tunnel)
}

#[test]
fn a_packet_for_a_tunnelled_peer_is_wrapped_whatever_the_families() {
    let (v4, v6) = (tables_over(Travel::Vxlan, Family::V4), tables_over(Travel::Vxlan, Family::V6));
    for family in [Family::V4, Family::V6] {
        let frame = from_pod_frame_of(family);
        let (outer, udp) = match family {
            Family::V4 => wrapped::<Ipv4, Ipv4>(frame, &v4),
            Family::V6 => wrapped::<Ipv6, Ipv4>(frame, &v4),
        };
        let ip: Ipv4 = outer.read(IP);
        assert_eq!(
            (ip.source, ip.destination, ip.fragment, udp.udp.checksum),
            (NODE, PEER_NODE, [0; 2], [0; 2])
        );

        let frame = from_pod_frame_of(family);
        let (outer, _) = match family {
            Family::V4 => wrapped::<Ipv4, Ipv6>(frame, &v6),
            Family::V6 => wrapped::<Ipv6, Ipv6>(frame, &v6),
        };
        let ip: Ipv6 = outer.read(IP);
        assert_eq!((ip.source, ip.destination), (NODE6, PEER_NODE6));
        assert_eq!(ip.version_class_label, [0x60, 0, 0, 0]);
        assert!(is_udp_intact::<Ipv6>(&outer, IP), "stock peers drop what has no checksum");
    }
}

#[test]
fn a_way_that_is_narrower_than_the_interface_is_the_kernels_over_ipv6() {
    let payload = 1430 - 48;
    for (outer, way, expected) in [
        (Family::V6, 1500, Reason::Forwarded),
        (Family::V6, 1499, Reason::Oversize),
        (Family::V4, 1400, Reason::Forwarded),
    ] {
        let bytes = udp(crate::testing::POD6, crate::testing::PEER_POD6, (POD_MAC, GATEWAY), payload);
        let mut frame = Frame::new(POD_PORT, bytes);
        frame.way = way;
        assert_eq!(
            from_pod(&mut frame, &tables_over(Travel::Vxlan, outer)).reason(),
            expected,
            "{outer:?} {way}"
        );
    }
    // Whatever anybody says, IPv6 carries 1280 bytes.
    let mut frame = from_pod_frame_of(Family::V6);
    frame.way = 0;
    assert_eq!(from_pod(&mut frame, &tables_over(Travel::Vxlan, Family::V6)).reason(), Reason::Forwarded);
}

#[test]
fn a_checksum_that_cannot_be_made_is_the_kernels_unless_the_peer_wants_none() {
    let mut tables = tables_over(Travel::Vxlan, Family::V6);
    let aggregate = || {
        let mut frame = from_pod_frame();
        frame.segment_size = Some(50);
        frame
    };
    let unsummed = || {
        let mut frame = from_pod_frame();
        frame.change::<Udp>(IP + 20, |udp| udp.checksum = [0; 2]);
        frame
    };
    let trailed = || {
        let mut frame = from_pod_frame();
        frame.change::<Udp>(IP + 20, |udp| udp.length[1] -= 1);
        frame
    };
    for mut frame in [aggregate(), unsummed(), trailed()] {
        assert_eq!(from_pod(&mut frame, &tables), Verdict::Pass(Reason::OuterChecksum));
    }
    tables.remotes.iter_mut().for_each(|(_, remote)| remote.zero_checksum = 1);
    for mut frame in [aggregate(), unsummed(), trailed(), from_pod_frame()] {
        assert_eq!(from_pod(&mut frame, &tables), SENT);
        assert_eq!(frame.read::<Udp>(IP + 40).checksum, [0; 2]);
    }
}

#[test]
fn a_packet_for_a_direct_peer_is_routed() {
    for (outer, node) in [(Family::V4, IpAddr::from(PEER_NODE)), (Family::V6, IpAddr::from(PEER_NODE6))] {
        for inner in [Family::V4, Family::V6] {
            let mut frame = from_pod_frame_of(inner);
            let length = frame.bytes.len();
            let tables = tables_over(Travel::Direct, outer);
            let expected = Verdict::Send { ifindex: UNDERLAY, next_hop: Some(&node.into()) };
            assert_eq!(from_pod(&mut frame, &tables), expected);
            assert_eq!(frame.bytes.len(), length);
            match inner {
                Family::V4 => {
                    let ip: Ipv4 = frame.read(IP);
                    assert_eq!((ip.ttl, ip.checksum), (63, ip.computed_checksum()));
                }
                Family::V6 => assert_eq!(frame.read::<Ipv6>(IP).hop_limit, 63),
            }
        }
    }
}

#[test]
fn what_the_kernel_must_see_passes_untouched() {
    for (name, change, reason) in left_to_the_kernel_from_pod() {
        let mut frame = from_pod_frame();
        change(&mut frame);
        let before = frame.bytes.clone();
        assert_eq!(from_pod(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(reason), "{name}");
        assert_eq!(frame.bytes, before, "{name}");
    }
    for (name, change, reason) in left_to_the_kernel_from_pod6() {
        let mut frame = from_pod_frame_of(Family::V6);
        change(&mut frame);
        let before = frame.bytes.clone();
        assert_eq!(from_pod(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(reason), "{name}");
        assert_eq!(frame.bytes, before, "{name}");
    }
}

#[test]
fn a_pod_may_not_borrow_an_address_from_another_node() {
    let (other_node, nested) = ([10, 42, 7, 9], [172, 16, 0, 2]);
    for (source, check, expected) in [
        (other_node, SourceCheck::Off, Verdict::Pass(Reason::WrongNode)),
        (other_node, SourceCheck::Loose, Verdict::Drop(Reason::WrongNode)),
        (other_node, SourceCheck::Strict, Verdict::Drop(Reason::WrongNode)),
        (nested, SourceCheck::Off, Verdict::Pass(Reason::ForeignSource)),
        (nested, SourceCheck::Loose, Verdict::Pass(Reason::ForeignSource)),
        (nested, SourceCheck::Strict, Verdict::Drop(Reason::ForeignSource)),
    ] {
        let mut tables = tables(Travel::Vxlan);
        tables.config = Some(Config { source_check: check as u32, ..config() });
        let mut frame = Frame::new(POD_PORT, udp(source, PEER_POD, (POD_MAC, GATEWAY), 10));
        assert_eq!(from_pod(&mut frame, &tables), expected, "{source:?} {check:?}");
    }
}

#[test]
fn only_connections_under_way_take_the_fast_path() {
    for (flags, fast) in
        [(0x10, true), (0x18, true), (0x02, false), (0x12, false), (0x11, false), (0x04, false)]
    {
        let mut frame = from_pod_frame();
        frame.change::<Ipv4>(IP, |ip| ip.protocol = 6);
        frame.bytes[IP + 20 + 12] = 0x50;
        frame.bytes[IP + 20 + 13] = flags;
        let reason = from_pod(&mut frame.clone(), &tables(Travel::Vxlan)).reason();
        let expected = if fast { Reason::Forwarded } else { Reason::TcpFlags };
        assert_eq!(reason, expected, "flags {flags:#x}");

        let mut tables = tables(Travel::Vxlan);
        tables.config = Some(Config { carry_tcp: 0, ..config() });
        assert_eq!(from_pod(&mut frame, &tables), Verdict::Pass(Reason::StrictConntrack));
    }
}

#[test]
fn only_echoes_of_icmp_take_the_fast_path() {
    for (kind, code, fast) in [(8, 0, true), (0, 0, true), (3, 4, false), (11, 0, false), (8, 1, false)] {
        let mut frame = from_pod_frame();
        frame.change::<Ipv4>(IP, |ip| ip.protocol = 1);
        frame.bytes[IP + 20] = kind;
        frame.bytes[IP + 21] = code;
        // The identifier, which conntrack takes for a port: 0 would be either side's.
        frame.bytes[IP + 25] = 7;
        let expected = if fast { Reason::Forwarded } else { Reason::Protocol };
        assert_eq!(
            from_pod(&mut frame, &tables(Travel::Vxlan)).reason(),
            expected,
            "type {kind} code {code}"
        );
    }
}

#[test]
fn size_is_judged_per_segment() {
    let overlay = 1450 - 28;
    let table = [
        (Travel::Vxlan, overlay, None, Reason::Forwarded),
        (Travel::Vxlan, overlay + 1, None, Reason::Oversize),
        (Travel::Direct, overlay + 50, None, Reason::Forwarded),
        (Travel::Direct, overlay + 51, None, Reason::Oversize),
        (Travel::Vxlan, 20_000, Some(overlay), Reason::Forwarded),
        (Travel::Vxlan, 20_000, Some(overlay + 1), Reason::Oversize),
        (Travel::Vxlan, 65_507 - 50, Some(overlay), Reason::Forwarded),
        (Travel::Vxlan, 65_507 - 49, Some(overlay), Reason::Oversize),
    ];
    for (travel, payload, segment_size, reason) in table {
        let mut frame = Frame::new(POD_PORT, udp(POD, PEER_POD, (POD_MAC, GATEWAY), payload));
        frame.segment_size = segment_size;
        assert_eq!(from_pod(&mut frame, &tables(travel)).reason(), reason, "{payload} {segment_size:?}");
    }
}

#[test]
fn the_agent_decides_whether_anything_is_carried_at_all() {
    let table = [
        (None, 500, Reason::NoConfig),
        (Some(Config { abi: 0, ..config() }), 500, Reason::NoConfig),
        (Some(Config { fast_path: 0, ..config() }), 500, Reason::FastPathOff),
        (Some(config()), 1000, Reason::Forwarded),
        (Some(config()), 1001, Reason::Expired),
    ];
    for (config, now, reason) in table {
        let mut tables = tables(Travel::Vxlan);
        (tables.config, tables.now) = (config, now);
        assert_eq!(from_pod(&mut from_pod_frame(), &tables).reason(), reason);
    }
}

#[test]
fn an_address_seen_on_another_port_is_forgotten() {
    let tables = tables(Travel::Vxlan);
    tables.set_endpoint(POD, ovl_common::Endpoint { ifindex: 99, ..endpoint() });
    assert_eq!(from_pod(&mut from_pod_frame(), &tables), Verdict::Pass(Reason::MovedSource));
    assert_eq!(tables.endpoint_of(POD), None);
    assert_eq!(tables.pod_mac_of(POD_PORT), Some(POD_MAC), "and the sender's MAC is noted");
}

#[test]
fn the_source_port_is_the_flows() {
    let mut frame = from_pod_frame();
    let _sent = from_pod(&mut frame, &tables(Travel::Vxlan));
    // The kernel's formula on the test's hash 0x12345678: (h ^ h << 16) * (60999 - 32768) >> 32, plus 32768.
    assert_eq!(frame.read::<Udp>(IP + 20).source, 40_299u16.to_be_bytes());
}
