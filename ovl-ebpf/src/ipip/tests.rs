use ovl_common::wire::{Ethernet, Ipv6};

use super::*;
use crate::egress::from_pod;
use crate::ingress::from_wire;
use crate::testing::{
    Fate, Frame, GATEWAY, Mem, NODE, NODE6, PEER_NODE, PEER_NODE6, POD_MAC, POD_PORT, UNDERLAY, VTEP,
    ipip_from_pod_frame_of, ipip_from_wire_frame_of, ipip_from_wire_rows, ipip_tables,
};

/// The families inside and outside that travel.
const PAIRS: [(Family, Family); 3] =
    [(Family::V4, Family::V4), (Family::V4, Family::V6), (Family::V6, Family::V6)];

fn length(family: Family) -> usize {
    if family == Family::V4 { 20 } else { 40 }
}

#[test]
fn a_packet_for_a_peer_gets_one_more_header() {
    for (inner, outer) in PAIRS {
        let tables = ipip_tables(outer, false);
        let mut frame = ipip_from_pod_frame_of(inner);
        let before = frame.clone();
        assert_eq!(from_pod(&mut frame, &tables), Verdict::Send { ifindex: UNDERLAY, next_hop: None });
        let at = IP + length(outer);
        assert_eq!(frame.bytes[at + length(inner)..], before.bytes[IP + length(inner)..], "the payload");
        let (protocol, ttl) = match outer {
            Family::V4 => {
                let ip: Ipv4 = frame.read(IP);
                assert_eq!((ip.source, ip.destination, ip.fragment), (NODE, PEER_NODE, [0; 2]));
                assert!(ip.is_intact() && ip.length() == frame.bytes.len() - IP);
                (ip.protocol, ip.ttl)
            }
            Family::V6 => {
                let ip: Ipv6 = frame.read(IP);
                assert_eq!((ip.source, ip.destination), (NODE6, PEER_NODE6));
                assert_eq!(ip.length(), frame.bytes.len() - IP);
                (ip.next_header, ip.hop_limit)
            }
        };
        assert_eq!((protocol, ttl), (if inner == Family::V4 { 4 } else { 41 }, 63), "the inner one's");
        let left = match inner {
            Family::V4 => frame.read::<Ipv4>(at).ttl,
            Family::V6 => frame.read::<Ipv6>(at).hop_limit,
        };
        assert_eq!(left, 63);
    }
}

#[test]
fn df_goes_outside_and_asks_whether_it_fits_the_way() {
    let df = |frame: &mut Frame<Ipip>| {
        frame.change::<Ipv4>(IP, |ip| {
            ip.fragment = [0x40, 0];
            ip.checksum = ip.computed_checksum();
        });
    };
    let long = || {
        let macs = (POD_MAC, GATEWAY);
        Frame::<Ipip>::of(
            POD_PORT,
            crate::testing::udp(crate::testing::POD, crate::testing::PEER_POD, macs, 1000),
        )
    };
    for (is_whole, stand_in, way, expected) in [
        (true, false, 1500, Some([0x40, 0])),
        (true, false, 1047, None),
        (false, false, 1047, Some([0, 0])),
        (true, true, 1047, Some([0, 0])),
    ] {
        let mut frame = long();
        if is_whole {
            df(&mut frame);
        }
        frame.way = way;
        let tables = ipip_tables(Family::V4, stand_in);
        let verdict = from_pod(&mut frame, &tables);
        let Some(fragment) = expected else {
            assert_eq!(verdict, Verdict::Pass(Reason::Oversize));
            continue;
        };
        assert_eq!(verdict.reason(), Reason::Forwarded);
        assert_eq!(frame.read::<Ipv4>(IP).fragment, fragment, "{is_whole} {stand_in}");
    }
    // Whatever anybody says, so much fits.
    let mut frame = ipip_from_pod_frame_of(Family::V4);
    df(&mut frame);
    frame.way = 0;
    assert_eq!(from_pod(&mut frame, &ipip_tables(Family::V4, false)).reason(), Reason::Forwarded);
}

#[test]
fn ecn_goes_outside_and_dscp_does_not() {
    let mut frame = ipip_from_pod_frame_of(Family::V4);
    frame.change::<Ipv4>(IP, |ip| {
        ip.tos = 0b1010_1011;
        ip.checksum = ip.computed_checksum();
    });
    assert_eq!(from_pod(&mut frame, &ipip_tables(Family::V4, false)).reason(), Reason::Forwarded);
    assert_eq!(frame.read::<Ipv4>(IP).tos, 0b10);
}

