//! `from_pod`: what a pod sends to a pod on another node.

use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6};
use ovl_common::{Config, IpKey, Reason, Remote, SourceCheck, Travel};

use crate::active::{Active, active};
use crate::encap::Hops;
use crate::flow::{Direction, admit, goes_on};
use crate::inspect::{Inner, TRANSPORT, Trailer, check_link_layer, inspect};
use crate::ip::IpHeader;
use crate::learn::note_sender;
use crate::packet::{IP, Packet};
use crate::tables::Tables;
use crate::tunnel::Tunnel as _;
use crate::verdict::Verdict;

/// Decides about a packet at the ingress of a pod's host-side interface.
#[inline(always)]
pub fn from_pod<'t, P: Packet, T: Tables>(packet: &mut P, tables: &'t T) -> Verdict<'t> {
    let active = match active(tables) {
        Ok(active) => active,
        Err(reason) => return Verdict::Pass(reason),
    };
    let carried = match packet.ethertype() {
        ETHERTYPE_IPV4 => carry::<Ipv4, P, T>(packet, tables, &active),
        ETHERTYPE_IPV6 => carry::<Ipv6, P, T>(packet, tables, &active),
        _ => Err(Reason::NotIp),
    };
    let verdict = Verdict::of(carried);
    if let Verdict::Pass(reason) = verdict
        && !is_of_flow(reason)
    {
        note_sender(packet, tables);
    }
    verdict
}

/// Whether a packet was refused for its flow, which is asked last: then its sender is the one that is known.
#[inline(always)]
fn is_of_flow(reason: Reason) -> bool {
    use Reason::{Aged, Changed, NoFlow, OneWay, TcpFlags};
    matches!(reason, TcpFlags | NoFlow | OneWay | Changed | Aged)
}

#[inline(always)]
fn carry<'t, I: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    active: &Active<'_>,
) -> Result<Verdict<'t>, Reason> {
    check_link_layer(packet)?;
    packet.make_linear(IP + I::LENGTH + TRANSPORT);
    let config = active.config;
    let ip: &I = packet.at(IP)?;
    ip.check_version()?;
    let source = ip.source();
    let remote = tables.remote(ip.destination()).ok_or(Reason::NotOverlay)?;
    if !I::local(config).contains(source) {
        return stranger(tables, config, source);
    }
    let inner = inspect::<I, P>(packet, config, IP, Trailer::None)?;
    check_sender(packet, tables, source)?;
    goes_on(tables, active, Direction::Out, &inner)?;
    if remote.travel == Travel::Direct as u8 {
        fits(&inner, config.underlay_mtu)?;
        admit(tables, active, Direction::Out, packet.ifindex(), &inner)?;
        route::<I, P>(packet, config, remote)
    } else if remote.travel != P::Tunnel::TRAVEL as u8 {
        // Left by an agent with another backend, as long as this one has not listed them.
        Err(Reason::OtherWay)
    } else if remote.node.is_ipv4() {
        fits(&inner, config.tunnel_v4.mtu)?;
        fits_way::<I, Ipv4, P>(packet, config, remote, &inner)?;
        admit(tables, active, Direction::Out, packet.ifindex(), &inner)?;
        P::Tunnel::wrap::<I, Ipv4, P, T>(packet, tables, config, remote, &inner, Hops::One)?;
        Ok(Verdict::Send { ifindex: config.underlay, next_hop: None })
    } else {
        fits(&inner, config.tunnel_v6.mtu)?;
        fits_way::<I, Ipv6, P>(packet, config, remote, &inner)?;
        admit(tables, active, Direction::Out, packet.ifindex(), &inner)?;
        P::Tunnel::wrap::<I, Ipv6, P, T>(packet, tables, config, remote, &inner, Hops::One)?;
        Ok(Verdict::Send { ifindex: config.underlay, next_hop: None })
    }
}

/// Whether the way to the peer takes what routers on it must not take apart: they tell the kernel what it takes.
#[inline(always)]
fn fits_way<I: IpHeader, O: IpHeader, P: Packet>(
    packet: &mut P,
    config: &Config,
    remote: &Remote,
    inner: &Inner,
) -> Result<(), Reason> {
    if P::Tunnel::may_be_cut::<I, O>(config, packet.at(IP)?) {
        return Ok(());
    }
    let length = outer_length::<O, P>(inner);
    let source = O::tunnel(config).address;
    if length > O::LEAST_MTU && !packet.fits_way(config.underlay, &source, &remote.node, length) {
        return Err(Reason::Oversize);
    }
    Ok(())
}

/// Length of the largest outer packet.
#[inline(always)]
pub(crate) fn outer_length<O: IpHeader, P: Packet>(inner: &Inner) -> usize {
    inner.wire_length + P::Tunnel::length::<O>()
}

/// A pod that sends into the overlay with an address that is not one of this node's: with that of another node's pod it
/// lies; with any other it may stand before a network of its own, whose packets the kernel masquerades.
#[inline(always)]
fn stranger<T: Tables>(tables: &T, config: &Config, source: IpKey) -> Result<Verdict<'static>, Reason> {
    let (reason, dropped_from) = match tables.remote(source) {
        Some(_) => (Reason::WrongNode, SourceCheck::Loose),
        None => (Reason::ForeignSource, SourceCheck::Strict),
    };
    if config.source_check >= dropped_from as u32 { Ok(Verdict::Drop(reason)) } else { Err(reason) }
}

/// The source must be the pod that the kernel delivers to through this very interface, and it must want its gateway.
#[inline(always)]
fn check_sender<P: Packet, T: Tables>(packet: &P, tables: &T, source: IpKey) -> Result<(), Reason> {
    let endpoint = tables.endpoint(source).ok_or(Reason::UnknownSource)?;
    if endpoint.ifindex != packet.ifindex() {
        // The address moved, or somebody borrows it. Either way the kernel decides anew whose it is.
        tables.forget_endpoint(source);
        return Err(Reason::MovedSource);
    }
    let ethernet: &Ethernet = packet.at(0)?;
    if ethernet.source != endpoint.pod {
        return Err(Reason::UnknownSource);
    }
    if ethernet.destination != endpoint.gateway {
        return Err(Reason::NotToGateway);
    }
    Ok(())
}

/// Whether the largest packet on the wire fits; the kernel fragments or answers what does not.
#[inline(always)]
pub(crate) fn fits(inner: &Inner, mtu: u32) -> Result<(), Reason> {
    if inner.wire_length > mtu as usize { Err(Reason::Oversize) } else { Ok(()) }
}

#[inline(always)]
fn route<'t, I: IpHeader, P: Packet>(
    packet: &mut P,
    config: &Config,
    remote: &'t Remote,
) -> Result<Verdict<'t>, Reason> {
    packet.at_mut::<I>(IP)?.take_hop();
    Ok(Verdict::Send { ifindex: config.underlay, next_hop: Some(&remote.node) })
}

#[cfg(test)]
mod tests;
