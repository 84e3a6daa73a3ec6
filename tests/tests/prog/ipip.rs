//! IP in IP through the loaded programs, which do what the library says: every byte, every reason.

use ovl_common::wire::Ipv4;
use ovl_common::{Config, FastPath, Program, SourceCheck};
use ovl_ebpf::egress::from_pod;
use ovl_ebpf::ingress::from_wire;
use ovl_ebpf::ip::Family;
use ovl_ebpf::ipip::Ipip;
use ovl_ebpf::overlay::to_overlay;
use ovl_ebpf::packet::IP;
use ovl_ebpf::testing::{
    Frame, MARK, Mem, OVERLAY, OVERLAY6, ipip_config, ipip_from_pod_frame_of, ipip_from_wire_frame_of,
    ipip_from_wire_rows, ipip_tables,
};
use ovl_ebpf::verdict::Verdict;

use crate::program::{Programs, REDIRECT, Run, SHOT, UNSPEC};

const PAIRS: [(Family, Family); 3] =
    [(Family::V4, Family::V4), (Family::V4, Family::V6), (Family::V6, Family::V6)];

/// The library's word on a packet, as the program should say it.
fn expected(program: Program, frame: &Frame<Ipip>, tables: &Mem) -> Run {
    let mut frame = frame.clone();
    let verdict = match program {
        Program::FromPod => from_pod(&mut frame, tables),
        Program::FromWire => from_wire(&mut frame, tables),
        Program::ToPod | Program::ToOverlay | Program::FromWireXdp => to_overlay(&mut frame, tables),
    };
    let action = match verdict {
        Verdict::Pass(_) | Verdict::Strip => UNSPEC,
        Verdict::Drop(_) => SHOT,
        Verdict::Send { .. } | Verdict::Wrap { .. } | Verdict::Deliver { .. } | Verdict::Return { .. } => {
            REDIRECT
        }
    };
    Run { action, bytes: frame.bytes, reason: verdict.reason() }
}

/// The same but for the identification, which each CPU counts for itself, and for the EtherType of a packet that is sent:
/// the kernel writes it with the next hop's MAC.
fn normal(program: Program, mut run: Run) -> Run {
    let is_ipv4 = run.bytes.get(IP).is_some_and(|byte| byte >> 4 == 4);
    if run.action == REDIRECT && program != Program::FromWire {
        run.bytes[12..14].copy_from_slice(if is_ipv4 { &[8, 0] } else { &[0x86, 0xdd] });
    }
    if run.action == REDIRECT && is_ipv4 {
        let mut frame = Frame::new(0, run.bytes);
        frame.change::<Ipv4>(IP, |ip| {
            // With options it is another sum.
            assert!(ip.version_and_length != 0x45 || ip.checksum == ip.computed_checksum());
            (ip.id, ip.checksum) = ([0; 2], [0; 2]);
        });
        run.bytes = frame.bytes;
    }
    run
}

fn check(programs: &mut Programs, program: Program, name: &str, frame: &Frame<Ipip>, tables: &Mem) {
    let run = normal(program, programs.run(program, frame));
    assert_eq!(run, normal(program, expected(program, frame, tables)), "{name}");
}

/// What the kernel hands to the overlay device.
fn sent(inner: Family, outer: Family) -> Frame<Ipip> {
    Frame { ifindex: if outer == Family::V4 { OVERLAY } else { OVERLAY6 }, ..ipip_from_pod_frame_of(inner) }
}

#[test]
fn packets_are_wrapped_and_stripped_whatever_the_families() {
    for (inner, outer) in PAIRS {
        for stand_in in [false, true] {
            let name = format!("{inner:?} in {outer:?}, {stand_in}");
            let mut programs = Programs::load_ipip(outer, stand_in);
            let tables = ipip_tables(outer, stand_in);
            check(&mut programs, Program::FromPod, &name, &ipip_from_pod_frame_of(inner), &tables);
            check(&mut programs, Program::ToOverlay, &name, &sent(inner, outer), &tables);
            let into = ipip_from_wire_frame_of(inner, outer);
            if inner == outer || programs.changes_families() {
                check(&mut programs, Program::FromWire, &name, &into, &tables);
            } else {
                assert_eq!(programs.run(Program::FromWire, &into).action, UNSPEC, "{name}");
            }
        }
    }
}

#[test]
fn odd_packets_from_the_wire_meet_their_fate() {
    for stand_in in [false, true] {
        let mut programs = Programs::load_ipip(Family::V4, stand_in);
        for (name, change, ..) in ipip_from_wire_rows() {
            for check_sources in [SourceCheck::Off, SourceCheck::Loose, SourceCheck::Strict] {
                let config = Config { source_check: check_sources as u32, ..ipip_config(stand_in) };
                programs.set_config(Config { deadline: u64::MAX, ..config });
                let mut tables = ipip_tables(Family::V4, stand_in);
                tables.config = Some(config);
                let mut frame = ipip_from_wire_frame_of(Family::V4, Family::V4);
                change(&mut frame);
                // What cannot be made in a test run.
                if !(frame.rigid || frame.tagged || !frame.to_this_host) && Programs::takes(&frame) {
                    check(&mut programs, Program::FromWire, name, &frame, &tables);
                }
            }
        }
    }
}

#[test]
fn a_stand_in_goes_on_whatever_the_agent_says() {
    let mut programs = Programs::load_ipip(Family::V4, true);
    for change in [
        Config { deadline: 1, ..ipip_config(true) },
        Config { fast_path: FastPath::Off as u32, deadline: u64::MAX, ..ipip_config(true) },
        Config { fast_path: FastPath::Verified as u32, deadline: u64::MAX, ..ipip_config(true) },
        Config { abi: 0, ..ipip_config(true) },
    ] {
        programs.set_config(change);
        let mut tables = ipip_tables(Family::V4, true);
        // The kernel's clock is past any deadline of the library's tests.
        tables.config = Some(change);
        tables.now = 2;
        let into = ipip_from_wire_frame_of(Family::V4, Family::V4);
        check(&mut programs, Program::FromWire, "in", &into, &tables);
        check(&mut programs, Program::ToOverlay, "out", &sent(Family::V4, Family::V4), &tables);
        let marked = Frame { mark: MARK, ..sent(Family::V4, Family::V4) };
        check(&mut programs, Program::ToOverlay, "accepted", &marked, &tables);
    }
}
