//! What XDP makes of packets: stripped ones have a note in front, all others are as they were.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use aya::programs::{TcAttachType, XdpMode, tc};
use ovl_common::wire::Ethernet;
use ovl_common::{Config, FastPath, Mac, Program, Reason, Travel};
use ovl_ebpf::early::from_wire_xdp;
use ovl_ebpf::ip::Family;
use ovl_ebpf::testing::{
    Frame, Mem, TOKEN, UNDERLAY, VTEP, config, dropped_from_wire, from_wire_frame, from_wire_frame_of,
    left_to_the_kernel_from_wire, left_to_the_kernel_from_wire6, tables_over,
};
use ovl_ebpf::verdict::Verdict;
use ovl_tests::wait::wait_for;

use crate::program::{Programs, Run, XDP_PASS};

const NOTE: usize = size_of::<u64>();
const SOON: Duration = Duration::from_secs(30);

/// The library's word on a packet, as the program should say it.
fn expected(frame: &Frame, tables: &Mem) -> Run {
    let mut frame = frame.clone();
    let verdict = from_wire_xdp(&mut frame, tables);
    let note = frame.note.map(u64::to_ne_bytes);
    let bytes = [note.as_ref().map_or(&[][..], |note| note.as_slice()), &frame.bytes].concat();
    Run { action: XDP_PASS, bytes, reason: verdict.reason() }
}

#[test]
fn what_is_for_a_pod_is_stripped_whatever_the_families() {
    for outer in [Family::V4, Family::V6] {
        let mut programs = Programs::load_over(Travel::Vxlan, outer);
        for inner in [Family::V4, Family::V6] {
            let frame = from_wire_frame_of(inner, outer);
            let run = programs.run(Program::FromWireXdp, &frame);
            assert_eq!(run, expected(&frame, &tables_over(Travel::Vxlan, outer)), "{inner:?} in {outer:?}");
            assert_eq!(run.reason, Reason::Stripped);
            let note = u64::from_ne_bytes(run.bytes[..NOTE].try_into().expect("so long"));
            assert_eq!(note, TOKEN | u64::from(outer == Family::V6));
        }
    }
}

