//! Verdicts that somebody wants to see come out of aya-log's ring, and change nothing.

use std::sync::Mutex;

use bytemuck::Zeroable as _;
use log::{Log, Metadata, Record};
use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4};
use ovl_common::{Action, Event, HEAD, Program, Reason, Trace, Travel};
use ovl_ebpf::ip::Family;
use ovl_ebpf::testing::{
    Frame, MARK, PEER_POD, POD, POD_PORT, UNDERLAY, from_pod_frame, from_pod_frame_of, from_wire_frame,
    from_wire_frame_of, to_pod_frame_of,
};

use crate::program::{Programs, REDIRECT, Run, SHOT, UNSPEC};

/// Everything, for ever.
const EVERYTHING: Trace = Trace { until: u64::MAX, one_in: 1, programs: u32::MAX, reasons: u64::MAX };

/// So much of a packet is shown: the most of these that there is.
const HEADS: [usize; 6] = [HEAD, 94, 74, 44, 24, 20];

/// The texts of records.
#[derive(Default)]
struct Texts(Mutex<Vec<String>>);

impl Log for &Texts {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        assert_eq!(record.target(), "ovl");
        self.0.lock().expect("one thread").push(record.args().to_string());
    }

    fn flush(&self) {}
}

impl Texts {
    fn take(&self) -> Vec<Event> {
        let texts = std::mem::take(&mut *self.0.lock().expect("one thread"));
        texts.iter().map(|text| event(text)).collect()
    }
}

fn event(text: &str) -> Event {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..text.len()).step_by(2).map(digits).collect();
    bytemuck::pod_read_unaligned(&bytes)
}

/// What should be shown of a packet that went in as `frame` and came out as `run`, wrapped with headers of family `outer`
/// if it was wrapped.
fn expected(program: Program, outer: Family, frame: &Frame, run: &Run) -> Event {
    let (action, ethertype) = match (run.action, run.reason, outer) {
        (REDIRECT, Reason::Forwarded, Family::V4) => (Action::Send, ETHERTYPE_IPV4),
        (REDIRECT, Reason::Forwarded, Family::V6) => (Action::Send, ETHERTYPE_IPV6),
        (REDIRECT, Reason::Delivered, _) => (Action::Deliver, [run.bytes[12], run.bytes[13]]),
        (SHOT, ..) => (Action::Drop, [frame.bytes[12], frame.bytes[13]]),
        (UNSPEC, ..) => (Action::Pass, [frame.bytes[12], frame.bytes[13]]),
        other => panic!("{other:?}"),
    };
    let behind_ethernet = &run.bytes[14..];
    let captured = HEADS.into_iter().find(|length| *length <= behind_ethernet.len()).unwrap_or(0);
    let mut event = Event {
        program: program as u8,
        reason: run.reason as u8,
        action: action as u8,
        captured: u8::try_from(captured).expect("small"),
        length: u32::try_from(frame.bytes.len()).expect("small"),
        ifindex: frame.ifindex,
        mark: frame.mark,
        ethertype,
        ..Event::zeroed()
    };
    event.head[..captured].copy_from_slice(&behind_ethernet[..captured]);
    event
}

/// The part of an event that belongs to its packet; behind it is what is left of earlier ones.
fn own(mut event: Event) -> Event {
    event.head[event.captured.into()..].fill(0);
    event
}

