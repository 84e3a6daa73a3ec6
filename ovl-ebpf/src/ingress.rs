//! `from_wire`: what another node sends to a pod here.

use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, UDP, fold};
use ovl_common::{Endpoint, IpKey, Reason, SourceCheck, Travel};

use crate::active::{Active, active};
use crate::decap::{self, Outer};
use crate::egress::fits;
use crate::flow::{Direction, admit};
use crate::inspect::{TRANSPORT, Trailer, check_link_layer, inspect};
use crate::ip::IpHeader;
use crate::packet::{IP, Packet, inner_ip};
use crate::tables::Tables;
use crate::verdict::Verdict;

/// Decides about a packet at the ingress of the underlay device.
#[inline(always)]
pub fn from_wire<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict<'static> {
    let carried = active(tables).and_then(|active| match packet.ethertype() {
        ETHERTYPE_IPV4 => carry::<Ipv4, P, T>(packet, tables, &active),
        ETHERTYPE_IPV6 => carry::<Ipv6, P, T>(packet, tables, &active),
        _ => Err(Reason::NotIp),
    });
    Verdict::of(carried)
}

/// `O` is the family of what is on the wire.
#[inline(always)]
fn carry<O: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
) -> Result<Verdict<'static>, Reason> {
    check_link_layer(packet)?;
    if !packet.to_this_host() {
        return Err(Reason::NotForUs);
    }
    packet.make_linear(IP + O::LENGTH);
    let ip: &O = packet.at(IP)?;
    if O::local(active.config).contains(ip.destination()) {
        return plain::<O, P, T>(packet, tables, active);
    }
    if !decap::is_to_tunnel(active.config, ip) {
        return Err(Reason::NotTunnel);
    }
    // No more than the shorter family takes: pulling one byte that is not there yet costs as much as all the rest.
    packet.make_linear(inner_ip::<O>() + size_of::<Ipv4>() + TRANSPORT);
    let outer = decap::outer::<O, P>(packet, active.config)?;
    let node = packet.at::<O>(IP)?.source();
    match outer.ethertype {
        ETHERTYPE_IPV4 => tunnelled::<O, Ipv4, P, T>(packet, tables, active, &outer, node),
        ETHERTYPE_IPV6 => tunnelled::<O, Ipv6, P, T>(packet, tables, active, &outer, node),
        _ => {
            if let Some(drop) = check_node(tables, active, node)? {
                return Ok(drop);
            }
            Err(Reason::NotIp)
        }
    }
}

#[inline(always)]
fn tunnelled<O: IpHeader, I: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
    outer: &Outer,
    node: IpKey,
) -> Result<Verdict<'static>, Reason> {
    packet.make_linear(inner_ip::<O>() + I::LENGTH + TRANSPORT);
    let ip: &I = packet.at(inner_ip::<O>())?;
    ip.check_version()?;
    if let Some(drop) = check_source(tables, active, node, ip.source())? {
        return Ok(drop);
    }
    outer.oddity?;
    let inner = inspect::<I, P>(packet, active.config, inner_ip::<O>(), Trailer::None)?;
    fits(&inner, O::tunnel(active.config).mtu)?;
    // What is stripped here still says that it is a tunnel's (trap T2), which TCP does not mind; a socket that wants
    // its datagrams one by one has them taken apart by that, wrongly.
    if inner.protocol == UDP && packet.segment_size().is_some() {
        return Err(Reason::Aggregate);
    }
    let congested = decap::must_mark_congestion(outer.tos, inner.tos)?;
    let endpoint = *tables.endpoint(inner.destination).ok_or(Reason::UnknownPod)?;
    admit(tables, active, Direction::Into, endpoint.ifindex, &inner)?;
    packet.pop_tunnel::<O>(I::FAMILY)?;
    finish::<I, P>(packet, &endpoint, congested).map_err(|_unfinished| Reason::Mangled)
}

