//! `to_overlay`: what the kernel sends to other nodes' pods, at the last moment before its tunnel or the wire.
//!
//! Netfilter has had its say by then: packets that it marked make their flow known. What the node itself sends into the
//! tunnel is wrapped here, which spares it the tunnel device's own way.

use ovl_common::Reason;
use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6};

use crate::active::{Active, configured};
use crate::egress::{fits, outer_length};
use crate::encap::Hops;
use crate::flow::Direction;
use crate::inspect::{TRANSPORT, Trailer, check_link_layer, inspect};
use crate::ip::{Family, IpHeader};
use crate::learn::verify;
use crate::packet::{IP, Packet};
use crate::tables::Tables;
use crate::tunnel::Tunnel as _;
use crate::verdict::Verdict;

/// Decides about a packet at the egress of the overlay device, or of the underlay device.
#[inline(always)]
pub fn to_overlay<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict<'static> {
    let config = match configured(tables) {
        Ok(config) => config,
        Err(reason) => return Verdict::Pass(reason),
    };
    let decided = Active::of(tables, config).and_then(|active| match packet.ethertype() {
        ETHERTYPE_IPV4 => decide::<Ipv4, P, T>(packet, tables, &active),
        ETHERTYPE_IPV6 => decide::<Ipv6, P, T>(packet, tables, &active),
        _ => Err(Reason::NotIp),
    });
    // It has served its purpose, and does not end with the agent. A mark would keep the tunnel device from using the route
    // it has cached, and be there for the routing rules of the outer packet.
    let mark = packet.mark();
    if mark & config.mark != 0 {
        packet.set_mark(mark & !config.mark);
    }
    let verdict = Verdict::of(decided);
    if let Verdict::Pass(reason) = verdict { P::Tunnel::hand_out(packet, tables, reason) } else { verdict }
}

#[inline(always)]
fn decide<I: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
) -> Result<Verdict<'static>, Reason> {
    let is_marked = packet.mark() & active.config.mark != 0;
    let is_tunnel = packet.ifindex() != active.config.underlay;
    if is_marked {
        check_link_layer(packet)?;
        packet.make_linear(IP + I::LENGTH + TRANSPORT);
        return Err(verify::<I, P, T>(packet, tables, active, Direction::Out));
    }
    let device = packet.ifindex();
    if P::Tunnel::WRAPS_OWN && is_tunnel && packet.is_own() {
        if device == active.config.tunnel_v4.device {
            wrap::<I, Ipv4, P, T>(packet, tables, active)?;
            return Ok(Verdict::Send { ifindex: active.config.underlay, next_hop: None });
        }
        if device == active.config.tunnel_v6.device {
            wrap::<I, Ipv6, P, T>(packet, tables, active)?;
            return Ok(Verdict::Send { ifindex: active.config.underlay, next_hop: None });
        }
    }
    Err(Reason::Unmarked)
}

/// Wraps what the node itself sends, as the kernel addressed it. A function of its own for the sake of the stack.
#[inline(never)]
fn wrap<I: IpHeader, O: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
) -> Result<(), Reason> {
    check_link_layer(packet)?;
    packet.make_linear(IP + I::LENGTH + TRANSPORT);
    let config = active.config;
    let inner = inspect::<I, P>(packet, config, IP, Trailer::None)?;
    let remote = tables.remote(inner.destination).ok_or(Reason::NotOverlay)?;
    let ethernet: &Ethernet = packet.at(0)?;
    let is_of_this_tunnel = remote.node.is_ipv4() == (O::FAMILY == Family::V4);
    if remote.travel != P::Tunnel::TRAVEL as u8
        || !is_of_this_tunnel
        || ethernet.destination != remote.vtep_mac
    {
        return Err(Reason::OtherWay);
    }
    fits(&inner, O::tunnel(config).mtu)?;
    // Whether the way takes it is the kernel's to say, which the stack leaves no room to ask here.
    if O::FAMILY == Family::V6 && outer_length::<O, P>(&inner) > O::LEAST_MTU {
        return Err(Reason::Oversize);
    }
    P::Tunnel::wrap::<I, O, P, T>(packet, tables, config, remote, &inner, Hops::None)
}

#[cfg(test)]
mod tests {
    use ovl_common::wire::TunnelHeaders;
    use ovl_common::{Config, FastPath, Mac, Travel};

