//! The table: every packet, the program it goes through, the action, the bytes and the reason.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ovl_common::wire::{Ethernet, Ipv4, Ipv6, TunnelHeaders};
use ovl_common::{Config, Endpoint, FastPath, Mac, Program, Reason, SourceCheck, Travel};
use ovl_ebpf::ip::{Family, IpHeader};
use ovl_ebpf::packet::{IP, inner_ip};
use ovl_ebpf::testing::{
    Frame, GATEWAY, MARK, NODE, NODE6, OVERLAY, OVERLAY6, PEER_NODE, PEER_NODE6, PEER_POD, PEER_POD6,
    PEER_VTEP, POD, POD_MAC, POD_PORT, POD6, UNDERLAY, UNDERLAY_MAC, VTEP, config, dropped_from_wire,
    endpoint, from_pod_frame, from_pod_frame_of, from_wire_frame, from_wire_frame_of, is_udp_intact,
    left_to_the_kernel_from_pod, left_to_the_kernel_from_pod6, left_to_the_kernel_from_wire,
    left_to_the_kernel_from_wire6, to_pod_frame_of, udp,
};

use crate::program::{Programs, REDIRECT, Run, SHOT, UNSPEC};

/// A packet that passes untouched for `reason`.
fn untouched(frame: &Frame, reason: Reason) -> Run {
    Run { action: UNSPEC, bytes: frame.bytes.clone(), reason }
}

/// Every byte of the tunnel: one that nobody wrote would be the poison.
fn wrapped<I: IpHeader, O: IpHeader>(programs: &mut Programs, frame: &Frame) -> Frame {
    let run = programs.run(Program::FromPod, frame);
    assert_eq!((run.action, run.reason), (REDIRECT, Reason::Forwarded));
    let sent = Frame::new(UNDERLAY, run.bytes);
    let tunnel: TunnelHeaders = sent.read(IP + O::LENGTH);
    let length = u16::try_from(sent.bytes.len() - IP - O::LENGTH).expect("small");
    let port = u16::from_be_bytes(tunnel.udp.source);
    assert!((32768..60999).contains(&port), "{port}");
    let expected = TunnelHeaders {
        udp: ovl_common::wire::Udp {
            source: tunnel.udp.source,
            destination: 8472u16.to_be_bytes(),
            length: length.to_be_bytes(),
            checksum: tunnel.udp.checksum,
        },
        vxlan: ovl_common::wire::Vxlan { flags: [8, 0, 0, 0], vni: [0, 0, 1, 0] },
        ethernet: Ethernet { destination: PEER_VTEP, source: VTEP, ethertype: I::ETHERTYPE },
    };
    assert_eq!(tunnel, expected);
    let inner: I = sent.read(inner_ip::<O>());
    assert_eq!((inner.hop_limit(), inner.is_intact()), (63, true));
    assert_eq!(sent.bytes[inner_ip::<O>() + I::LENGTH..], frame.bytes[IP + I::LENGTH..]);
    sent
}

