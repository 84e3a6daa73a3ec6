//! The kernel path where the kernel has no device for the tunnel.
//!
//! There a device of Ethernet stands in for it (`ovl_common::Tunnel::stand_in`): routes to peers lead into it as they would
//! into the kernel's own, netfilter, MTU and hops are the kernel's business as ever, and whatever arrives at its egress is
//! put into the tunnel here. What comes out of the tunnel and is not on the fast path is handed to its ingress. As with a
//! kernel device, this goes on while the fast path is off and when the agent is gone.

use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, fold};
use ovl_common::{Config, Reason, Travel};

use crate::active::configured;
use crate::decap::{is_congested, must_mark_congestion};
use crate::encap::{Hops, segments};
use crate::inspect::check_link_layer;
use crate::ip::{Family, IpHeader};
use crate::ipip::{self, Ipip, inner_family};
use crate::packet::{IP, Packet};
use crate::tables::Tables;
use crate::tunnel::Tunnel as _;
use crate::verdict::Verdict;

/// Takes a packet from the wire, which is the kernel's for `reason`, out of its tunnel, where it is in one.
#[inline(always)]
pub(crate) fn hand_in<P: Packet<Tunnel = Ipip>, T: Tables>(
    packet: &mut P,
    tables: &T,
    reason: Reason,
) -> Verdict<'static> {
    let Ok(config) = configured(tables) else { return Verdict::Pass(reason) };
    let (ifindex, stripped) = match packet.ethertype() {
        ETHERTYPE_IPV4 => (config.tunnel_v4.device, strip::<Ipv4, P>(packet, config)),
        ETHERTYPE_IPV6 => (config.tunnel_v6.device, strip::<Ipv6, P>(packet, config)),
        _ => return Verdict::Pass(reason),
    };
    match stripped {
        Ok(()) => Verdict::Return { ifindex, reason },
        Err(Reason::NotTunnel) => Verdict::Pass(reason),
        Err(error @ (Reason::Mangled | Reason::Ecn)) => Verdict::Drop(error),
        Err(error) => Verdict::Pass(error),
    }
}

/// A function of its own for the sake of the stack.
#[inline(never)]
fn strip<O: IpHeader, P: Packet<Tunnel = Ipip>>(packet: &mut P, config: &Config) -> Result<(), Reason> {
    if O::tunnel(config).stand_in == 0 || packet.is_tagged() || !packet.to_this_host() {
        return Err(Reason::NotTunnel);
    }
    packet.make_linear(IP + O::LENGTH);
    let ip: &O = packet.at(IP)?;
    if !Ipip::is_to(config, ip) {
        return Err(Reason::NotTunnel);
    }
    ip.check_fixed_part()?;
    if !ip.is_intact() {
        return Err(Reason::BadHeader);
    }
    // Drivers pad short frames; the kernel cuts that off by the inner length.
    if ip.length() + IP > packet.length() {
        return Err(Reason::BadLength);
    }
    let tos = ip.tos();
    match inner_family::<O>(ip.protocol()) {
        Some(Family::V4) => open::<O, Ipv4, P>(packet, config, tos),
        Some(Family::V6) => open::<O, Ipv6, P>(packet, config, tos),
        None => Err(Reason::NotTunnel),
    }
}

/// Leaves the inner packet as the stand-in's device would have received it.
#[inline(always)]
fn open<O: IpHeader, I: IpHeader, P: Packet<Tunnel = Ipip>>(
    packet: &mut P,
    config: &Config,
    outer_tos: u8,
) -> Result<(), Reason> {
    packet.make_linear(Ipip::inner_ip::<O>() + I::LENGTH);
    let ip: &I = packet.at(Ipip::inner_ip::<O>())?;
    ip.check_version()?;
    // Of what RFC 6040 wants looked at, the kernel drops this alone.
    let must_mark = match must_mark_congestion(outer_tos, ip.tos()) {
        Err(error) if is_congested(outer_tos) => return Err(error),
        marked => marked.unwrap_or(false),
    };
    packet.pop_tunnel::<O>(I::FAMILY)?;
    let mut added = 0;
    if must_mark {
        let ip: &mut I = packet.at_mut(IP).map_err(|_unfinished| Reason::Mangled)?;
        added = ip.mark_congestion();
    }
    let ethernet: &mut Ethernet = packet.at_mut(0).map_err(|_unfinished| Reason::Mangled)?;
    ethernet.destination = O::tunnel(config).mac;
    ethernet.ethertype = I::ETHERTYPE;
    if added != 0 {
        packet.add_to_sum(fold(added.into()));
    }
    Ok(())
}

/// Puts what the kernel sends by the stand-in into the tunnel; `reason` is why it is the kernel's.
#[inline(always)]
pub(crate) fn hand_out<P: Packet<Tunnel = Ipip>, T: Tables>(
    packet: &mut P,
    tables: &T,
    reason: Reason,
) -> Verdict<'static> {
    let Ok(config) = configured(tables) else { return Verdict::Pass(reason) };
    let device = packet.ifindex();
    let is_ipv4 = device == config.tunnel_v4.device && config.tunnel_v4.stand_in != 0;
    let is_ipv6 = device == config.tunnel_v6.device && config.tunnel_v6.stand_in != 0;
    let wrapped = match (packet.ethertype(), is_ipv4, is_ipv6) {
        (ETHERTYPE_IPV4, true, _) => wrap::<Ipv4, Ipv4, P, T>(packet, tables, config),
        (ETHERTYPE_IPV4, _, true) => wrap::<Ipv4, Ipv6, P, T>(packet, tables, config),
        (ETHERTYPE_IPV6, _, true) => wrap::<Ipv6, Ipv6, P, T>(packet, tables, config),
        _ => return Verdict::Pass(reason),
    };
    match wrapped {
        Ok(()) => Verdict::Wrap { ifindex: config.underlay, reason },
        Err(Reason::Mangled) => Verdict::Drop(Reason::Mangled),
        Err(error) => Verdict::Pass(error),
    }
}

/// Wraps any packet that the kernel routed to a peer.
#[inline(never)]
fn wrap<I: IpHeader, O: IpHeader, P: Packet<Tunnel = Ipip>, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
) -> Result<(), Reason> {
    check_link_layer(packet)?;
    packet.make_linear(IP + I::LENGTH);
    let ip: &I = packet.at(IP)?;
    ip.check_version()?;
    let remote = tables.remote(ip.destination()).ok_or(Reason::NotOverlay)?;
    let is_of_this_tunnel = remote.node.is_ipv4() == (O::FAMILY == Family::V4);
    if remote.travel != Travel::Ipip as u8 || !is_of_this_tunnel {
        return Err(Reason::OtherWay);
    }
    let length = packet.length().wrapping_sub(IP);
    let id = if O::FAMILY == Family::V4 { tables.identifications(segments(packet, length)) } else { 0 };
    let plan = ipip::Plan { length, id, may_be_cut: Ipip::may_be_cut::<I, O>(config, packet.at(IP)?) };
    ipip::write::<I, O, P>(packet, config, remote, &plan, Hops::None)
}