    use super::*;
    use crate::packet::inner_ip;
    use crate::testing::{
        Frame, MARK, Mem, OVERLAY, OVERLAY6, PEER_VTEP, POD_PORT, UNDERLAY, VTEP, config, from_pod_frame_of,
        from_wire_frame_of, tables, tables_over,
    };
    use crate::{egress, ingress, learn, testing};

    /// What the kernel hands to its tunnel device of a pod's packet.
    fn to_tunnel(family: Family, device: u32) -> Frame {
        let mut frame = from_pod_frame_of(family);
        frame.ifindex = device;
        frame.change::<Ethernet>(0, |ethernet| {
            ethernet.source = VTEP;
            ethernet.destination = PEER_VTEP;
        });
        frame
    }

    fn verified(travel: Travel) -> Mem {
        let mut tables = tables(travel);
        tables.config = Some(Config { fast_path: FastPath::Verified as u32, ..config() });
        tables
    }

    #[test]
    fn what_netfilter_accepted_makes_its_flow_known_and_loses_the_mark() {
        for family in [Family::V4, Family::V6] {
            for (travel, device) in [(Travel::Vxlan, OVERLAY), (Travel::Direct, UNDERLAY)] {
                let tables = verified(travel);
                let mut frame = to_tunnel(family, device);
                frame.mark = MARK | 0x4000;
                assert_eq!(to_overlay(&mut frame, &tables), Verdict::Pass(Reason::Verified));
                assert_eq!(frame.mark, 0x4000, "others' bits stay");
                let flows = tables.flows();
                let [(key, flow)] = flows.as_slice() else { panic!("{flows:?}") };
                assert_eq!((key.local_port, key.remote_port, key.protocol), ([0x30, 0x39], [0, 53], 17));
                assert_eq!((flow.out.until, flow.out.epoch, flow.port), (600, 3, 0));
            }
        }
    }

    #[test]
    fn what_proves_nothing_teaches_nothing() {
        type Change = fn(&mut Frame);
        let table: [(&str, Change, Reason); 6] = [
            ("no mark", |f| f.mark = 0x4000, Reason::Unmarked),
            ("on the other device", |f| f.ifindex = UNDERLAY, Reason::OtherWay),
            ("tagged", |f| f.tagged = true, Reason::Vlan),
            ("foreign", |f| f.change::<Ipv4>(IP, |i| i.source = [8, 8, 8, 8]), Reason::ForeignSource),
            ("elsewhere", |f| f.change::<Ipv4>(IP, |i| i.destination = [8, 8, 8, 8]), Reason::NotOverlay),
            ("a fragment", |f| f.change::<Ipv4>(IP, |i| i.fragment = [0x20, 0]), Reason::Fragment),
        ];
        for (name, change, reason) in table {
            let tables = verified(Travel::Vxlan);
            let mut frame = to_tunnel(Family::V4, OVERLAY);
            frame.mark = MARK;
            change(&mut frame);
            let before = frame.bytes.clone();
            assert_eq!(to_overlay(&mut frame, &tables), Verdict::Pass(reason), "{name}");
            assert_eq!((frame.bytes, tables.flows()), (before, vec![]), "{name}");
            assert_eq!(frame.mark & MARK, 0, "{name}");
        }
    }

    #[test]
    fn the_mark_goes_even_where_the_agent_is_gone_or_does_not_want_the_fast_path() {
        for (change, reason) in [
            (Config { deadline: 0, ..config() }, Reason::Expired),
            (Config { fast_path: FastPath::Off as u32, ..config() }, Reason::FastPathOff),
        ] {
            let mut tables = verified(Travel::Vxlan);
            tables.config = Some(change);
            let mut frame = to_tunnel(Family::V4, OVERLAY);
            frame.mark = MARK | 0x4000;
            assert_eq!(to_overlay(&mut frame, &tables), Verdict::Pass(reason));
            assert_eq!((frame.mark, tables.flows()), (0x4000, vec![]));
        }
    }