#[test]
fn every_kind_of_verdict_is_shown_and_stays_what_it_is() {
    let texts = Texts::default();
    let mut marked = to_pod_frame_of(Family::V4);
    marked.mark = MARK;
    let mut stray = from_pod_frame();
    stray.bytes.truncate(20 + 14);
    let mut liar = from_wire_frame();
    liar.change::<Ipv4>(14, |ip| {
        ip.source = [192, 0, 2, 99];
        ip.checksum = ip.computed_checksum();
    });
    for outer in [Family::V4, Family::V6] {
        let mut programs = Programs::load_over(Travel::Vxlan, outer);
        let mut logger = programs.log_to(&texts);
        let frames = [
            (Program::FromPod, from_pod_frame_of(Family::V4)),
            (Program::FromPod, from_pod_frame_of(Family::V6)),
            (Program::FromPod, stray.clone()),
            (Program::FromWire, from_wire_frame_of(Family::V4, outer)),
            (Program::FromWire, from_wire_frame_of(Family::V6, outer)),
            (Program::FromWire, liar.clone()),
            (Program::ToPod, marked.clone()),
        ];
        for (program, frame) in frames {
            let silent = programs.run(program, &frame);
            logger.flush();
            assert_eq!(texts.take(), [], "nobody asked");
            programs.set_trace(EVERYTHING);
            let run = programs.run(program, &frame);
            programs.set_trace(Trace::default());
            logger.flush();
            let shown: Vec<Event> = texts.take().into_iter().map(own).collect();
            assert_eq!(shown, [expected(program, outer, &frame, &run)], "{run:?}");
            assert_eq!((run.action, run.reason), (silent.action, silent.reason));
            if run.reason != Reason::Forwarded {
                // What was wrapped differs in its outer identification.
                assert_eq!(run.bytes, silent.bytes);
            }
        }
        assert_eq!(programs.count(Program::FromPod, Reason::BadLength), 2);
        assert_eq!(programs.count(Program::FromWire, Reason::UnknownNode), 2, "dropped");
    }
}

#[test]
fn a_wrapped_packet_is_shown_with_what_is_inside() {
    let texts = Texts::default();
    let mut programs = Programs::load(Travel::Vxlan);
    let mut logger = programs.log_to(&texts);
    programs.set_trace(EVERYTHING);
    programs.run_uncounted(Program::FromPod, &from_pod_frame());
    programs.run_uncounted(Program::FromWire, &from_wire_frame());
    logger.flush();
    let events = texts.take();
    let [sent, delivered] = events[..] else { panic!("{events:?}") };
    assert_eq!((sent.ifindex, delivered.ifindex), (POD_PORT, UNDERLAY));
    // 20 bytes of IPv4, 8 of UDP, 8 of VXLAN and 14 of Ethernet.
    let tunnel = if programs.makes_room() { 50 } else { 0 };
    assert_eq!(sent.head[tunnel + 12..tunnel + 20], [POD, PEER_POD].concat());
    assert_eq!(delivered.head[12..20], [PEER_POD, POD].concat());
}

#[test]
fn what_nobody_asked_for_is_not_shown() {
    let mut programs = Programs::load(Travel::Direct);
    let frame = from_pod_frame();
    let others = |number: u32| u32::MAX ^ 1 << number;
    let table = [
        ("all", EVERYTHING, 1),
        ("the past", Trace { until: 1, ..EVERYTHING }, 0),
        ("other programs", Trace { programs: others(Program::FromPod as u32), ..EVERYTHING }, 0),
        ("this one", Trace { programs: 1 << Program::FromPod as u32, ..EVERYTHING }, 1),
        ("other reasons", Trace { reasons: u64::MAX ^ 1 << Reason::Forwarded as u32, ..EVERYTHING }, 0),
        ("this one", Trace { reasons: 1 << Reason::Forwarded as u32, ..EVERYTHING }, 1),
        ("nobody", Trace::default(), 0),
    ];
    for (name, trace, shown) in table {
        programs.set_trace(trace);
        let before = programs.shown();
        programs.run_uncounted(Program::FromPod, &frame);
        assert_eq!(programs.shown() - before, shown, "{name}");
    }
    programs.set_trace(Trace { one_in: 10, ..EVERYTHING });
    let before = programs.shown();
    for _ in 0..2000 {
        programs.run_uncounted(Program::FromPod, &frame);
    }
    let shown = programs.shown() - before;
    assert!((100..=320).contains(&shown), "{shown} of 2000, one in 10");
}

#[test]
fn a_full_ring_loses_verdicts_and_harms_no_packet() {
    let mut programs = Programs::load(Travel::Vxlan);
    programs.set_trace(EVERYTHING);
    let frame = from_wire_frame();
    let first = programs.run(Program::FromWire, &frame);
    for _ in 0..1000 {
        programs.run_uncounted(Program::FromWire, &frame);
    }
    assert_eq!(programs.run(Program::FromWire, &frame), first);
    assert_eq!(programs.shown(), 1002);
    let texts = Texts::default();
    programs.log_to(&texts).flush();
    let fetched = texts.take().len();
    assert!((200..1002).contains(&fetched), "{fetched}");
}
