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

#[cfg(test)]
mod tests {
    use ovl_common::{FastPath, Travel};

    use super::*;
    use crate::ingress::from_wire;
    use crate::overlay::to_overlay;
    use crate::testing::{
        Frame, MARK, Mem, OVERLAY, OVERLAY6, PEER_NODE, UNDERLAY, VTEP, ipip_config, ipip_from_pod_frame_of,
        ipip_from_wire_frame_of, ipip_tables,
    };

    /// What the kernel hands to the stand-in of a pod's packet.
    fn sent(inner: Family, outer: Family) -> Frame<Ipip> {
        let mut frame = ipip_from_pod_frame_of(inner);
        frame.ifindex = if outer == Family::V4 { OVERLAY } else { OVERLAY6 };
        frame.change::<Ethernet>(0, |ethernet| {
            (ethernet.source, ethernet.destination) = (VTEP, VTEP);
        });
        frame
    }

    fn wrapped(reason: Reason) -> Verdict<'static> {
        Verdict::Wrap { ifindex: UNDERLAY, reason }
    }

    #[test]
    fn whatever_the_kernel_routes_there_is_wrapped_as_it_is() {
        type Change = fn(&mut Frame<Ipip>);
        let table: [(&str, Change); 6] = [
            ("a packet", |_| {}),
            ("of the node", |f| f.is_own = true),
            ("a fragment", |f| f.change::<Ipv4>(IP, |i| i.fragment = [0x20, 9])),
            ("options", |f| f.change::<Ipv4>(IP, |i| i.version_and_length = 0x46)),
            ("sctp", |f| f.change::<Ipv4>(IP, |i| i.protocol = 132)),
            ("its last hop", |f| f.change::<Ipv4>(IP, |i| i.ttl = 1)),
        ];
        for (name, change) in table {
            let mut frame = sent(Family::V4, Family::V4);
            change(&mut frame);
            let before = frame.clone();
            assert_eq!(
                to_overlay(&mut frame, &ipip_tables(Family::V4, true)),
                wrapped(Reason::Unmarked),
                "{name}"
            );
            assert_eq!(frame.bytes[IP + 20..], before.bytes[IP..], "{name}");
            let (outer, inner): (Ipv4, Ipv4) = (frame.read(IP), before.read(IP));
            assert_eq!((outer.destination, outer.ttl, outer.protocol), (PEER_NODE, inner.ttl, 4), "{name}");
            assert!(outer.is_intact() && outer.length() == frame.bytes.len() - IP, "{name}");
        }
        for inner in [Family::V4, Family::V6] {
            let mut frame = sent(inner, Family::V6);
            assert_eq!(to_overlay(&mut frame, &ipip_tables(Family::V6, true)), wrapped(Reason::Unmarked));
            assert_eq!(frame.read::<Ipv6>(IP).next_header, if inner == Family::V4 { 4 } else { 41 });
        }
    }

    #[test]
    fn it_goes_on_where_the_fast_path_does_not() {
        for (change, reason) in [
            (Config { deadline: 0, ..ipip_config(true) }, Reason::Expired),
            (Config { fast_path: FastPath::Off as u32, ..ipip_config(true) }, Reason::FastPathOff),
        ] {
            let mut tables = ipip_tables(Family::V4, true);
            tables.config = Some(change);
            assert_eq!(to_overlay(&mut sent(Family::V4, Family::V4), &tables), wrapped(reason));
            let mut frame = ipip_from_wire_frame_of(Family::V4, Family::V4);
            assert_eq!(from_wire(&mut frame, &tables), Verdict::Return { ifindex: OVERLAY, reason });
        }
    }

    #[test]
    fn what_netfilter_accepted_makes_its_flow_known_on_the_way() {
        let mut tables = ipip_tables(Family::V4, true);
        tables.config = tables.config.map(|config| Config { fast_path: FastPath::Verified as u32, ..config });
        let mut frame = sent(Family::V4, Family::V4);
        frame.mark = MARK;
        assert_eq!(to_overlay(&mut frame, &tables), wrapped(Reason::Verified));
        assert_eq!((frame.mark, tables.flows().len()), (0, 1));
        // The same at the kernel's own device, which goes on with it.
        let mut tables = ipip_tables(Family::V4, false);
        tables.config = tables.config.map(|config| Config { fast_path: FastPath::Verified as u32, ..config });
        let mut frame = sent(Family::V4, Family::V4);
        frame.mark = MARK;
        assert_eq!(to_overlay(&mut frame, &tables), Verdict::Pass(Reason::Verified));
    }

    #[test]
    fn what_has_no_way_stays_there() {
        type Change = fn(&mut Frame<Ipip>, &mut Mem);
        let table: [(&str, Change, Reason); 7] = [
            ("arp", |f, _| f.change::<Ethernet>(0, |e| e.ethertype = [8, 6]), Reason::NotIp),
            ("elsewhere", |f, _| f.change::<Ipv4>(IP, |i| i.destination = [8, 8, 8, 8]), Reason::NotOverlay),
            ("not ipv4", |f, _| f.change::<Ipv4>(IP, |i| i.version_and_length = 0x65), Reason::BadHeader),
            ("tagged", |f, _| f.tagged = true, Reason::Vlan),
            (
                "past the tunnel",
                |_, t| t.remotes.iter_mut().for_each(|(_, remote)| remote.travel = Travel::Direct as u8),
                Reason::OtherWay,
            ),
            ("too long", |f, _| f.bytes.resize(65_535, 0), Reason::Oversize),
            ("no room", |f, _| f.rigid = true, Reason::NoRoom),
        ];
        for (name, change, reason) in table {
            let (mut frame, mut tables) = (sent(Family::V4, Family::V4), ipip_tables(Family::V4, true));
            change(&mut frame, &mut tables);
            let before = frame.bytes.clone();
            assert_eq!(to_overlay(&mut frame, &tables), Verdict::Pass(reason), "{name}");
            assert_eq!(frame.bytes, before, "{name}");
        }
        // At the kernel's own device, and on the underlay, there is nothing to stand in for.
        for (stand_in, ifindex) in [(false, OVERLAY), (true, UNDERLAY)] {
            let mut frame = sent(Family::V4, Family::V4);
            frame.ifindex = ifindex;
            let verdict = to_overlay(&mut frame, &ipip_tables(Family::V4, stand_in));
            assert_eq!(verdict, Verdict::Pass(Reason::Unmarked));
        }
    }

    #[test]
    fn congestion_outside_is_marked_inside_also_off_the_fast_path() {
        let mut tables = ipip_tables(Family::V4, true);
        tables.config = tables.config.map(|config| Config { fast_path: FastPath::Off as u32, ..config });
        let mut frame = ipip_from_wire_frame_of(Family::V4, Family::V4);
        for (at, tos) in [(IP, 0b11), (IP + 20, 0b10)] {
            frame.change::<Ipv4>(at, |ip| {
                ip.tos = tos;
                ip.checksum = ip.computed_checksum();
            });
        }
        assert_eq!(from_wire(&mut frame, &tables).reason(), Reason::FastPathOff);
        let ip: Ipv4 = frame.read(IP);
        assert_eq!((ip.tos, ip.ttl, ip.is_intact()), (0b11, 64, true));
    }
}