/// The inner source's subnet must be leased by the node that sent the packet. An address of no node's may come from
/// somewhere behind the peer, such as a client that its NodePort does not translate: that is the kernel's.
#[inline(always)]
fn check_source<T: Tables>(
    tables: &T,
    active: &Active<'_>,
    node: IpKey,
    source: IpKey,
) -> Result<Option<Verdict<'static>>, Reason> {
    let Some(remote) = tables.remote(source) else {
        if let Some(drop) = check_node(tables, active, node)? {
            return Ok(Some(drop));
        }
        return refuse(active, SourceCheck::Strict, Reason::ForeignSource).map(Some);
    };
    if remote.node != node {
        if let Some(drop) = check_node(tables, active, node)? {
            return Ok(Some(drop));
        }
        return refuse(active, SourceCheck::Loose, Reason::WrongNode).map(Some);
    }
    if remote.travel == Travel::Vxlan as u8 { Ok(None) } else { Err(Reason::OtherWay) }
}

/// The outer source must be a node's.
#[inline(always)]
fn check_node<T: Tables>(
    tables: &T,
    active: &Active<'_>,
    node: IpKey,
) -> Result<Option<Verdict<'static>>, Reason> {
    if tables.is_node(node) {
        return Ok(None);
    }
    refuse(active, SourceCheck::Loose, Reason::UnknownNode).map(Some)
}

/// Drops where the source check is at least `from`; else the kernel decides.
#[inline(always)]
fn refuse(active: &Active<'_>, from: SourceCheck, reason: Reason) -> Result<Verdict<'static>, Reason> {
    if active.config.source_check >= from as u32 { Ok(Verdict::Drop(reason)) } else { Err(reason) }
}

#[inline(always)]
fn plain<I: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
) -> Result<Verdict<'static>, Reason> {
    packet.make_linear(IP + I::LENGTH + TRANSPORT);
    let inner = inspect::<I, P>(packet, active.config, IP, Trailer::Padding)?;
    fits(&inner, active.config.underlay_mtu)?;
    let remote = tables.remote(inner.source).ok_or(Reason::ForeignSource)?;
    if remote.travel != Travel::Direct as u8 {
        return Err(Reason::OtherWay);
    }
    let endpoint = *tables.endpoint(inner.destination).ok_or(Reason::UnknownPod)?;
    admit(tables, active, Direction::Into, endpoint.ifindex, &inner)?;
    finish::<I, P>(packet, &endpoint, false)
}

/// The frame as the pod's gateway would send it.
#[inline(always)]
fn finish<I: IpHeader, P: Packet>(
    packet: &mut P,
    endpoint: &Endpoint,
    congested: bool,
) -> Result<Verdict<'static>, Reason> {
    // The IP header first: where it cannot be written, nothing has changed.
    let ip: &mut I = packet.at_mut(IP)?;
    let mut added = u32::from(ip.take_hop());
    if congested {
        added += u32::from(ip.mark_congestion());
    }
    let ethernet: &mut Ethernet = packet.at_mut(0)?;
    *ethernet = Ethernet { destination: endpoint.pod, source: endpoint.gateway, ethertype: I::ETHERTYPE };
    if added != 0 {
        packet.add_to_sum(fold(added));
    }
    Ok(Verdict::Deliver { ifindex: endpoint.ifindex })
}

#[cfg(test)]
mod tests {
    use ovl_common::{Config, Mac};

    use super::*;
    use crate::ip::Family;
    use crate::testing::{
        Frame, GATEWAY, Mem, PEER_NODE, PEER_POD, PEER_POD6, POD, POD_MAC, POD_PORT, POD6, UNDERLAY,
        UNDERLAY_MAC, config, dropped_from_wire, from_wire_frame, from_wire_frame_of,
        left_to_the_kernel_from_wire, left_to_the_kernel_from_wire6, outer, tables, tables_over, udp,
    };

    const INNER_IP: usize = inner_ip::<Ipv4>();

    fn stripped<I: IpHeader>(mut frame: Frame, tables: &Mem) {
        let before = frame.clone();
        assert_eq!(from_wire(&mut frame, tables), Verdict::Deliver { ifindex: POD_PORT });
        let ethernet: Ethernet = frame.read(0);
        assert_eq!((ethernet.source, ethernet.destination), (GATEWAY, POD_MAC));
        assert_eq!(ethernet.ethertype, I::ETHERTYPE);
        let ip: I = frame.read(IP);
        assert_eq!((ip.hop_limit(), ip.tos(), ip.is_intact()), (63, 0, true));
        assert!(before.bytes.ends_with(&frame.bytes[IP + I::LENGTH..]), "the payload is untouched");
        assert_eq!(frame.bytes.len(), IP + ip.length());
    }

