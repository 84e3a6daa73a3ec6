//! IP in IP: an outer header and nothing else (RFC 2003, RFC 2473), as the kernel's `ipip` and `ip6tnl` devices write it
//! the way that flannel makes them.
//!
//! The outer hop limit is the inner one, after this node's hop; over IPv4 DF is what the inner packet has (RFC 2003
//! section 3.1) unless a device stands in for the kernel's; the DSCP is 0 and the ECN field as RFC 6040 has it.

use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPIP, IPV6_IN_IP, Ipv4};
use ovl_common::{Config, Encapsulation, Reason, Remote, Travel};

use crate::decap::Outer;
use crate::encap::{Hops, outer_ecn, segments};
use crate::inspect::Inner;
use crate::ip::{self, Family, IpHeader};
use crate::packet::{Bytes, IP, Packet};
use crate::stand_in;
use crate::tables::Tables;
use crate::tunnel::Tunnel;
use crate::verdict::Verdict;

/// IPv4 in IPv4, and both in IPv6.
#[derive(Clone, Copy, Debug)]
pub enum Ipip {}

impl Tunnel for Ipip {
    const ENCAPSULATION: Encapsulation = Encapsulation::Ipip;
    const TRAVEL: Travel = Travel::Ipip;
    const HEADERS: usize = 0;
    const IS_SUMMED: bool = false;
    const NAMES_NETWORK: bool = false;
    const WRAPS_OWN: bool = false;
    const PROTOCOL: u8 = IPIP;

    /// Without a device of its own the kernel takes no router's word for what is too large: then routers cut.
    #[inline(always)]
    fn may_be_cut<I: IpHeader, O: IpHeader>(config: &Config, ip: &I) -> bool {
        O::FAMILY == Family::V4 && (O::tunnel(config).stand_in != 0 || ip.may_be_cut())
    }

    #[inline(always)]
    fn wrap<I: IpHeader, O: IpHeader, P: Packet<Tunnel = Self>, T: Tables>(
        packet: &mut P,
        tables: &T,
        config: &Config,
        remote: &Remote,
        inner: &Inner,
        hops: Hops,
    ) -> Result<(), Reason> {
        let id =
            if O::FAMILY == Family::V4 { tables.identifications(segments(packet, inner.length)) } else { 0 };
        let may_be_cut = Self::may_be_cut::<I, O>(config, packet.at(IP)?);
        let plan = Plan { length: inner.length, id, may_be_cut };
        write::<I, O, P>(packet, config, remote, &plan, hops)
    }

    /// An IPv4 address here may also be the end of other tunnels that carry IPv6: those are the kernel's.
    #[inline(always)]
    fn is_to<O: IpHeader>(config: &Config, ip: &O) -> bool {
        let tunnel = O::tunnel(config);
        tunnel.encapsulation == Encapsulation::Ipip as u8
            && inner_family::<O>(ip.protocol()).is_some()
            && ip.destination() == tunnel.address
    }

    #[inline(always)]
    fn outer<O: IpHeader, P: Bytes>(packet: &P, _config: &Config) -> Result<Outer, Reason> {
        let ip: &O = packet.at(IP)?;
        ip.check_fixed_part()?;
        if !ip.is_intact() {
            return Err(Reason::BadHeader);
        }
        // Never padded: two IP headers and one of those transports are longer than the shortest frame.
        if ip.length() + IP != packet.length() {
            return Err(Reason::BadLength);
        }
        let ethertype = match inner_family::<O>(ip.protocol()) {
            Some(Family::V4) => ETHERTYPE_IPV4,
            Some(Family::V6) => ETHERTYPE_IPV6,
            None => return Err(Reason::NotTunnel),
        };
        Ok(Outer { tos: ip.tos(), ethertype, oddity: Ok(()) })
    }

    #[inline(always)]
    fn hand_in<P: Packet<Tunnel = Self>, T: Tables>(
        packet: &mut P,
        tables: &T,
        reason: Reason,
    ) -> Verdict<'static> {
        stand_in::hand_in(packet, tables, reason)
    }

    #[inline(always)]
    fn hand_out<P: Packet<Tunnel = Self>, T: Tables>(
        packet: &mut P,
        tables: &T,
        reason: Reason,
    ) -> Verdict<'static> {
        stand_in::hand_out(packet, tables, reason)
    }
}

/// What is inside of a packet of family `O` with this protocol number, where we carry that.
#[inline(always)]
pub(crate) fn inner_family<O: IpHeader>(protocol: u8) -> Option<Family> {
    match (protocol, O::FAMILY) {
        (IPIP, _) => Some(Family::V4),
        (IPV6_IN_IP, Family::V6) => Some(Family::V6),
        _ => None,
    }
}

/// What is known of an outer header before there is room for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Of the inner packet, bytes.
    pub(crate) length: usize,
    /// Identification (IPv4 only).
    pub(crate) id: u16,
    /// Whether DF is clear (IPv4 only).
    pub(crate) may_be_cut: bool,
}

/// Puts an outer header in front of an IP packet. [`Reason::Mangled`] is one that has changed and could not be finished.
#[inline(always)]
pub(crate) fn write<I: IpHeader, O: IpHeader, P: Packet<Tunnel = Ipip>>(
    packet: &mut P,
    config: &Config,
    remote: &Remote,
    plan: &Plan,
    hops: Hops,
) -> Result<(), Reason> {
    let payload = u16::try_from(plan.length).map_err(|_over_64_kib| Reason::Oversize)?;
    if O::FAMILY == Family::V4 && plan.length > usize::from(u16::MAX) - size_of::<Ipv4>() {
        return Err(Reason::Oversize);
    }
    let ip: &I = packet.at(IP)?;
    let tos = outer_ecn(ip.tos());
    let hop_limit = match hops {
        Hops::None => ip.hop_limit(),
        Hops::One => ip.hop_limit().wrapping_sub(1),
    };
    packet.push_tunnel::<O>()?;
    let header = ip::Outer {
        source: &O::tunnel(config).address,
        destination: &remote.node,
        protocol: if I::FAMILY == Family::V4 { IPIP } else { IPV6_IN_IP },
        may_be_cut: plan.may_be_cut,
        tos,
        hop_limit,
        payload,
        id: plan.id,
    };
    packet.at_mut::<O>(IP).map_err(|_unfinished| Reason::Mangled)?.write_outer(&header);
    if hops == Hops::One {
        let inner: &mut I = packet.at_mut(Ipip::inner_ip::<O>()).map_err(|_unfinished| Reason::Mangled)?;
        let _added = inner.take_hop();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
