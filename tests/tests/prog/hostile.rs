//! Packets that nobody sane would send: none is delivered wrong, none is changed and then passed on.

use ovl_common::wire::{Ipv4, Ipv6};
use ovl_common::{Config, FastPath, IpKey, Program, Travel};
use ovl_ebpf::early::from_wire_xdp;
use ovl_ebpf::ingress::from_wire;
use ovl_ebpf::ip::{Family, IpHeader};
use ovl_ebpf::packet::{IP, inner_ip};
use ovl_ebpf::testing::{
    Frame, MARK, OVERLAY, OVERLAY6, PEER_NODE, PEER_NODE6, POD, POD_PORT, POD6, config, from_pod_frame_of,
    from_wire_frame_of, remote_subnets, tables_over, to_pod_frame_of,
};
use ovl_ebpf::verdict::Verdict;

use crate::program::{Programs, REDIRECT, SHOT, UNSPEC, XDP_PASS};

/// How many packets each program gets; other kernels, which are emulated, get fewer.
fn packets() -> usize {
    std::env::var("OVL_HOSTILE_PACKETS").map_or(1_000_000, |number| number.parse().expect("a number"))
}

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

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// A good packet with up to four bytes changed, and now and then cut short or made longer; one of thirty is noise.
fn mutate(random: &mut Random, good: &Frame) -> Frame {
    let mut frame = good.clone();
    if random.below(30) == 0 {
        let keep = [14, IP + 20, IP + 40, 80][random.below(4)].min(frame.bytes.len());
        frame.bytes[keep..].fill_with(|| random.byte());
        return frame;
    }
    for _ in 0..random.below(5) {
        // Headers matter most, and some bytes matter at their edges.
        let position = random.below(frame.bytes.len().min(140));
        frame.bytes[position] = match random.below(4) {
            0 => 0,
            1 => 0xff,
            2 => frame.bytes[position] ^ (1 << random.below(8)),
            _ => random.byte(),
        };
    }
    match random.below(10) {
        0 => frame.bytes.truncate(IP + 1 + random.below(frame.bytes.len() - IP)),
        1 => frame.bytes.extend_from_slice(&[0x5a; 7]),
        _ => {}
    }
    frame
}

/// Runs mutations of `good` through a program, and has `check` look at those it sends somewhere.
fn throw(
    programs: &mut Programs,
    program: Program,
    good: &[Frame],
    seed: u64,
    check: impl Fn(&Frame, &Frame),
) {
    let mut random = Random(seed);
    let total = packets();
    let mut redirected = 0;
    for _ in 0..total {
        let one = &good[random.below(good.len())];
        let frame = mutate(&mut random, one);
        if !Programs::takes(&frame) {
            continue;
        }
        let (action, bytes) = programs.run_uncounted(program, &frame);
        // Dropped are those that the source check knows for lies.
        if action == UNSPEC || action == SHOT {
            assert_eq!(bytes, frame.bytes, "passed or dropped, but changed");
            continue;
        }
        assert_eq!(action, REDIRECT, "{frame:02x?}");
        redirected += 1;
        check(&frame, &Frame { bytes, ..frame.clone() });
    }
    if matches!(program, Program::FromPod | Program::FromWire) {
        assert!(redirected > total / 20, "only {redirected} of {total} were good enough: this tests nothing");
    }
}

/// Whether `address` lies in the peer's subnets.
fn is_peers(address: IpKey) -> bool {
    remote_subnets().into_iter().any(|(base, length)| {
        let bits = u32::from(length) + if base.is_ipv4() { 96 } else { 0 };
        ovl_common::Range::new(base.into(), bits).contains(address)
    })
}

fn check_delivery<O: IpHeader, I: IpHeader>(sent: &Frame, delivered: &Frame, node: IpKey, pod: IpKey) {
    let ip: I = delivered.read(IP);
    assert_eq!(ip.destination(), pod, "{sent:02x?}");
    assert!(is_peers(ip.source()), "{sent:02x?}");
    assert_eq!(sent.read::<O>(IP).source(), node, "{sent:02x?}");
    assert_eq!(delivered.bytes.len(), IP + ip.length(), "{sent:02x?}");
}

fn key(address: impl Into<std::net::IpAddr>) -> IpKey {
    address.into().into()
}

