//! `from_wire`: what another node sends to a pod here.

use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, UDP, fold};
use ovl_common::{Config, Endpoint, IpKey, Reason, SourceCheck, Travel, Tunnel};

use crate::active::{Active, active, configured};
use crate::decap::{self, Outer};
use crate::egress::fits;
use crate::flow::{Direction, admit};
use crate::inspect::{Inner, TRANSPORT, Trailer, check_link_layer, inspect};
use crate::ip::{Family, IpHeader};
use crate::packet::{Bytes, IP, Packet};
use crate::tables::Tables;
use crate::tunnel::Tunnel as _;
use crate::verdict::Verdict;

/// Decides about a packet at the ingress of the underlay device.
#[inline(always)]
pub fn from_wire<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict<'static> {
    let tunnel = configured(tables).ok().and_then(|config| stripped_of(packet, config));
    if P::Tunnel::IS_SUMMED && tunnel.is_some() {
        packet.lower_checksum_level();
    }
    let carried = active(tables).and_then(|active| match packet.ethertype() {
        ETHERTYPE_IPV4 => carry::<Ipv4, P, T>(packet, tables, &active, tunnel.is_some()),
        ETHERTYPE_IPV6 => carry::<Ipv6, P, T>(packet, tables, &active, tunnel.is_some()),
        _ => Err(Reason::NotIp),
    });
    match (Verdict::of(carried), tunnel) {
        (Verdict::Pass(reason), Some(tunnel)) => give_back(packet, tunnel, reason),
        (Verdict::Pass(reason), None) => P::Tunnel::hand_in(packet, tables, reason),
        (verdict, _) => verdict,
    }
}

/// What XDP writes in front of a packet that it took out of a tunnel of family `outer`.
#[inline(always)]
pub(crate) fn note(config: &Config, outer: Family) -> u64 {
    config.token | u64::from(outer == Family::V6)
}

/// The tunnel that XDP took off the packet, where it did. Only what runs on this node can write in front of packets, and
/// the token is nobody else's to know.
#[inline(always)]
fn stripped_of<'a, P: Packet>(packet: &P, config: &'a Config) -> Option<&'a Tunnel> {
    if config.token == 0 {
        return None;
    }
    match packet.note()? {
        found if found == note(config, Family::V4) => Some(&config.tunnel_v4),
        found if found == note(config, Family::V6) => Some(&config.tunnel_v6),
        _ => None,
    }
}

/// Hands what XDP stripped and the fast path cannot deliver after all, because a flow aged in between, to the overlay
/// device: where the kernel would have it after stripping. From the underlay it would be a packet that came another way
/// than its answers go, to routing (`rp_filter`) and to netfilter.
#[inline(always)]
fn give_back<P: Packet>(packet: &mut P, tunnel: &Tunnel, reason: Reason) -> Verdict<'static> {
    // XDP cannot see a tag that the device took out of the bytes: that is a packet of another network.
    if tunnel.device == 0 || packet.is_tagged() {
        return Verdict::Pass(reason);
    }
    let Ok(ethernet) = packet.at_mut::<Ethernet>(0) else { return Verdict::Pass(reason) };
    ethernet.destination = tunnel.mac;
    Verdict::Return { ifindex: tunnel.device, reason }
}

/// `O` is the family of what is on the wire, or of what XDP left of it.
#[inline(always)]
fn carry<O: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
    is_stripped: bool,
) -> Result<Verdict<'static>, Reason> {
    check_link_layer(packet)?;
    if !packet.to_this_host() {
        return Err(Reason::NotForUs);
    }
    packet.make_linear(IP + O::LENGTH);
    let ip: &O = packet.at(IP)?;
    if is_stripped || O::local(active.config).contains(ip.destination()) {
        return plain::<O, P, T>(packet, tables, active, is_stripped);
    }
    if !P::Tunnel::is_to(active.config, ip) {
        return Err(Reason::NotTunnel);
    }
    // No more than the shorter family takes: pulling one byte that is not there yet costs as much as all the rest.
    packet.make_linear(P::Tunnel::inner_ip::<O>() + size_of::<Ipv4>() + TRANSPORT);
    let outer = P::Tunnel::outer::<O, P>(packet, active.config)?;
    let node = packet.at::<O>(IP)?.source();
    match outer.ethertype {
        ETHERTYPE_IPV4 => tunnelled::<O, Ipv4, P, T>(packet, tables, active, &outer, node),
        ETHERTYPE_IPV6 => tunnelled::<O, Ipv6, P, T>(packet, tables, active, &outer, node),
        _ => {
            check_node(tables, active, node).and(Err(Refused::from(Reason::NotIp))).or_else(Refused::verdict)
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
    packet.make_linear(P::Tunnel::inner_ip::<O>() + I::LENGTH + TRANSPORT);
    let payload = match payload::<O, I, P, T>(packet, tables, active, outer, node) {
        Ok(payload) => payload,
        Err(refused) => return refused.verdict(),
    };
    // What is stripped here still says that it is a tunnel's (trap T2), which TCP does not mind; a socket that wants
    // its datagrams one by one has them taken apart by that, wrongly.
    if payload.inner.protocol == UDP && packet.segment_size().is_some() {
        return Err(Reason::Aggregate);
    }
    let endpoint = *payload.endpoint;
    admit(tables, active, Direction::Into, endpoint.ifindex, &payload.inner)?;
    packet.pop_tunnel::<O>(I::FAMILY)?;
    finish::<I, P>(packet, &endpoint, payload.is_congested).map_err(|_unfinished| Reason::Mangled)
}

/// A packet in a tunnel that may take the fast path, as far as headers and peers are concerned.
pub(crate) struct Payload<'a> {
    /// The packet.
    pub(crate) inner: Inner,
    /// Whom it is for.
    pub(crate) endpoint: &'a Endpoint,
    /// Whether it has to say what its tunnel says of congestion.
    pub(crate) is_congested: bool,
}

