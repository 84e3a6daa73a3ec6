//! The table: every packet, the program it goes through, the action, the bytes and the reason.

use ovl_common::wire::{Ethernet, Ipv4, VxlanOverIpv4};
use ovl_common::{Config, Endpoint, Mac, Program, Reason, Travel};
use ovl_ebpf::packet::{INNER_IP, IP};
use ovl_ebpf::testing::{
    Frame, GATEWAY, NODE, PEER_NODE, PEER_POD, PEER_VTEP, POD, POD_MAC, POD_PORT, UNDERLAY, UNDERLAY_MAC,
    VTEP, config, endpoint, from_pod_frame, from_wire_frame, left_to_the_kernel_from_pod,
    left_to_the_kernel_from_wire, udp,
};

use crate::program::{Programs, REDIRECT, Run, UNSPEC};

/// A packet that passes untouched for `reason`.
fn untouched(frame: &Frame, reason: Reason) -> Run {
    Run { action: UNSPEC, bytes: frame.bytes.clone(), reason }
}

#[test]
fn from_pod_writes_every_byte_of_the_tunnel() {
    let mut programs = Programs::load(Travel::Vxlan);
    let frame = from_pod_frame();
    let run = programs.run(Program::FromPod, &frame);
    assert_eq!((run.action, run.reason), (REDIRECT, Reason::Forwarded));
    let sent = Frame::new(UNDERLAY, run.bytes);
    let outer: VxlanOverIpv4 = sent.read(IP);
    let length = u16::try_from(sent.bytes.len() - IP).expect("small");
    let port = u16::from_be_bytes(outer.udp.source);
    assert!((32768..60999).contains(&port), "{port}");
    // Every field, the two that vary as they are: a byte that nobody wrote would be the poison.
    let expected = VxlanOverIpv4 {
        ip: Ipv4 {
            version_and_length: 0x45,
            tos: 0,
            total_length: length.to_be_bytes(),
            id: outer.ip.id,
            fragment: [0; 2],
            ttl: 64,
            protocol: 17,
            checksum: outer.ip.computed_checksum(),
            source: NODE,
            destination: PEER_NODE,
        },
        udp: ovl_common::wire::Udp {
            source: outer.udp.source,
            destination: 8472u16.to_be_bytes(),
            length: (length - 20).to_be_bytes(),
            checksum: [0; 2],
        },
        vxlan: ovl_common::wire::Vxlan { flags: 8, reserved: [0; 3], vni: [0, 0, 1], reserved2: 0 },
        ethernet: Ethernet { destination: PEER_VTEP, source: VTEP, ethertype: [8, 0] },
    };
    assert_eq!(outer, expected);
    let inner: Ipv4 = sent.read(INNER_IP);
    assert_eq!((inner.ttl, inner.checksum), (63, inner.computed_checksum()));
    assert_eq!(sent.bytes[INNER_IP + 20..], frame.bytes[IP + 20..]);
}

#[test]
fn outer_identifications_differ() {
    let mut programs = Programs::load(Travel::Vxlan);
    let mut ids: Vec<[u8; 2]> = (0..8)
        .map(|_| programs.run_uncounted(Program::FromPod, &from_pod_frame()).1)
        .map(|bytes| Frame::new(UNDERLAY, bytes).read::<Ipv4>(IP).id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() > 4, "{ids:?}");
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

#[test]
fn from_wire_strips_and_delivers() {
    let mut programs = Programs::load(Travel::Vxlan);
    let mut expected = Frame::new(POD_PORT, udp(PEER_POD, POD, (GATEWAY, POD_MAC), 100));
    expected.change::<Ipv4>(IP, |ip| {
        ip.ttl = 63;
        ip.checksum = ip.computed_checksum();
    });
    let run = programs.run(Program::FromWire, &from_wire_frame());
    assert_eq!(run, Run { action: REDIRECT, bytes: expected.bytes, reason: Reason::Delivered });
}

#[test]
fn from_wire_delivers_from_a_direct_peer() {
    let mut programs = Programs::load(Travel::Direct);
    let frame = Frame::new(UNDERLAY, udp(PEER_POD, POD, (Mac([2; 6]), UNDERLAY_MAC), 100));
    let mut expected = Frame::new(POD_PORT, udp(PEER_POD, POD, (GATEWAY, POD_MAC), 100));
    expected.change::<Ipv4>(IP, |ip| {
        ip.ttl = 63;
        ip.checksum = ip.computed_checksum();
    });
    let run = programs.run(Program::FromWire, &frame);
    assert_eq!(run, Run { action: REDIRECT, bytes: expected.bytes, reason: Reason::Delivered });
}

#[test]
fn from_pod_leaves_to_the_kernel_what_is_the_kernels() {
    let mut programs = Programs::load(Travel::Vxlan);
    for (name, change, reason) in left_to_the_kernel_from_pod() {
        let mut frame = from_pod_frame();
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
    let mut programs = Programs::load(Travel::Vxlan);
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