#[test]
fn everything_else_passes_untouched() {
    type Rows = Vec<(&'static str, fn(&mut Frame), Reason)>;
    let others: Rows = vec![
        ("another station", |f| f.change::<Ethernet>(0, |e| e.destination = Mac([2; 6])), Reason::NotForUs),
        ("a tag", |f| f.change::<Ethernet>(0, |e| e.ethertype = [0x81, 0]), Reason::NotIp),
    ];
    let dropped = dropped_from_wire().into_iter().map(|(name, change, reason, _)| (name, change, reason));
    let tables = [
        (
            Family::V4,
            left_to_the_kernel_from_wire().into_iter().chain(dropped).chain(others).collect::<Rows>(),
        ),
        (Family::V6, left_to_the_kernel_from_wire6()),
    ];
    for (family, rows) in tables {
        let mut programs = Programs::load_over(Travel::Vxlan, family);
        let mut ran = 0;
        for (name, change, _) in rows {
            let mut frame = from_wire_frame_of(family, family);
            change(&mut frame);
            // Only tc knows of these; a test run takes no frame without an Ethernet header's worth of payload.
            if frame.tagged || frame.rigid || !frame.to_this_host || !Programs::takes(&frame) {
                continue;
            }
            ran += 1;
            let run = programs.run(Program::FromWireXdp, &frame);
            assert_eq!(run, expected(&frame, &tables_over(Travel::Vxlan, family)), "{name}");
            assert_eq!(run.bytes, frame.bytes, "{name}");
        }
        assert!(ran > 10, "{ran}");
    }
}

#[test]
fn nothing_is_stripped_that_nobody_would_deliver() {
    let mut programs = Programs::load(Travel::Vxlan);
    let frame = from_wire_frame();
    let good = Config { deadline: u64::MAX, ..config() };
    for (config, reason) in [
        (Config { token: 0, ..good }, Reason::NoConfig),
        (Config { abi: 1, ..good }, Reason::NoConfig),
        (Config { deadline: 1, ..good }, Reason::Expired),
        (Config { fast_path: FastPath::Off as u32, ..good }, Reason::FastPathOff),
        (Config { fast_path: FastPath::Verified as u32, ..good }, Reason::NoFlow),
        (Config { xdp_after_gro: 1, ..good }, Reason::Aggregate),
    ] {
        programs.set_config(config);
        let run = programs.run(Program::FromWireXdp, &frame);
        assert_eq!(run, Run { action: XDP_PASS, bytes: frame.bytes.clone(), reason });
    }
}

/// Jumbo frames come in several buffers, of which programs see the first.
#[test]
fn a_packet_in_several_buffers_is_stripped_as_others() {
    let mut programs = Programs::load(Travel::Vxlan);
    let always = Config { deadline: u64::MAX, ..config() };
    let jumbo = ovl_common::Tunnel { mtu: 8950, ..always.tunnel_v4 };
    programs.set_config(Config { tunnel_v4: jumbo, ..always });
    let frame = ovl_ebpf::testing::from_wire_frame_with(8000);
    let run = programs.run(Program::FromWireXdp, &frame);
    assert_eq!((run.action, run.reason), (XDP_PASS, Reason::Stripped));
    let mut tables = tables_over(Travel::Vxlan, Family::V4);
    tables.config = Some(Config { tunnel_v4: jumbo, ..config() });
    let mut stripped = frame;
    assert_eq!(from_wire_xdp(&mut stripped, &tables), Verdict::Strip);
    assert_eq!(run.bytes[NOTE..], stripped.bytes);
}

fn shell(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().expect("there is a shell");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The token goes from the one program to the other on a live device; and a flow that ages in between is the kernel's, as if
/// the overlay device had stripped it. So that it ages for sure, either program has maps of its own.
#[test]
fn what_tc_cannot_deliver_after_all_comes_out_of_the_overlay_device() {
    let mut early = Programs::load(Travel::Vxlan);
    let mut late = Programs::once_more(Travel::Vxlan);
    late.set_config(Config { deadline: u64::MAX, fast_path: FastPath::Verified as u32, ..config() });
    shell(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; for i in underlay overlay; do ip link set $i-peer up; ip link set $i up; done",
    );
    early.xdp().attach_to_if_index(UNDERLAY, XdpMode::Driver).expect("a veth runs it");
    let _ = tc::qdisc_add_clsact("underlay");
    late.classifier(Program::FromWire).attach("underlay", TcAttachType::Ingress).expect("attaches");
    let dir = tempfile::tempdir().expect("a directory");
    let (frame, log, seen) = (dir.path().join("frame"), dir.path().join("log"), dir.path().join("seen"));
    let sent = from_wire_frame();
    fs::write(&frame, &sent.bytes).expect("writes");
    let mut capture = Command::new("tcpdump")
        .args(["-Z", "root", "-i", "overlay", "-c", "1", "-U", "--immediate-mode", "-w"])
        .arg(&seen)
        .stderr(fs::File::create(&log).expect("a file"))
        .stdout(Stdio::null())
        .spawn()
        .expect("tcpdump is installed");
    wait_for("tcpdump to listen", SOON, || Ok(fs::read_to_string(&log)?.contains("listening on")))
        .expect("soon");
    shell(&format!("socat -u FILE:{} INTERFACE:underlay-peer", frame.display()));
    let arrived = wait_for("the packet to arrive", SOON, || Ok(capture.try_wait()?.is_some()));
    let _ended = capture.kill().and_then(|()| capture.wait());
    assert_eq!(early.count(Program::FromWireXdp, Reason::Stripped), 1);
    assert_eq!(late.count(Program::FromWire, Reason::NoFlow), 1);
    arrived.expect("soon");
    // Behind the headers of the file and of the packet.
    let seen = fs::read(&seen).expect("a capture").split_off(24 + 16);
    let mut expected = sent;
    assert_eq!(from_wire_xdp(&mut expected, &tables_over(Travel::Vxlan, Family::V4)), Verdict::Strip);
    expected.change::<Ethernet>(0, |ethernet| ethernet.destination = VTEP);
    assert_eq!(seen, expected.bytes);
}