#[test]
fn from_wire_delivers_right_or_not_at_all() {
    let mut programs = Programs::load(Travel::Vxlan);
    let good = [from_wire_frame_of(Family::V4, Family::V4)];
    throw(&mut programs, Program::FromWire, &good, 0x6f76_6c01, |sent, delivered| {
        check_delivery::<Ipv4, Ipv4>(sent, delivered, key(PEER_NODE), key(POD));
    });
    let mut programs = Programs::load_over(Travel::Vxlan, Family::V6);
    let good = [from_wire_frame_of(Family::V6, Family::V6)];
    throw(&mut programs, Program::FromWire, &good, 0x6f76_6c02, |sent, delivered| {
        check_delivery::<Ipv6, Ipv6>(sent, delivered, key(PEER_NODE6), key(POD6));
    });
}

/// The library, which the same packets go through by other tests, strips the same packets, and no others.
#[test]
fn from_wire_xdp_strips_what_from_wire_would_deliver_or_nothing() {
    for (family, seed) in [(Family::V4, 0x6f76_6c07), (Family::V6, 0x6f76_6c08)] {
        let mut programs = Programs::load_over(Travel::Vxlan, family);
        let tables = tables_over(Travel::Vxlan, family);
        let good = from_wire_frame_of(family, family);
        let mut random = Random(seed);
        let mut stripped = 0;
        for _ in 0..packets() {
            let frame = mutate(&mut random, &good);
            if !Programs::takes(&frame) {
                continue;
            }
            let (action, bytes) = programs.run_uncounted(Program::FromWireXdp, &frame);
            assert_eq!(action, XDP_PASS);
            let mut expected = frame.clone();
            if from_wire_xdp(&mut expected, &tables) == Verdict::Strip {
                stripped += 1;
                assert_eq!(bytes[8..], expected.bytes, "{frame:02x?}");
                let mut late = frame.clone();
                assert_eq!(
                    from_wire(&mut late, &tables),
                    Verdict::Deliver { ifindex: POD_PORT },
                    "{frame:02x?}"
                );
                assert_eq!(from_wire(&mut expected, &tables), Verdict::Deliver { ifindex: POD_PORT });
                assert_eq!(expected.bytes, late.bytes, "{frame:02x?}");
            } else {
                assert_eq!(bytes, frame.bytes, "passed, but changed");
            }
        }
        assert!(stripped > packets() / 20, "only {stripped} were good enough: this tests nothing");
    }
}

fn check_wrapping<I: IpHeader, O: IpHeader>(sent: &Frame, wrapped: &Frame, node: IpKey) {
    assert_eq!(wrapped.bytes[inner_ip::<O>() + I::LENGTH..], sent.bytes[IP + I::LENGTH..], "{sent:02x?}");
    let outer: O = wrapped.read(IP);
    assert_eq!((outer.destination(), outer.is_intact()), (node, true), "{sent:02x?}");
    assert!(is_peers(wrapped.read::<I>(inner_ip::<O>()).destination()), "{sent:02x?}");
}

#[test]
fn from_pod_wraps_whole_packets_or_none() {
    let mut programs = Programs::load(Travel::Vxlan);
    throw(&mut programs, Program::FromPod, &[from_pod_frame_of(Family::V4)], 0x6f76_6c03, |sent, wrapped| {
        check_wrapping::<Ipv4, Ipv4>(sent, wrapped, key(PEER_NODE));
    });
    let mut programs = Programs::load_over(Travel::Vxlan, Family::V6);
    throw(&mut programs, Program::FromPod, &[from_pod_frame_of(Family::V6)], 0x6f76_6c04, |sent, wrapped| {
        check_wrapping::<Ipv6, Ipv6>(sent, wrapped, key(PEER_NODE6));
    });
}

/// Learning changes nothing and drops nothing, whatever it sees.
#[test]
fn what_learns_leaves_every_packet_alone() {
    let verified = Config { deadline: u64::MAX, fast_path: FastPath::Verified as u32, ..config() };
    let marked = |frame: Frame, ifindex: u32| Frame { mark: MARK, ifindex, ..frame };
    let mut programs = Programs::load(Travel::Vxlan);
    programs.set_config(verified);
    let untouched = |sent: &Frame, _: &Frame| panic!("it went elsewhere: {sent:02x?}");
    let good = [Family::V4, Family::V6].map(to_pod_frame_of).map(|frame| {
        let ifindex = frame.ifindex;
        marked(frame, ifindex)
    });
    throw(&mut programs, Program::ToPod, &good, 0x6f76_6c05, untouched);
    let good =
        [marked(from_pod_frame_of(Family::V4), OVERLAY), marked(from_pod_frame_of(Family::V6), OVERLAY6)];
    throw(&mut programs, Program::ToOverlay, &good, 0x6f76_6c06, untouched);
}