    #[test]
    fn a_tunnel_packet_is_stripped_and_delivered_whatever_the_families() {
        for outer in [Family::V4, Family::V6] {
            let tables = tables_over(Travel::Vxlan, outer);
            stripped::<Ipv4>(from_wire_frame_of(Family::V4, outer), &tables);
            stripped::<Ipv6>(from_wire_frame_of(Family::V6, outer), &tables);
        }
    }

    #[test]
    fn a_plain_packet_is_delivered_padding_and_all() {
        let macs = (Mac([2; 6]), UNDERLAY_MAC);
        for padding in [0, 4] {
            for mut bytes in [udp(PEER_POD, POD, macs, 5), udp(PEER_POD6, POD6, macs, 5)] {
                bytes.resize(bytes.len() + padding, 0);
                let mut frame = Frame::new(UNDERLAY, bytes);
                let verdict = from_wire(&mut frame, &tables(Travel::Direct));
                assert_eq!(verdict, Verdict::Deliver { ifindex: POD_PORT });
                assert_eq!(frame.read::<Ethernet>(0).destination, POD_MAC);
            }
        }
    }

    #[test]
    fn congestion_outside_is_marked_inside() {
        let mut frame = from_wire_frame();
        outer(&mut frame, |ip| ip.tos = 0b11);
        frame.change::<Ipv4>(INNER_IP, |ip| {
            ip.tos = 0b1010_1010;
            ip.checksum = ip.computed_checksum();
        });
        assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)).reason(), Reason::Delivered);
        let ip: Ipv4 = frame.read(IP);
        assert_eq!((ip.tos, ip.checksum), (0b1010_1011, ip.computed_checksum()));
    }

    #[test]
    fn a_devices_sum_over_the_packet_stays_right() {
        let total = |bytes: &[u8]| -> u32 {
            bytes
                .chunks(2)
                .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
                .sum()
        };
        for family in [Family::V4, Family::V6] {
            for (tos, inner_tos) in [(0, 0), (0b11, 0b01), (0b11, 0b10)] {
                let mut frame = from_wire_frame_of(family, Family::V4);
                outer(&mut frame, |ip| ip.tos = tos);
                match family {
                    Family::V4 => frame.change::<Ipv4>(INNER_IP, |ip| {
                        ip.tos = inner_tos;
                        ip.checksum = ip.computed_checksum();
                    }),
                    Family::V6 => {
                        frame.change::<Ipv6>(INNER_IP, |ip| ip.version_class_label[1] = inner_tos << 4);
                    }
                }
                let before = total(&frame.bytes[INNER_IP..]);
                let verdict = from_wire(&mut frame, &tables(Travel::Vxlan));
                assert_eq!(verdict, Verdict::Deliver { ifindex: POD_PORT });
                assert_eq!(fold(before + frame.added_to_sum), fold(total(&frame.bytes[IP..])));
            }
        }
    }

    #[test]
    fn what_the_kernel_must_see_passes_untouched() {
        for (name, change, reason) in left_to_the_kernel_from_wire() {
            let mut frame = from_wire_frame();
            change(&mut frame);
            let before = frame.bytes.clone();
            assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(reason), "{name}");
            assert_eq!(frame.bytes, before, "{name}");
        }
        for (name, change, reason) in left_to_the_kernel_from_wire6() {
            let mut frame = from_wire_frame_of(Family::V6, Family::V6);
            change(&mut frame);
            let before = frame.bytes.clone();
            let verdict = from_wire(&mut frame, &tables_over(Travel::Vxlan, Family::V6));
            assert_eq!(verdict, Verdict::Pass(reason), "{name}");
            assert_eq!(frame.bytes, before, "{name}");
        }
    }

    #[test]
    fn sources_are_checked_as_strictly_as_asked() {
        for (name, change, reason, takes_strict) in dropped_from_wire() {
            for check in [SourceCheck::Off, SourceCheck::Loose, SourceCheck::Strict] {
                let mut tables = tables(Travel::Vxlan);
                tables.config = Some(Config { source_check: check as u32, ..config() });
                let mut frame = from_wire_frame();
                change(&mut frame);
                let from = if takes_strict { SourceCheck::Strict } else { SourceCheck::Loose };
                let drop = check as u32 >= from as u32;
                let expected = if drop { Verdict::Drop(reason) } else { Verdict::Pass(reason) };
                assert_eq!(from_wire(&mut frame, &tables), expected, "{name} {check:?}");
            }
        }
    }

    #[test]
    fn datagrams_that_were_aggregated_with_their_tunnel_are_the_kernels() {
        let mut frame = from_wire_frame();
        frame.segment_size = Some(50);
        assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(Reason::Aggregate));
        frame.change::<Ipv4>(INNER_IP, |ip| ip.protocol = 6);
        frame.bytes[INNER_IP + 20 + 12..INNER_IP + 20 + 14].copy_from_slice(&[0x50, 0x10]);
        assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)).reason(), Reason::Delivered, "TCP is not");
        let mut plain = Frame::new(UNDERLAY, udp(PEER_POD, POD, (Mac([2; 6]), UNDERLAY_MAC), 100));
        plain.segment_size = Some(50);
        assert_eq!(
            from_wire(&mut plain, &tables(Travel::Direct)).reason(),
            Reason::Delivered,
            "without a tunnel"
        );
    }

    #[test]
    fn a_peer_may_not_choose_how_it_travels() {
        // Tunnelled where it should come plain, and plain where it should come tunnelled.
        let verdict = from_wire(&mut from_wire_frame(), &tables(Travel::Direct));
        assert_eq!(verdict, Verdict::Pass(Reason::OtherWay));
        let mut plain = Frame::new(UNDERLAY, udp(PEER_POD, POD, (Mac([2; 6]), UNDERLAY_MAC), 5));
        assert_eq!(from_wire(&mut plain, &tables(Travel::Vxlan)), Verdict::Pass(Reason::OtherWay));
    }

    #[test]
    fn without_a_tunnel_tunnel_packets_are_nothing_special() {
        let mut tables = tables(Travel::Direct);
        let none = ovl_common::Tunnel { encapsulation: 0, ..config().tunnel_v4 };
        tables.config = Some(Config { tunnel_v4: none, ..config() });
        assert_eq!(from_wire(&mut from_wire_frame(), &tables), Verdict::Pass(Reason::NotTunnel));
    }

    #[test]
    fn any_prefix_and_any_flipped_byte_is_delivered_right_or_left_alone() {
        let tables = tables(Travel::Vxlan);
        let whole = from_wire_frame();
        for length in 0..whole.bytes.len() {
            let mut frame = whole.clone();
            frame.bytes.truncate(length);
            assert!(matches!(from_wire(&mut frame, &tables), Verdict::Pass(_)), "cut at {length}");
            assert_eq!(frame.bytes, whole.bytes[..length]);
        }
        for position in 0..whole.bytes.len() {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut frame = whole.clone();
                frame.bytes[position] ^= value;
                let before = frame.bytes.clone();
                match from_wire(&mut frame, &tables) {
                    Verdict::Pass(_) => assert_eq!(frame.bytes, before, "byte {position} ^ {value:#x}"),
                    Verdict::Deliver { ifindex } => {
                        assert_eq!(ifindex, POD_PORT);
                        assert_eq!(frame.read::<Ipv4>(IP).destination, POD, "byte {position} ^ {value:#x}");
                        assert_eq!(before[IP + 12..IP + 16], PEER_NODE);
                    }
                    Verdict::Drop(Reason::UnknownNode | Reason::WrongNode) => assert_eq!(frame.bytes, before),
                    other @ (Verdict::Drop(_) | Verdict::Send { .. }) => {
                        panic!("{other:?} at byte {position} ^ {value:#x}")
                    }
                }
            }
        }
    }
}
