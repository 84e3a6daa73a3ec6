use ovl_common::{Config, Mac};

use super::*;
use crate::ip::Family;
use crate::packet::inner_ip;
use crate::testing::{
    Frame, GATEWAY, Mem, PEER_NODE, PEER_POD, PEER_POD6, POD, POD_MAC, POD_PORT, POD6, UNDERLAY,
    UNDERLAY_MAC, config, dropped_from_wire, from_wire_frame, from_wire_frame_of,
    left_to_the_kernel_from_wire, left_to_the_kernel_from_wire6, outer, tables, tables_over, udp,
};

const INNER_IP: usize = inner_ip::<Ipv4>();

fn stripped<I: IpHeader>(mut frame: Frame, tables: &Mem) {
    let before = frame.clone();
    assert_eq!(from_wire(&mut frame, tables), Verdict::Deliver { ifindex: POD_PORT });
    let ethernet: Ethernet = frame.read(0);
    assert_eq!((ethernet.source, ethernet.destination), (GATEWAY, POD_MAC));
    assert_eq!(ethernet.ethertype, I::ETHERTYPE);
    let ip: I = frame.read(IP);
    assert_eq!((ip.hop_limit(), ip.tos(), ip.is_intact()), (63, 0, true));
    assert!(before.bytes.ends_with(&frame.bytes[IP + I::LENGTH..]), "the payload is untouched");
    assert_eq!(frame.bytes.len(), IP + ip.length());
}

#[test]
fn a_tunnel_packet_is_stripped_and_delivered_whatever_the_families() {
    for outer in [Family::V4, Family::V6] {
        let tables = tables_over(Travel::Vxlan, outer);
        stripped::<Ipv4>(from_wire_frame_of(Family::V4, outer), &tables);
        stripped::<Ipv6>(from_wire_frame_of(Family::V6, outer), &tables);
    }
}

#[test]
fn a_plain_packet_is_delivered_padding_and_all() {
    let macs = (Mac([2; 6]), UNDERLAY_MAC);
    for padding in [0, 4] {
        for mut bytes in [udp(PEER_POD, POD, macs, 5), udp(PEER_POD6, POD6, macs, 5)] {
            bytes.resize(bytes.len() + padding, 0);
            let mut frame = Frame::new(UNDERLAY, bytes);
            let verdict = from_wire(&mut frame, &tables(Travel::Direct));
            assert_eq!(verdict, Verdict::Deliver { ifindex: POD_PORT });
            assert_eq!(frame.read::<Ethernet>(0).destination, POD_MAC);
        }
    }
}

#[test]
fn congestion_outside_is_marked_inside() {
    let mut frame = from_wire_frame();
    outer(&mut frame, |ip| ip.tos = 0b11);
    frame.change::<Ipv4>(INNER_IP, |ip| {
        ip.tos = 0b1010_1010;
        ip.checksum = ip.computed_checksum();
    });
    assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)).reason(), Reason::Delivered);
    let ip: Ipv4 = frame.read(IP);
    assert_eq!((ip.tos, ip.checksum), (0b1010_1011, ip.computed_checksum()));
}

#[test]
fn a_devices_sum_over_the_packet_stays_right() {
    let total = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
            .sum()
    };
    for family in [Family::V4, Family::V6] {
        for (tos, inner_tos) in [(0, 0), (0b11, 0b01), (0b11, 0b10)] {
            let mut frame = from_wire_frame_of(family, Family::V4);
            outer(&mut frame, |ip| ip.tos = tos);
            match family {
                Family::V4 => frame.change::<Ipv4>(INNER_IP, |ip| {
                    ip.tos = inner_tos;
                    ip.checksum = ip.computed_checksum();
                }),
                Family::V6 => {
                    frame.change::<Ipv6>(INNER_IP, |ip| ip.version_class_label[1] = inner_tos << 4);
                }
            }
            let before = total(&frame.bytes[INNER_IP..]);
            let verdict = from_wire(&mut frame, &tables(Travel::Vxlan));
            assert_eq!(verdict, Verdict::Deliver { ifindex: POD_PORT });
            assert_eq!(fold(before + frame.added_to_sum), fold(total(&frame.bytes[IP..])));
        }
    }
}

