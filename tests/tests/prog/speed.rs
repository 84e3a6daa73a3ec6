//! What a program takes for one packet, case by case. `cargo xtask bench` shows the figures; here they only have to come
//! about, with every packet treated as the case says.
//!
//! A program changes its packet, and repetitions within one test run would be of what it left: each packet is a run of
//! its own, with the packet anew. The kernel's clock is read around each, which the case `agent gone` shows, where a
//! program does next to nothing.

use std::time::Duration;

use ovl_common::wire::{Ethernet, Udp};
use ovl_common::{Config, FastPath, Mac, Program, Reason, Travel};
use ovl_ebpf::ip::Family;
use ovl_ebpf::packet::IP;
use ovl_ebpf::testing::{
    Frame, MARK, OVERLAY, UNDERLAY, UNDERLAY_MAC, config, from_pod_frame, from_pod_frame_of, from_wire_frame,
    from_wire_frame_of, to_pod_frame_of,
};
use perf_event::Counter;
use perf_event::events::Hardware;
use serde_json::json;

use crate::program::Programs;

/// A packet, what it meets and what becomes of it.
struct Case {
    program: Program,
    name: &'static str,
    config: Config,
    travel: Travel,
    frame: Frame,
    reason: Reason,
    /// Whether each packet says something new: the rules have changed since the one before.
    is_news: bool,
}

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |number| number.parse().expect("a number"))
}

/// `tunnelled` is what becomes of a packet that goes into the tunnel: some kernels make no room for its headers.
fn cases(tunnelled: Reason) -> Vec<Case> {
    use Program::{FromPod, FromWire, FromWireXdp, ToOverlay, ToPod};
    use Travel::{Direct, Vxlan};
    let always = Config { deadline: u64::MAX, ..config() };
    let verified = verified();
    let gone = Config { deadline: 1, ..verified };
    let (out, into) = (from_pod_frame(), from_wire_frame());
    let stranger = {
        let mut frame = from_wire_frame();
        frame.change::<Udp>(IP + 20, |udp| udp.destination = [0, 53]);
        frame
    };
    let case = |program, name, config, travel, frame: &Frame, reason| Case {
        program,
        name,
        config,
        travel,
        frame: frame.clone(),
        reason,
        is_news: reason == Reason::Verified,
    };
    vec![
        case(FromPod, "agent gone", gone, Vxlan, &out, Reason::Expired),
        case(FromPod, "tunnel, verified", verified, Vxlan, &out, tunnelled),
        case(FromPod, "tunnel, always", always, Vxlan, &out, tunnelled),
        case(
            FromPod,
            "tunnel, always, IPv6 inside",
            always,
            Vxlan,
            &from_pod_frame_of(Family::V6),
            tunnelled,
        ),
        case(FromPod, "direct, verified", verified, Direct, &out, Reason::Forwarded),
        case(FromPod, "not verified", verified, Vxlan, &from_pod_frame_of(Family::V6), Reason::NoFlow),
        case(FromWire, "tunnel, verified", verified, Vxlan, &into, Reason::Delivered),
        case(FromWire, "tunnel, always", always, Vxlan, &into, Reason::Delivered),
        case(FromWire, "direct, verified", verified, Direct, &directly(), Reason::Delivered),
        case(
            FromWire,
            "not verified",
            Config { epoch: verified.epoch + 1, ..verified },
            Vxlan,
            &from_wire_frame_of(Family::V4, Family::V4),
            Reason::Changed,
        ),
        case(FromWire, "other traffic", verified, Vxlan, &stranger, Reason::NotTunnel),
        case(FromWireXdp, "tunnel, verified", verified, Vxlan, &into, Reason::Stripped),
        case(FromWireXdp, "other traffic", verified, Vxlan, &stranger, Reason::NotTunnel),
        case(ToPod, "known", always, Vxlan, &to_pod_frame_of(Family::V4), Reason::Known),
        case(ToPod, "accepted", verified, Vxlan, &marked(to_pod_frame_of(Family::V4)), Reason::Verified),
        case(ToOverlay, "accepted", verified, Vxlan, &marked(overlay(out.clone())), Reason::Verified),
    ]
}