#[test]
fn from_pod_writes_every_byte_of_the_tunnel_whatever_the_families() {
    let mut programs = Programs::load_over(Travel::Vxlan, Family::V4);
    let sent = [
        wrapped::<Ipv4, Ipv4>(&mut programs, &from_pod_frame_of(Family::V4)),
        wrapped::<Ipv6, Ipv4>(&mut programs, &from_pod_frame_of(Family::V6)),
    ];
    for sent in sent {
        let outer: Ipv4 = sent.read(IP);
        let expected = Ipv4 {
            version_and_length: 0x45,
            tos: 0,
            total_length: u16::try_from(sent.bytes.len() - IP).expect("small").to_be_bytes(),
            id: outer.id,
            fragment: [0; 2],
            ttl: 64,
            protocol: 17,
            checksum: outer.computed_checksum(),
            source: NODE,
            destination: PEER_NODE,
        };
        assert_eq!(outer, expected);
        assert_eq!(sent.read::<TunnelHeaders>(IP + 20).udp.checksum, [0; 2]);
    }
    let mut programs = Programs::load_over(Travel::Vxlan, Family::V6);
    let sent = [
        wrapped::<Ipv4, Ipv6>(&mut programs, &from_pod_frame_of(Family::V4)),
        wrapped::<Ipv6, Ipv6>(&mut programs, &from_pod_frame_of(Family::V6)),
    ];
    for sent in sent {
        let expected = Ipv6 {
            version_class_label: [0x60, 0, 0, 0],
            payload_length: u16::try_from(sent.bytes.len() - IP - 40).expect("small").to_be_bytes(),
            next_header: 17,
            hop_limit: 64,
            source: NODE6,
            destination: PEER_NODE6,
        };
        assert_eq!(sent.read::<Ipv6>(IP), expected);
        assert!(is_udp_intact::<Ipv6>(&sent, IP), "stock peers drop what has no checksum");
    }
}

/// Whoever aggregates packets on their way wants their numbers in a row.
#[test]
fn outer_identifications_go_up_by_one_on_a_cpu() {
    let mut programs = Programs::load(Travel::Vxlan);
    let mut one = CpuSet::new();
    one.set(0).expect("there is one");
    sched_setaffinity(Pid::from_raw(0), &one).expect("a thread may stay on a CPU");
    let ids: Vec<u16> = (0..8)
        .map(|_| programs.run_uncounted(Program::FromPod, &from_pod_frame()).1)
        .map(|bytes| u16::from_be_bytes(Frame::new(UNDERLAY, bytes).read::<Ipv4>(IP).id))
        .collect();
    for pair in ids.windows(2) {
        assert_eq!(pair[1], pair[0].wrapping_add(1), "{ids:?}");
    }
}

#[test]
fn from_pod_routes_to_a_direct_peer() {
    let mut programs = Programs::load(Travel::Direct);
    let frame = from_pod_frame();
    let run = programs.run(Program::FromPod, &frame);
    let mut expected = frame.clone();
    expected.change::<Ipv4>(IP, |ip| {
        ip.ttl = 63;
        ip.checksum = ip.computed_checksum();
    });
    assert_eq!(run, Run { action: REDIRECT, bytes: expected.bytes, reason: Reason::Forwarded });
}

/// The pod's packet as its gateway sends it, one hop on.
fn delivered(mut frame: Frame, family: Family) -> Vec<u8> {
    match family {
        Family::V4 => frame.change::<Ipv4>(IP, |ip| _ = ip.take_hop()),
        Family::V6 => frame.change::<Ipv6>(IP, |ip| _ = ip.take_hop()),
    }
    frame.bytes
}

#[test]
fn from_wire_strips_and_delivers_whatever_the_families() {
    for outer in [Family::V4, Family::V6] {
        let mut programs = Programs::load_over(Travel::Vxlan, outer);
        for inner in [Family::V4, Family::V6] {
            let bytes = delivered(to_pod_frame_of(inner), inner);
            let frame = from_wire_frame_of(inner, outer);
            let run = programs.run(Program::FromWire, &frame);
            let expected = if inner == outer || programs.changes_families() {
                Run { action: REDIRECT, bytes, reason: Reason::Delivered }
            } else {
                untouched(&frame, Reason::NoRoom)
            };
            assert_eq!(run, expected, "{inner:?} in {outer:?}");
        }
    }
}

#[test]
fn from_wire_delivers_from_a_direct_peer() {
    let mut programs = Programs::load(Travel::Direct);
    let macs = (Mac([2; 6]), UNDERLAY_MAC);
    let inside = (GATEWAY, POD_MAC);
    let table = [
        (udp(PEER_POD, POD, macs, 100), udp(PEER_POD, POD, inside, 100), Family::V4),
        (udp(PEER_POD6, POD6, macs, 100), udp(PEER_POD6, POD6, inside, 100), Family::V6),
    ];
    for (wire, pod, family) in table {
        let bytes = delivered(Frame::new(POD_PORT, pod), family);
        let run = programs.run(Program::FromWire, &Frame::new(UNDERLAY, wire));
        assert_eq!(run, Run { action: REDIRECT, bytes, reason: Reason::Delivered }, "{family:?}");
    }
}

