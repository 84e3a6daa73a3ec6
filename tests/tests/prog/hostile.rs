//! Packets that nobody sane would send: none is delivered wrong, none is changed and then passed on.

use ovl_common::wire::Ipv4;
use ovl_common::{Program, Travel};
use ovl_ebpf::packet::{IP, inner_ip};
use ovl_ebpf::testing::{Frame, PEER_NODE, PEER_POD, POD, from_pod_frame, from_wire_frame};

use crate::program::{Programs, REDIRECT, SHOT, UNSPEC};

const INNER_IP: usize = inner_ip::<Ipv4>();

/// A small generator with a fixed seed (xorshift64*): a failure can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("smaller than a usize")
    }
}

/// A good packet with up to four bytes changed, and now and then cut short or made longer.
fn mutate(random: &mut Random, good: &Frame) -> Frame {
    let mut frame = good.clone();
    for _ in 0..random.below(5) {
        // Headers matter most, and some bytes matter at their edges.
        let position = random.below(frame.bytes.len().min(100));
        frame.bytes[position] = match random.below(4) {
            0 => 0,
            1 => 0xff,
            2 => frame.bytes[position] ^ (1 << random.below(8)),
            _ => random.next().to_le_bytes()[0],
        };
    }
    match random.below(10) {
        0 => frame.bytes.truncate(IP + 1 + random.below(frame.bytes.len() - IP)),
        1 => frame.bytes.extend_from_slice(&[0x5a; 7]),
        _ => {}
    }
    frame
}

const PACKETS: usize = 20_000;

#[test]
fn from_wire_delivers_right_or_not_at_all() {
    let mut programs = Programs::load(Travel::Vxlan);
    let mut random = Random(0x6f76_6c01);
    let good = from_wire_frame();
    let mut delivered = 0;
    for _ in 0..PACKETS {
        let frame = mutate(&mut random, &good);
        if !Programs::takes(&frame) {
            continue;
        }
        let (action, bytes) = programs.run_uncounted(Program::FromWire, &frame);
        // Dropped are those that the source check knows for lies.
        if action == UNSPEC || action == SHOT {
            assert_eq!(bytes, frame.bytes, "passed or dropped, but changed");
            continue;
        }
        assert_eq!(action, REDIRECT, "{frame:02x?}");
        delivered += 1;
        let ip: Ipv4 = Frame::new(0, bytes).read(IP);
        assert_eq!(ip.destination, POD, "{frame:02x?}");
        assert_eq!(ip.source[..3], PEER_POD[..3], "{frame:02x?}");
        assert_eq!(frame.read::<Ipv4>(IP).source, PEER_NODE, "{frame:02x?}");
    }
    assert!(
        delivered > PACKETS / 20,
        "only {delivered} of {PACKETS} were good enough: the test tests nothing"
    );
}

#[test]
fn from_pod_wraps_whole_packets_or_none() {
    let mut programs = Programs::load(Travel::Vxlan);
    let mut random = Random(0x6f76_6c02);
    let good = from_pod_frame();
    let mut sent = 0;
    for _ in 0..PACKETS {
        let frame = mutate(&mut random, &good);
        if !Programs::takes(&frame) {
            continue;
        }
        let (action, bytes) = programs.run_uncounted(Program::FromPod, &frame);
        // Dropped are those that the source check knows for lies.
        if action == UNSPEC || action == SHOT {
            assert_eq!(bytes, frame.bytes, "passed or dropped, but changed");
            continue;
        }
        assert_eq!(action, REDIRECT, "{frame:02x?}");
        sent += 1;
        assert_eq!(bytes[INNER_IP + 20..], frame.bytes[IP + 20..], "{frame:02x?}");
        assert_eq!(Frame::new(0, bytes).read::<Ipv4>(IP).destination, PEER_NODE, "{frame:02x?}");
    }
    assert!(sent > PACKETS / 20, "only {sent} of {PACKETS} were good enough: the test tests nothing");
}