#[test]
fn what_the_kernel_must_see_passes_untouched() {
    for (name, change, reason) in left_to_the_kernel_from_wire() {
        let mut frame = from_wire_frame();
        change(&mut frame);
        let before = frame.bytes.clone();
        assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(reason), "{name}");
        assert_eq!(frame.bytes, before, "{name}");
    }
    for (name, change, reason) in left_to_the_kernel_from_wire6() {
        let mut frame = from_wire_frame_of(Family::V6, Family::V6);
        change(&mut frame);
        let before = frame.bytes.clone();
        let verdict = from_wire(&mut frame, &tables_over(Travel::Vxlan, Family::V6));
        assert_eq!(verdict, Verdict::Pass(reason), "{name}");
        assert_eq!(frame.bytes, before, "{name}");
    }
}

#[test]
fn sources_are_checked_as_strictly_as_asked() {
    for (name, change, reason, takes_strict) in dropped_from_wire() {
        for check in [SourceCheck::Off, SourceCheck::Loose, SourceCheck::Strict] {
            let mut tables = tables(Travel::Vxlan);
            tables.config = Some(Config { source_check: check as u32, ..config() });
            let mut frame = from_wire_frame();
            change(&mut frame);
            let from = if takes_strict { SourceCheck::Strict } else { SourceCheck::Loose };
            let drop = check as u32 >= from as u32;
            let expected = if drop { Verdict::Drop(reason) } else { Verdict::Pass(reason) };
            assert_eq!(from_wire(&mut frame, &tables), expected, "{name} {check:?}");
        }
    }
}

#[test]
fn datagrams_that_were_aggregated_with_their_tunnel_are_the_kernels() {
    let mut frame = from_wire_frame();
    frame.segment_size = Some(50);
    assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(Reason::Aggregate));
    frame.change::<Ipv4>(INNER_IP, |ip| ip.protocol = 6);
    frame.bytes[INNER_IP + 20 + 12..INNER_IP + 20 + 14].copy_from_slice(&[0x50, 0x10]);
    assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)).reason(), Reason::Delivered, "TCP is not");
    let mut plain = Frame::new(UNDERLAY, udp(PEER_POD, POD, (Mac([2; 6]), UNDERLAY_MAC), 100));
    plain.segment_size = Some(50);
    assert_eq!(
        from_wire(&mut plain, &tables(Travel::Direct)).reason(),
        Reason::Delivered,
        "without a tunnel"
    );
}

#[test]
fn a_peer_may_not_choose_how_it_travels() {
    // Tunnelled where it should come plain, and plain where it should come tunnelled.
    let verdict = from_wire(&mut from_wire_frame(), &tables(Travel::Direct));
    assert_eq!(verdict, Verdict::Pass(Reason::OtherWay));
    let mut plain = Frame::new(UNDERLAY, udp(PEER_POD, POD, (Mac([2; 6]), UNDERLAY_MAC), 5));
    assert_eq!(from_wire(&mut plain, &tables(Travel::Vxlan)), Verdict::Pass(Reason::OtherWay));
}

#[test]
fn without_a_tunnel_tunnel_packets_are_nothing_special() {
    let mut tables = tables(Travel::Direct);
    let none = Tunnel { encapsulation: 0, ..config().tunnel_v4 };
    tables.config = Some(Config { tunnel_v4: none, ..config() });
    assert_eq!(from_wire(&mut from_wire_frame(), &tables), Verdict::Pass(Reason::NotTunnel));
}

#[test]
fn any_prefix_and_any_flipped_byte_is_delivered_right_or_left_alone() {
    let tables = tables(Travel::Vxlan);
    let whole = from_wire_frame();
    for cut in whole.prefixes() {
        let mut frame = cut.clone();
        assert!(matches!(from_wire(&mut frame, &tables), Verdict::Pass(_)), "cut at {}", cut.bytes.len());
        assert_eq!(frame.bytes, cut.bytes);
    }
    for (what, damaged) in whole.damaged() {
        let (mut frame, before) = (damaged.clone(), damaged.bytes);
        match from_wire(&mut frame, &tables) {
            Verdict::Pass(_) => assert_eq!(frame.bytes, before, "{what}"),
            Verdict::Deliver { ifindex } => {
                assert_eq!(ifindex, POD_PORT);
                assert_eq!(frame.read::<Ipv4>(IP).destination, POD, "{what}");
                assert_eq!(before[IP + 12..IP + 16], PEER_NODE);
            }
            Verdict::Drop(Reason::UnknownNode | Reason::WrongNode) => assert_eq!(frame.bytes, before),
            other @ (Verdict::Drop(_)
            | Verdict::Send { .. }
            | Verdict::Wrap { .. }
            | Verdict::Strip
            | Verdict::Return { .. }) => panic!("{other:?}: {what}"),
        }
    }
}