#[test]
fn sources_are_checked_as_strictly_as_asked() {
    let mut programs = Programs::load(Travel::Vxlan);
    for (name, change, reason, takes_strict) in dropped_from_wire() {
        for check in [SourceCheck::Off, SourceCheck::Loose, SourceCheck::Strict] {
            programs.set_config(Config { deadline: u64::MAX, source_check: check as u32, ..config() });
            let mut frame = from_wire_frame();
            change(&mut frame);
            let from = if takes_strict { SourceCheck::Strict } else { SourceCheck::Loose };
            let action = if check as u32 >= from as u32 { SHOT } else { UNSPEC };
            let run = programs.run(Program::FromWire, &frame);
            assert_eq!(run, Run { action, bytes: frame.bytes, reason }, "{name} {check:?}");
        }
    }
}

#[test]
fn a_flow_is_fast_once_both_directions_are_verified() {
    let verified = Config {
        deadline: u64::MAX,
        fast_path: FastPath::Verified as u32,
        verified_for: 3600 * 1_000_000_000,
        ..config()
    };
    for family in [Family::V4, Family::V6] {
        let mut programs = Programs::load_over(Travel::Vxlan, family);
        programs.set_config(verified);
        let (out, into) = (from_pod_frame_of(family), from_wire_frame_of(family, family));
        assert_eq!(programs.run(Program::FromPod, &out), untouched(&out, Reason::NoFlow));
        assert_eq!(programs.run(Program::FromWire, &into), untouched(&into, Reason::NoFlow));
        let mut to_overlay = out.clone();
        to_overlay.ifindex = if family == Family::V4 { OVERLAY } else { OVERLAY6 };
        to_overlay.mark = MARK;
        assert_eq!(programs.run(Program::ToOverlay, &to_overlay), untouched(&to_overlay, Reason::Verified));
        assert_eq!(programs.run(Program::FromPod, &out).reason, Reason::OneWay);
        let mut to_pod = to_pod_frame_of(family);
        assert_eq!(programs.run(Program::ToPod, &to_pod), untouched(&to_pod, Reason::Known));
        to_pod.mark = MARK;
        assert_eq!(programs.run(Program::ToPod, &to_pod), untouched(&to_pod, Reason::Verified));
        let sent = if programs.makes_room() { Reason::Forwarded } else { Reason::NoRoom };
        assert_eq!(programs.run(Program::FromPod, &out).reason, sent);
        assert_eq!(programs.run(Program::FromWire, &into).reason, Reason::Delivered);
        let flows = programs.flows();
        let [(key, flow)] = flows.as_slice() else { panic!("{flows:?}") };
        assert_eq!((flow.out.packets, flow.into.packets, flow.port), (1, 1, POD_PORT), "{key:?}");
        programs.set_config(Config { epoch: 4, ..verified });
        assert_eq!(programs.run(Program::FromPod, &out).reason, Reason::Changed);
    }
}

#[test]
fn from_pod_leaves_to_the_kernel_what_is_the_kernels() {
    let mut programs = Programs::load(Travel::Vxlan);
    let ipv4 = left_to_the_kernel_from_pod().into_iter().map(|row| (from_pod_frame(), row));
    let ipv6 = left_to_the_kernel_from_pod6().into_iter().map(|row| (from_pod_frame_of(Family::V6), row));
    for (mut frame, (name, change, reason)) in ipv4.chain(ipv6) {
        change(&mut frame);
        // A stack that refuses room, or a VLAN tag beside the bytes, cannot be made in a test run.
        if frame.rigid || frame.tagged || !Programs::takes(&frame) {
            continue;
        }
        if frame.ifindex != POD_PORT {
            frame.ifindex = UNDERLAY;
        }
        assert_eq!(programs.run(Program::FromPod, &frame), untouched(&frame, reason), "{name}");
        programs.set_endpoint(POD, Some(endpoint()));
        programs.set_endpoint(POD6, Some(endpoint()));
    }
}

