//! `from_wire_xdp`: takes packets of verified flows out of their tunnel before the kernel makes socket buffers of them, so
//! that it aggregates (GRO) what is inside. The program at tc, [`crate::ingress`], delivers them.
//!
//! It drops nothing, and leaves whatever is not on the fast path to the others, untouched.

use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, UDP};
use ovl_common::{IpKey, Reason};

use crate::active::{Active, active};
use crate::decap::Outer;
use crate::flow::{Direction, may_go};
use crate::ingress::{note, payload};
use crate::ip::IpHeader;
use crate::packet::{Early, IP};
use crate::tables::Tables;
use crate::tunnel::Tunnel as _;
use crate::verdict::Verdict;

/// Decides about a packet that the underlay device has received.
#[inline(always)]
pub fn from_wire_xdp<P: Early, T: Tables>(packet: &mut P, tables: &T) -> Verdict<'static> {
    Verdict::of(active(tables).and_then(|active| look(packet, tables, &active)))
}

#[inline(always)]
fn look<P: Early, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
) -> Result<Verdict<'static>, Reason> {
    if active.config.token == 0 {
        return Err(Reason::NoConfig);
    }
    let ethernet: &Ethernet = packet.at(0)?;
    if ethernet.destination != active.config.underlay_mac {
        return Err(Reason::NotForUs);
    }
    match ethernet.ethertype {
        ETHERTYPE_IPV4 => open::<Ipv4, P, T>(packet, tables, active),
        ETHERTYPE_IPV6 => open::<Ipv6, P, T>(packet, tables, active),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn open<O: IpHeader, P: Early, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
) -> Result<Verdict<'static>, Reason> {
    if !P::Tunnel::is_to::<O>(active.config, packet.at(IP)?) {
        return Err(Reason::NotTunnel);
    }
    let outer = P::Tunnel::outer::<O, P>(packet, active.config)?;
    let node = packet.at::<O>(IP)?.source();
    match outer.ethertype {
        ETHERTYPE_IPV4 => strip::<O, Ipv4, P, T>(packet, tables, active, &outer, node),
        ETHERTYPE_IPV6 => strip::<O, Ipv6, P, T>(packet, tables, active, &outer, node),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn strip<O: IpHeader, I: IpHeader, P: Early, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
    outer: &Outer,
    node: IpKey,
) -> Result<Verdict<'static>, Reason> {
    // What the source check would drop is dropped by the program at tc, which says so.
    let payload =
        payload::<O, I, P, T>(packet, tables, active, outer, node).map_err(|refused| refused.reason)?;
    // Whether this is an aggregate, generic XDP does not tell (trap T2).
    if active.config.xdp_after_gro != 0 && payload.inner.protocol == UDP {
        return Err(Reason::Aggregate);
    }
    let endpoint = tables.endpoint(payload.inner.destination).ok_or(Reason::UnknownPod)?;
    may_go(tables, active, Direction::Into, endpoint.ifindex, &payload.inner)?;
    packet.write_note(note(active.config, O::FAMILY))?;
    if let Err(reason) = packet.pop_tunnel::<O>(I::FAMILY) {
        packet.remove_note();
        return Err(reason);
    }
    if payload.is_congested {
        let ip: &mut I = packet.at_mut(IP).map_err(|_short| Reason::Mangled)?;
        let _added = ip.mark_congestion();
    }
    Ok(Verdict::Strip)
}

#[cfg(test)]
mod tests {
    use ovl_common::{Config, FastPath, Mac, Travel};

    use super::*;
    use crate::ingress::from_wire;
    use crate::ip::Family;
    use crate::packet::inner_ip;
    use crate::testing::{
        Frame, Mem, OVERLAY, OVERLAY6, POD_PORT, TOKEN, VTEP, config, dropped_from_wire, from_wire_frame,
        from_wire_frame_of, left_to_the_kernel_from_wire, left_to_the_kernel_from_wire6, outer, tables,
        tables_over,
    };

    /// What only tc can see, as a tag that is beside the bytes and whom the driver took the packet for, and what it alone
    /// asks about a packet that is none of IP.
    const ONLY_AT_TC: [&str; 3] = ["vlan", "another host's", "unknown node, arp inside"];

    fn with(change: impl FnOnce(&mut Config)) -> Mem {
        let mut tables = tables(Travel::Vxlan);
        let mut config = config();
        change(&mut config);
        tables.config = Some(config);
        tables
    }