/// A packet that does not take the fast path.
#[derive(Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    is_dropped: bool,
}

impl From<Reason> for Refused {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self { reason, is_dropped: false }
    }
}

impl Refused {
    #[inline(always)]
    fn verdict(self) -> Result<Verdict<'static>, Reason> {
        if self.is_dropped { Ok(Verdict::Drop(self.reason)) } else { Err(self.reason) }
    }
}

/// Looks at what is in a tunnel packet.
#[inline(always)]
pub(crate) fn payload<'a, O: IpHeader, I: IpHeader, P: Bytes, T: Tables>(
    packet: &P,
    tables: &'a T,
    active: &Active<'_>,
    outer: &Outer,
    node: IpKey,
) -> Result<Payload<'a>, Refused> {
    let ip: &I = packet.at(P::Tunnel::inner_ip::<O>())?;
    ip.check_version()?;
    if !P::Tunnel::NAMES_NETWORK && !I::local(active.config).contains(ip.destination()) {
        return Err(Reason::NotOverlay.into());
    }
    check_source::<P, T>(tables, active, node, ip.source())?;
    outer.oddity?;
    let inner = inspect::<I, P>(packet, active.config, P::Tunnel::inner_ip::<O>(), Trailer::None)?;
    fits(&inner, O::tunnel(active.config).mtu)?;
    let is_congested = decap::must_mark_congestion(outer.tos, inner.tos)?;
    let endpoint = tables.endpoint(inner.destination).ok_or(Reason::UnknownPod)?;
    Ok(Payload { inner, endpoint, is_congested })
}

/// The inner source's subnet must be leased by the node that sent the packet. An address of no node's may come from
/// somewhere behind the peer, such as a client that its NodePort does not translate: that is the kernel's.
#[inline(always)]
fn check_source<P: Bytes, T: Tables>(
    tables: &T,
    active: &Active<'_>,
    node: IpKey,
    source: IpKey,
) -> Result<(), Refused> {
    let Some(remote) = tables.remote(source) else {
        check_node(tables, active, node)?;
        return Err(refuse(active, SourceCheck::Strict, Reason::ForeignSource));
    };
    if remote.node != node {
        check_node(tables, active, node)?;
        return Err(refuse(active, SourceCheck::Loose, Reason::WrongNode));
    }
    if remote.travel == P::Tunnel::TRAVEL as u8 { Ok(()) } else { Err(Reason::OtherWay.into()) }
}

/// The outer source must be a node's.
#[inline(always)]
fn check_node<T: Tables>(tables: &T, active: &Active<'_>, node: IpKey) -> Result<(), Refused> {
    if tables.is_node(node) {
        return Ok(());
    }
    Err(refuse(active, SourceCheck::Loose, Reason::UnknownNode))
}

/// Drops where the source check is at least `from`; else the kernel decides.
#[inline(always)]
fn refuse(active: &Active<'_>, from: SourceCheck, reason: Reason) -> Refused {
    Refused { reason, is_dropped: active.config.source_check >= from as u32 }
}

/// A packet without a tunnel: of a peer on the same link, or one that XDP took out of its tunnel, whose source it has
/// checked against that.
#[inline(always)]
fn plain<I: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
    is_stripped: bool,
) -> Result<Verdict<'static>, Reason> {
    packet.make_linear(IP + I::LENGTH + TRANSPORT);
    let inner = inspect::<I, P>(packet, active.config, IP, Trailer::Padding)?;
    fits(&inner, active.config.underlay_mtu)?;
    if !is_stripped {
        let remote = tables.remote(inner.source).ok_or(Reason::ForeignSource)?;
        if remote.travel != Travel::Direct as u8 {
            return Err(Reason::OtherWay);
        }
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
    use crate::packet::inner_ip;
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
        let none = Tunnel { encapsulation: 0, ..config().tunnel_v4 };
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
                    other @ (Verdict::Drop(_)
                    | Verdict::Send { .. }
                    | Verdict::Wrap { .. }
                    | Verdict::Strip
                    | Verdict::Return { .. }) => {
                        panic!("{other:?} at byte {position} ^ {value:#x}")
                    }
                }
            }
        }
    }
}