#[test]
fn from_wire_leaves_to_the_kernel_what_is_the_kernels() {
    let mut programs = Programs::load(Travel::Vxlan);
    for (name, change, reason) in left_to_the_kernel_from_wire() {
        let mut frame = from_wire_frame();
        change(&mut frame);
        if frame.rigid || frame.tagged || !Programs::takes(&frame) {
            continue;
        }
        if !frame.to_this_host {
            frame.change::<Ethernet>(0, |ethernet| ethernet.destination = Mac([2; 6]));
        }
        assert_eq!(programs.run(Program::FromWire, &frame), untouched(&frame, reason), "{name}");
    }
    let mut programs = Programs::load_over(Travel::Vxlan, Family::V6);
    for (name, change, reason) in left_to_the_kernel_from_wire6() {
        let mut frame = from_wire_frame_of(Family::V6, Family::V6);
        change(&mut frame);
        if !frame.rigid && Programs::takes(&frame) {
            assert_eq!(programs.run(Program::FromWire, &frame), untouched(&frame, reason), "{name}");
        }
    }
}

#[test]
fn every_program_obeys_the_agent() {
    let mut programs = Programs::load(Travel::Vxlan);
    let table = [
        (Config { abi: 0, ..config() }, Reason::NoConfig),
        (Config { fast_path: 0, ..config() }, Reason::FastPathOff),
        (Config { deadline: 1, ..config() }, Reason::Expired),
    ];
    for (config, reason) in table {
        programs.set_config(config);
        for (program, frame) in [
            (Program::FromPod, from_pod_frame()),
            (Program::FromWire, from_wire_frame()),
            (Program::ToPod, delivery()),
            (Program::ToOverlay, Frame { ifindex: OVERLAY, ..from_pod_frame() }),
        ] {
            assert_eq!(programs.run(program, &frame), untouched(&frame, reason), "{}", program.name());
        }
    }
}

fn delivery() -> Frame {
    Frame::new(POD_PORT, udp(PEER_POD, POD, (GATEWAY, POD_MAC), 10))
}

#[test]
fn a_pod_is_learned_once_it_sent_and_was_delivered_to() {
    let mut programs = Programs::load(Travel::Direct);
    programs.set_endpoint(POD, None);
    assert_eq!(programs.run(Program::ToPod, &delivery()), untouched(&delivery(), Reason::Flooded));
    assert_eq!(programs.run(Program::FromPod, &from_pod_frame()).reason, Reason::UnknownSource);
    assert_eq!(programs.pod_mac(POD_PORT), Some(POD_MAC));
    assert_eq!(programs.run(Program::ToPod, &delivery()), untouched(&delivery(), Reason::Learned));
    assert_eq!(programs.endpoint(POD), Some(endpoint()));
    assert_eq!(programs.run(Program::ToPod, &delivery()), untouched(&delivery(), Reason::Known));
    assert_eq!(programs.run(Program::FromPod, &from_pod_frame()).reason, Reason::Forwarded);
}

#[test]
fn a_pod_that_moved_is_forgotten() {
    let mut programs = Programs::load(Travel::Vxlan);
    programs.set_endpoint(POD, Some(Endpoint { ifindex: UNDERLAY, ..endpoint() }));
    assert_eq!(programs.run(Program::FromPod, &from_pod_frame()).reason, Reason::MovedSource);
    assert_eq!(programs.endpoint(POD), None);
}