    #[test]
    fn what_the_node_sends_is_wrapped_as_the_kernel_addressed_it() {
        for (outer, device) in [(Family::V4, OVERLAY), (Family::V6, OVERLAY6)] {
            let tables = tables_over(Travel::Vxlan, outer);
            let mut frame = to_tunnel(Family::V4, device);
            frame.is_own = true;
            let before = frame.clone();
            let verdict = to_overlay(&mut frame, &tables);
            assert_eq!(verdict, Verdict::Send { ifindex: UNDERLAY, next_hop: None });
            let at = if outer == Family::V4 { inner_ip::<Ipv4>() } else { inner_ip::<Ipv6>() };
            assert_eq!(frame.bytes[at..], before.bytes[IP..], "no hop is taken");
            assert_eq!(frame.read::<TunnelHeaders>(at - 30).ethernet.destination, PEER_VTEP);

            for mac in [Mac([2; 6]), Mac([255; 6])] {
                let mut frame = before.clone();
                frame.change::<Ethernet>(0, |ethernet| ethernet.destination = mac);
                assert_eq!(to_overlay(&mut frame, &tables), Verdict::Pass(Reason::OtherWay), "{mac}");
            }
        }
    }

    /// The life of a flow: neither direction is fast before netfilter accepted both, and each for itself.
    #[test]
    fn a_flow_is_fast_while_it_is_verified() {
        for family in [Family::V4, Family::V6] {
            let mut tables = verified(Travel::Vxlan);
            let out = |tables: &Mem| egress::from_pod(&mut from_pod_frame_of(family), tables).reason();
            let into = |tables: &Mem| {
                ingress::from_wire(&mut from_wire_frame_of(family, Family::V4), tables).reason()
            };
            let accept_out = |tables: &Mem| {
                let mut frame = to_tunnel(family, OVERLAY);
                frame.mark = MARK;
                to_overlay(&mut frame, tables).reason()
            };
            let accept_into = |tables: &Mem| {
                let mut frame = testing::to_pod_frame_of(family);
                frame.mark = MARK;
                learn::to_pod(&mut frame, tables).reason()
            };
            assert_eq!((out(&tables), into(&tables)), (Reason::NoFlow, Reason::NoFlow));
            assert_eq!(accept_out(&tables), Reason::Verified);
            assert_eq!((out(&tables), into(&tables)), (Reason::OneWay, Reason::NoFlow));
            assert_eq!(accept_into(&tables), Reason::Verified);
            assert_eq!((out(&tables), into(&tables)), (Reason::Forwarded, Reason::Delivered));
            tables.now = 601;
            assert_eq!((out(&tables), into(&tables)), (Reason::Aged, Reason::Aged));
            assert_eq!(accept_out(&tables), Reason::Verified);
            assert_eq!((out(&tables), into(&tables)), (Reason::Forwarded, Reason::Aged), "each for itself");
            assert_eq!(accept_into(&tables), Reason::Verified);
            tables.config = tables.config.map(|config| Config { epoch: 4, ..config });
            assert_eq!((out(&tables), into(&tables)), (Reason::Changed, Reason::Changed));
            assert_eq!((accept_out(&tables), accept_into(&tables)), (Reason::Verified, Reason::Verified));
            assert_eq!((out(&tables), into(&tables)), (Reason::Forwarded, Reason::Delivered));
            // The address is another pod's now.
            let moved = ovl_common::Endpoint { ifindex: POD_PORT + 1, ..testing::endpoint() };
            tables.set_endpoint(testing::POD, moved);
            tables.set_endpoint(testing::POD6, moved);
            assert_eq!(into(&tables), Reason::Changed);
        }
    }

    #[test]
    fn who_asks_for_an_echo_is_another_flow() {
        let echo = |frame: &mut Frame, kind: u8| {
            frame.change::<Ipv4>(IP, |ip| {
                ip.protocol = 1;
                ip.checksum = ip.computed_checksum();
            });
            frame.bytes[IP + 20..IP + 26].copy_from_slice(&[kind, 0, 0, 0, 0x12, 0x34]);
        };
        let tables = verified(Travel::Vxlan);
        let mut request = to_tunnel(Family::V4, OVERLAY);
        request.mark = MARK;
        echo(&mut request, 8);
        assert_eq!(to_overlay(&mut request, &tables).reason(), Reason::Verified);
        let deliver = |kind: u8| {
            let mut frame = testing::to_pod_frame_of(Family::V4);
            frame.mark = MARK;
            echo(&mut frame, kind);
            learn::to_pod(&mut frame, &tables).reason()
        };
        tables.learn_pod_mac(POD_PORT, &testing::POD_MAC);
        assert_eq!(deliver(0), Reason::Verified);
        let send = |kind: u8| {
            let mut frame = from_pod_frame_of(Family::V4);
            echo(&mut frame, kind);
            egress::from_pod(&mut frame, &tables).reason()
        };
        assert_eq!((send(8), send(0)), (Reason::Forwarded, Reason::NoFlow), "we ask; the peer may not");
    }