fn verified() -> Config {
    Config {
        deadline: u64::MAX,
        fast_path: FastPath::Verified as u32,
        verified_for: 3600 * 1_000_000_000,
        ..config()
    }
}

fn marked(frame: Frame) -> Frame {
    Frame { mark: MARK, ..frame }
}

fn overlay(frame: Frame) -> Frame {
    Frame { ifindex: OVERLAY, ..frame }
}

/// What a peer on the same link sends to the pod.
fn directly() -> Frame {
    let mut frame = Frame { ifindex: UNDERLAY, ..to_pod_frame_of(Family::V4) };
    frame.change::<Ethernet>(0, |ethernet| {
        (ethernet.source, ethernet.destination) = (Mac([2; 6]), UNDERLAY_MAC);
    });
    frame
}

/// Has netfilter, so to speak, accept the flow in both directions. Nobody is delivered to who has never sent.
fn verify(programs: &mut Programs) {
    programs.set_config(verified());
    for (program, frame) in [
        (Program::FromPod, from_pod_frame()),
        (Program::ToOverlay, marked(overlay(from_pod_frame()))),
        (Program::ToPod, marked(to_pod_frame_of(Family::V4))),
    ] {
        programs.run_uncounted(program, &frame);
    }
}

/// What a run of packets took.
struct Taken {
    /// The median.
    nanoseconds: u128,
    /// The mean, with what the system call takes.
    instructions: Option<u64>,
}

/// Runs a case with so many packets, and looks how each was treated.
fn run(programs: &mut Programs, case: &Case, packets: usize, counter: Option<&mut Counter>) -> Taken {
    verify(programs);
    programs.set_remote(case.travel, Family::V4);
    programs.set_config(case.config);
    let before = programs.counts(case.program);
    let (mut times, instructions) = take_turns(programs, case, packets, counter);
    let after = programs.counts(case.program);
    let packets = packets as u64;
    let all = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    let right = after[case.reason as usize] - before[case.reason as usize];
    assert_eq!((right, all), (packets, packets), "{} {}", case.program.name(), case.name);
    let middle = times.len() / 2;
    let nanoseconds = times.select_nth_unstable(middle).1.as_nanos();
    Taken { nanoseconds, instructions: instructions.map(|count| count / packets) }
}

fn take_turns(
    programs: &mut Programs,
    case: &Case,
    packets: usize,
    mut counter: Option<&mut Counter>,
) -> (Vec<Duration>, Option<u64>) {
    let mut times = Vec::with_capacity(packets);
    if let Some(counter) = &mut counter {
        counter.reset().expect("it was opened");
    }
    for epoch in (case.config.epoch..).take(packets) {
        if case.is_news {
            programs.set_config(Config { epoch: epoch + 1, ..case.config });
        }
        if let Some(counter) = &mut counter {
            counter.enable().expect("it was opened");
        }
        times.push(programs.time(case.program, &case.frame));
        if let Some(counter) = &mut counter {
            counter.disable().expect("it was opened");
        }
    }
    (times, counter.map(|counter| counter.read().expect("it was opened")))
}

#[test]
fn every_case_has_its_time() {
    let (rounds, packets) = (number("OVL_SPEED_ROUNDS", 1), number("OVL_SPEED_PACKETS", 100));
    let mut programs = Programs::load(Travel::Vxlan);
    programs.add_leases(u32::try_from(number("OVL_SPEED_LEASES", 0)).expect("so many fit"));
    let counter =
        perf_event::Builder::new(Hardware::INSTRUCTIONS).include_kernel().exclude_user(true).build();
    let mut counter =
        counter.map_err(|error| println!("speed: {}", json!({"no_instructions": error.to_string()}))).ok();
    let tunnelled = if programs.makes_room() { Reason::Forwarded } else { Reason::NoRoom };
    for round in 0..rounds {
        for case in
            cases(tunnelled).into_iter().filter(|case| Programs::all().any(|known| known == case.program))
        {
            let Taken { nanoseconds, instructions } = run(&mut programs, &case, packets, counter.as_mut());
            let (program, name) = (case.program.name(), case.name);
            let figures = json!({
                "round": round,
                "program": program,
                "case": name,
                "ns": u64::try_from(nanoseconds).expect("less than a century"),
                "instructions": instructions,
            });
            println!("speed: {figures}");
        }
    }
}