    fn stripped(mut frame: Frame, tables: &Mem) -> Frame {
        assert_eq!(from_wire_xdp(&mut frame, tables), Verdict::Strip);
        frame
    }

    #[test]
    fn what_is_stripped_early_is_delivered_as_what_is_stripped_late() {
        for outer in [Family::V4, Family::V6] {
            let tables = tables_over(Travel::Vxlan, outer);
            for inner in [Family::V4, Family::V6] {
                let frame = from_wire_frame_of(inner, outer);
                let mut late = frame.clone();
                assert_eq!(from_wire(&mut late, &tables), Verdict::Deliver { ifindex: POD_PORT });
                let mut early = stripped(frame.clone(), &tables);
                assert_eq!(early.note, Some(TOKEN | u64::from(outer == Family::V6)));
                assert_eq!(early.bytes[..12], frame.bytes[..12], "the kernel still takes it for this host's");
                assert_eq!(from_wire(&mut early, &tables), Verdict::Deliver { ifindex: POD_PORT });
                assert_eq!(early.bytes, late.bytes, "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn congestion_outside_is_marked_inside() {
        let tables = tables(Travel::Vxlan);
        let mut frame = from_wire_frame();
        outer(&mut frame, |ip| ip.tos = 0b11);
        frame.change::<Ipv4>(inner_ip::<Ipv4>(), |ip| {
            ip.tos = 0b10;
            ip.checksum = ip.computed_checksum();
        });
        let ip: Ipv4 = stripped(frame, &tables).read(IP);
        assert_eq!((ip.tos, ip.ttl, ip.is_intact()), (0b11, 64, true));
    }

    #[test]
    fn what_the_others_must_see_passes_untouched() {
        let check = |good: Frame, rows: Vec<(&str, crate::testing::Change, Reason)>, tables: &Mem| {
            for (name, change, reason) in rows.into_iter().filter(|(name, ..)| !ONLY_AT_TC.contains(name)) {
                let mut frame = good.clone();
                change(&mut frame);
                let before = frame.bytes.clone();
                assert_eq!(from_wire_xdp(&mut frame, tables), Verdict::Pass(reason), "{name}");
                assert_eq!((frame.bytes, frame.note), (before, None), "{name}");
            }
        };
        check(from_wire_frame(), left_to_the_kernel_from_wire(), &tables(Travel::Vxlan));
        let good = from_wire_frame_of(Family::V6, Family::V6);
        check(good, left_to_the_kernel_from_wire6(), &tables_over(Travel::Vxlan, Family::V6));
        let dropped = dropped_from_wire().into_iter().map(|(name, change, reason, _)| (name, change, reason));
        check(from_wire_frame(), dropped.collect(), &tables(Travel::Vxlan));
        let others: Vec<(&str, crate::testing::Change, Reason)> = vec![
            ("another station's", |f| f.change::<Ethernet>(0, |e| e.destination = VTEP), Reason::NotForUs),
            ("a group's", |f| f.change::<Ethernet>(0, |e| e.destination = Mac([255; 6])), Reason::NotForUs),
            ("tagged", |f| f.change::<Ethernet>(0, |e| e.ethertype = [0x81, 0]), Reason::NotIp),
            ("metadata of others", |f| f.note = Some(1), Reason::Metadata),
        ];
        for (name, change, reason) in others {
            let mut frame = from_wire_frame();
            change(&mut frame);
            let (before, note) = (frame.bytes.clone(), frame.note);
            assert_eq!(from_wire_xdp(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(reason), "{name}");
            assert_eq!((frame.bytes, frame.note), (before, note), "{name}");
        }
    }

    #[test]
    fn nothing_is_stripped_that_nobody_would_deliver() {
        type Change = fn(&mut Config);
        let table: [(&str, Change, Reason); 6] = [
            ("nobody at tc", |c| c.token = 0, Reason::NoConfig),
            ("another agent", |c| c.abi += 1, Reason::NoConfig),
            ("dead", |c| c.deadline = 1, Reason::Expired),
            ("off", |c| c.fast_path = FastPath::Off as u32, Reason::FastPathOff),
            ("not verified", |c| c.fast_path = FastPath::Verified as u32, Reason::NoFlow),
            ("perhaps an aggregate", |c| c.xdp_after_gro = 1, Reason::Aggregate),
        ];
        for (name, change, reason) in table {
            let mut frame = from_wire_frame();
            let before = frame.bytes.clone();
            assert_eq!(from_wire_xdp(&mut frame, &with(change)), Verdict::Pass(reason), "{name}");
            assert_eq!((frame.bytes, frame.note), (before, None), "{name}");
        }
    }

    #[test]
    fn a_flow_is_only_looked_at() {
        let verified = with(|c| c.fast_path = FastPath::Verified as u32);
        // SYN, FIN and RST are for the program at tc, which sees the tunnel packet.
        for flags in [0x02, 0x11, 0x04] {
            let mut frame = from_wire_frame();
            frame.change::<Ipv4>(inner_ip::<Ipv4>(), |ip| ip.protocol = 6);
            let tcp = inner_ip::<Ipv4>() + 20;
            frame.bytes[tcp + 12..tcp + 14].copy_from_slice(&[0x50, flags]);
            assert_eq!(from_wire_xdp(&mut frame, &verified), Verdict::Pass(Reason::TcpFlags));
            assert!(verified.flows().is_empty());
        }
    }

    #[test]
    fn what_cannot_be_delivered_after_all_is_given_to_the_overlay_device() {
        type Change = fn(&mut Config);
        let table: [(&str, Change, Reason); 3] = [
            ("died in between", |c| c.deadline = 1, Reason::Expired),
            ("switched off in between", |c| c.fast_path = FastPath::Off as u32, Reason::FastPathOff),
            ("forgotten in between", |c| c.fast_path = FastPath::Verified as u32, Reason::NoFlow),
        ];
        for (outer, ifindex) in [(Family::V4, OVERLAY), (Family::V6, OVERLAY6)] {
            for (name, change, reason) in table {
                let mut tables = tables_over(Travel::Vxlan, outer);
                let mut frame = stripped(from_wire_frame_of(Family::V4, outer), &tables);
                let before = frame.clone();
                let mut config = config();
                change(&mut config);
                tables.config = Some(config);
                assert_eq!(from_wire(&mut frame, &tables), Verdict::Return { ifindex, reason }, "{name}");
                assert_eq!(frame.read::<Ethernet>(0).destination, VTEP);
                assert_eq!(frame.bytes[6..], before.bytes[6..], "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_longer_known_to_be_stripped_or_is_of_a_vlan_is_the_kernels() {
        let tables = tables(Travel::Vxlan);
        let good = stripped(from_wire_frame(), &tables);
        let mut tagged = Frame { tagged: true, ..good.clone() };
        assert_eq!(from_wire(&mut tagged, &tables), Verdict::Pass(Reason::Vlan));
        assert_eq!(tagged.bytes, good.bytes);
        // Not the token, or no token: packets of a tunnel's peer are not to come without it.
        for (note, token) in [(Some(TOKEN ^ 2), TOKEN), (None, TOKEN), (Some(0), 0), (Some(1), 0)] {
            let mut frame = Frame { note, ..good.clone() };
            let tables = with(|c| c.token = token);
            assert_eq!(from_wire(&mut frame, &tables), Verdict::Pass(Reason::OtherWay), "{note:?} {token}");
            assert_eq!(frame.bytes, good.bytes);
        }
    }

    #[test]
    fn any_prefix_and_any_flipped_byte_is_stripped_right_or_left_alone() {
        let tables = tables(Travel::Vxlan);
        let whole = from_wire_frame();
        for cut in whole.prefixes() {
            let mut frame = cut.clone();
            let verdict = from_wire_xdp(&mut frame, &tables);
            assert!(matches!(verdict, Verdict::Pass(_)), "cut at {}", cut.bytes.len());
            assert_eq!((frame.bytes, frame.note), (cut.bytes, None));
        }
        for (what, damaged) in whole.damaged() {
            let (mut early, mut late) = (damaged.clone(), damaged.clone());
            let verdict = from_wire(&mut late, &tables);
            if from_wire_xdp(&mut early, &tables) == Verdict::Strip {
                assert_eq!(from_wire(&mut early, &tables), verdict, "{what}");
                assert_eq!(early.bytes, late.bytes, "{what}");
            } else {
                assert_eq!((early.bytes, early.note), (damaged.bytes, None));
            }
        }
    }
}
