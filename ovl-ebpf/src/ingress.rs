//! `from_wire`: what another node sends to a pod here.

use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, UDP, fold};
use ovl_common::{Config, Endpoint, IpKey, Reason, SourceCheck, Travel, Tunnel};

use crate::active::{Active, active, configured};
use crate::decap::{self, Outer};
use crate::egress::fits;
use crate::flow::{Direction, admit, goes_on};
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
    goes_on(tables, active, Direction::Into, &payload.inner)?;
    let endpoint = *tables.endpoint(payload.inner.destination).ok_or(Reason::UnknownPod)?;
    admit(tables, active, Direction::Into, endpoint.ifindex, &payload.inner)?;
    packet.pop_tunnel::<O>(I::FAMILY)?;
    finish::<I, P>(packet, &endpoint, payload.is_congested).map_err(|_unfinished| Reason::Mangled)
}

/// A packet in a tunnel that may take the fast path, as far as headers and peers are concerned.
pub(crate) struct Payload {
    /// The packet.
    pub(crate) inner: Inner,
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
pub(crate) fn payload<O: IpHeader, I: IpHeader, P: Bytes, T: Tables>(
    packet: &P,
    tables: &T,
    active: &Active<'_>,
    outer: &Outer,
    node: IpKey,
) -> Result<Payload, Refused> {
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
    Ok(Payload { inner, is_congested })
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
    goes_on(tables, active, Direction::Into, &inner)?;
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
mod tests;
