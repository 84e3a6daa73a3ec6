//! Packets in IP that are not good, or not for the fast path.

use ovl_common::Reason;
use ovl_common::wire::Ipv4;

use super::Frame;
use crate::ipip::Ipip;
use crate::packet::IP;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is the kernel's, untouched.
    Left(Reason),
    /// It is taken out of its tunnel and handed to the device that stands in for the kernel's.
    HandedIn(Reason),
    /// It is dropped.
    Dropped(Reason),
}

/// A packet made from `ipip_from_wire_frame_of`, IPv4 in IPv4, and its fate where the kernel has a device for it and where
/// another stands in.
pub type Row = (&'static str, fn(&mut Frame<Ipip>), Fate, Fate);

const INNER_IP: usize = IP + 20;

fn outer(frame: &mut Frame<Ipip>, change: impl FnOnce(&mut Ipv4)) {
    frame.change::<Ipv4>(IP, |ip| {
        change(ip);
        ip.checksum = ip.computed_checksum();
    });
}

fn inner(frame: &mut Frame<Ipip>, change: impl FnOnce(&mut Ipv4)) {
    frame.change::<Ipv4>(INNER_IP, |ip| {
        change(ip);
        ip.checksum = ip.computed_checksum();
    });
}

/// Cuts the packet, of which the outer header knows.
fn cut(frame: &mut Frame<Ipip>, length: usize) {
    frame.bytes.truncate(length);
    let length = u16::try_from(length - IP).expect("short");
    outer(frame, |ip| ip.total_length = length.to_be_bytes());
}

/// Packets on the underlay, with `--source-check loose`.
pub fn ipip_from_wire_rows() -> Vec<Row> {
    use Fate::{Dropped, HandedIn, Left};
    use Reason as R;
    fn same(name: &'static str, change: fn(&mut Frame<Ipip>), fate: Fate) -> Row {
        (name, change, fate, fate)
    }
    fn slow(name: &'static str, change: fn(&mut Frame<Ipip>), reason: Reason) -> Row {
        (name, change, Left(reason), HandedIn(reason))
    }
    vec![
        same("another address", |f| outer(f, |i| i.destination = [192, 0, 2, 99]), Left(R::NotTunnel)),
        same("udp", |f| outer(f, |i| i.protocol = 17), Left(R::NotTunnel)),
        same("ipv6 in ipv4", |f| outer(f, |i| i.protocol = 41), Left(R::NotTunnel)),
        same("outer options", |f| outer(f, |i| i.version_and_length = 0x46), Left(R::Options)),
        same("outer fragment", |f| outer(f, |i| i.fragment = [0x20, 0]), Left(R::Fragment)),
        same("outer checksum", |f| f.change::<Ipv4>(IP, |i| i.checksum = [1, 2]), Left(R::BadHeader)),
        same("longer than there is", |f| outer(f, |i| i.total_length = [1, 0]), Left(R::BadLength)),
        slow("padded", |f| f.bytes.push(0), R::BadLength),
        same("nothing inside", |f| cut(f, INNER_IP), Left(R::Short)),
        same("half a header inside", |f| cut(f, INNER_IP + 10), Left(R::Short)),
        same("ipv6 inside", |f| inner(f, |i| i.version_and_length = 0x65), Left(R::BadHeader)),
        slow("inner options", |f| inner(f, |i| i.version_and_length = 0x46), R::Options),
        slow("inner fragment", |f| inner(f, |i| i.fragment = [0x20, 0]), R::Fragment),
        slow("inner length", |f| inner(f, |i| i.total_length = [0, 40]), R::BadLength),
        slow("inner ttl", |f| inner(f, |i| i.ttl = 1), R::Ttl),
        slow("sctp", |f| inner(f, |i| i.protocol = 132), R::Protocol),
        slow("a tunnel inside", |f| inner(f, |i| i.protocol = 4), R::Protocol),
        slow("unknown pod", |f| inner(f, |i| i.destination = [10, 42, 3, 9]), R::UnknownPod),
        slow("a client of a pod", |f| inner(f, |i| i.source = [8, 8, 8, 8]), R::ForeignSource),
        same("unknown node", |f| outer(f, |i| i.source = [192, 0, 2, 99]), Dropped(R::UnknownNode)),
        same("another node's pod", |f| outer(f, |i| i.source = [192, 0, 2, 13]), Dropped(R::WrongNode)),
        // It may be of another tunnel to this address.
        slow(
            "unknown node, to elsewhere",
            |f| {
                outer(f, |i| i.source = [192, 0, 2, 99]);
                inner(f, |i| i.destination = [8, 8, 8, 8]);
            },
            R::NotOverlay,
        ),
        ("congestion it can't mark", |f| outer(f, |i| i.tos = 0b11), Left(R::Ecn), Dropped(R::Ecn)),
        slow(
            "another experiment's congestion",
            |f| {
                outer(f, |i| i.tos = 0b01);
                inner(f, |i| i.tos = 0b10);
            },
            R::Ecn,
        ),
        same("vlan", |f| f.tagged = true, Left(R::Vlan)),
        same("another host's", |f| f.to_this_host = false, Left(R::NotForUs)),
        same("no room", |f| f.rigid = true, Left(R::NoRoom)),
    ]
}