    fn tcp(frame: &mut Frame, flags: u8) {
        frame.change::<Ipv4>(IP, |ip| {
            ip.protocol = 6;
            ip.checksum = ip.computed_checksum();
        });
        frame.bytes[IP + 32..IP + 34].copy_from_slice(&[0x50, flags]);
    }

    /// What becomes of a TCP packet that netfilter accepted.
    fn accepted(tables: &Mem, flags: u8) -> Reason {
        let mut frame = to_tunnel(Family::V4, OVERLAY);
        frame.mark = MARK;
        tcp(&mut frame, flags);
        to_overlay(&mut frame, tables).reason()
    }

    fn sent(tables: &Mem, flags: u8) -> Reason {
        let mut frame = from_pod_frame_of(Family::V4);
        tcp(&mut frame, flags);
        egress::from_pod(&mut frame, tables).reason()
    }

    #[test]
    fn a_connection_that_begins_or_breaks_is_forgotten() {
        let living = |tables: &Mem| {
            let flows = tables.flows().into_iter().map(|(_, flow)| flow);
            flows.filter(|flow| flow.closed == 0).map(|flow| (flow.since, flow.out.until)).collect::<Vec<_>>()
        };
        let mut tables = verified(Travel::Vxlan);
        assert_eq!(accepted(&tables, 0x10), Reason::Verified);
        for flags in [0x02, 0x04, 0x14, 0x13, 0x17] {
            assert_eq!(living(&tables), [(tables.now, tables.now + 100)], "flags {flags:#x}");
            assert_eq!(sent(&tables, flags), Reason::TcpFlags);
            assert_eq!(living(&tables), [], "flags {flags:#x}");
            assert_eq!(sent(&tables, 0x10), Reason::NoFlow);
            assert_eq!(accepted(&tables, flags), Reason::TcpFlags, "and teaches nothing");
            tables.now += 1;
            assert_eq!(accepted(&tables, 0x10), Reason::Verified, "at once, and as a flow of its own");
        }
    }

    #[test]
    fn a_connection_that_is_accepted_is_verified_in_that_direction() {
        let tables = verified(Travel::Vxlan);
        assert_eq!(sent(&tables, 0x12), Reason::TcpFlags, "conntrack has to see it");
        assert_eq!(accepted(&tables, 0x12), Reason::Verified);
        assert_eq!(sent(&tables, 0x10), Reason::OneWay);
    }

    #[test]
    fn a_connection_that_ends_is_fast_no_more_and_its_last_packets_teach_nothing() {
        const SECOND: u64 = 1 << 30;
        let mut tables = verified(Travel::Vxlan);
        tables.config = tables.config.map(|config| Config { deadline: u64::MAX, ..config });
        tables.now = 70 * SECOND;
        assert_eq!(sent(&tables, 0x11), Reason::TcpFlags);
        assert_eq!(tables.flows(), [], "what is not known need not be closed");
        assert_eq!(accepted(&tables, 0x10), Reason::Verified);
        assert_eq!(sent(&tables, 0x11), Reason::TcpFlags);
        assert_eq!(accepted(&tables, 0x11), Reason::TcpFlags);
        assert_eq!(accepted(&tables, 0x10), Reason::Closing);
        assert_eq!(sent(&tables, 0x10), Reason::NoFlow);
        tables.now += 2 * SECOND;
        assert_eq!(accepted(&tables, 0x10), Reason::Verified, "one side has closed, the other goes on");
        assert_eq!(sent(&tables, 0x11), Reason::TcpFlags);
        assert_eq!(sent(&tables, 0x02), Reason::TcpFlags);
        assert_eq!(accepted(&tables, 0x12), Reason::Verified, "another connection between the same ports");
    }
}