#[test]
fn rows_of_another_backend_are_the_kernels() {
    let mut tables = ipip_tables(Family::V4, false);
    tables.remotes.iter_mut().for_each(|(_, remote)| remote.travel = Travel::Vxlan as u8);
    let mut frame = ipip_from_pod_frame_of(Family::V4);
    assert_eq!(from_pod(&mut frame, &tables), Verdict::Pass(Reason::OtherWay));
    let mut frame = ipip_from_wire_frame_of(Family::V4, Family::V4);
    assert_eq!(from_wire(&mut frame, &tables), Verdict::Pass(Reason::OtherWay));
}

#[test]
fn the_peers_answer_is_stripped_and_delivered() {
    for (inner, outer) in PAIRS {
        for stand_in in [false, true] {
            let mut frame = ipip_from_wire_frame_of(inner, outer);
            let before = frame.clone();
            let verdict = from_wire(&mut frame, &ipip_tables(outer, stand_in));
            assert_eq!(verdict, Verdict::Deliver { ifindex: POD_PORT });
            let ethernet: Ethernet = frame.read(0);
            assert_eq!((ethernet.source, ethernet.destination), (GATEWAY, POD_MAC));
            assert_eq!(frame.bytes[IP + length(inner)..], before.bytes[IP + length(outer) + length(inner)..]);
        }
    }
}

/// Also of the frame, where it is handed in.
fn check(name: &str, good: &Frame<Ipip>, fate: Fate, tables: &Mem) {
    let mut frame = good.clone();
    let verdict = from_wire(&mut frame, tables);
    match fate {
        Fate::Left(reason) => assert_eq!(verdict, Verdict::Pass(reason), "{name}"),
        Fate::Dropped(reason) => assert_eq!(verdict, Verdict::Drop(reason), "{name}"),
        Fate::HandedIn(reason) => {
            let ifindex = crate::testing::OVERLAY;
            assert_eq!(verdict, Verdict::Return { ifindex, reason }, "{name}");
            let ethernet: Ethernet = frame.read(0);
            assert_eq!((ethernet.destination, ethernet.ethertype), (VTEP, ETHERTYPE_IPV4), "{name}");
            assert_eq!(frame.bytes[IP..], good.bytes[IP + 20..], "{name}");
            return;
        }
    }
    assert_eq!(frame.bytes, good.bytes, "{name}");
}

#[test]
fn what_is_not_for_the_fast_path_is_the_kernels_or_the_stand_ins() {
    for (name, change, with_device, with_stand_in) in ipip_from_wire_rows() {
        let mut frame = ipip_from_wire_frame_of(Family::V4, Family::V4);
        change(&mut frame);
        check(name, &frame, with_device, &ipip_tables(Family::V4, false));
        check(name, &frame, with_stand_in, &ipip_tables(Family::V4, true));
    }
}

#[test]
fn any_prefix_and_any_flipped_byte_is_stripped_right_or_left_alone() {
    let whole = ipip_from_wire_frame_of(Family::V4, Family::V4);
    for stand_in in [false, true] {
        let tables = ipip_tables(Family::V4, stand_in);
        for cut in whole.prefixes() {
            let mut frame = cut.clone();
            assert!(matches!(from_wire(&mut frame, &tables), Verdict::Pass(_)), "cut at {}", cut.bytes.len());
            assert_eq!(frame.bytes, cut.bytes);
        }
        for (what, damaged) in whole.damaged() {
            let (mut frame, before) = (damaged.clone(), damaged.bytes);
            match from_wire(&mut frame, &tables) {
                Verdict::Pass(_) | Verdict::Drop(_) => assert_eq!(frame.bytes, before, "{what}"),
                Verdict::Deliver { .. } => assert_eq!(before[IP + 12..IP + 16], PEER_NODE),
                Verdict::Return { .. } => {
                    assert!(stand_in && frame.bytes[IP..] == before[IP + 20..], "{what}");
                }
                other @ (Verdict::Send { .. } | Verdict::Wrap { .. } | Verdict::Strip) => {
                    panic!("{other:?}: {what}")
                }
            }
        }
    }
}
