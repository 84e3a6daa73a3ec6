//! `from_pod`: what a pod sends to a pod on another node.

use ovl_common::wire::{Ethernet, Ipv4, VxlanOverIpv4};
use ovl_common::{Config, Reason, Remote, Travel};

use crate::active::active;
use crate::encap;
use crate::inspect::{Inner, Trailer, check_link_layer, inspect};
use crate::learn::note_sender;
use crate::packet::{INNER_IP, IP, Packet};
use crate::tables::Tables;
use crate::verdict::Verdict;

/// Bytes of headers that [`inspect`] may read: Ethernet, IPv4, TCP.
const HEADERS: usize = 14 + 20 + 20;

/// Decides about a packet at the ingress of a pod's host-side interface.
#[inline(always)]
pub fn from_pod<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let config = match active(tables) {
        Ok(config) => config,
        Err(reason) => return Verdict::Pass(reason),
    };
    match carry(packet, tables, config) {
        Ok(verdict) => verdict,
        Err(reason) => {
            note_sender(packet, tables);
            Verdict::Pass(reason)
        }
    }
}

#[inline(always)]
fn carry<P: Packet, T: Tables>(packet: &mut P, tables: &T, config: &Config) -> Result<Verdict, Reason> {
    check_link_layer(packet)?;
    packet.make_linear(HEADERS);
    let inner = inspect(packet, config, IP, Trailer::None)?;
    let remote = tables.remote(inner.destination).ok_or(Reason::NotOverlay)?;
    check_sender(packet, tables, &inner)?;
    if remote.travel == Travel::Vxlan as u16 {
        fits(&inner, config.tunnel_mtu)?;
        encapsulate(packet, config, remote, &inner)
    } else {
        fits(&inner, config.underlay_mtu)?;
        route(packet, config, remote)
    }
}

/// The source must be the pod that the kernel delivers to through this very interface, and it must want its gateway.
#[inline(always)]
fn check_sender<P: Packet, T: Tables>(packet: &P, tables: &T, inner: &Inner) -> Result<(), Reason> {
    let endpoint = tables.endpoint(inner.source).ok_or(Reason::UnknownSource)?;
    if endpoint.ifindex != packet.ifindex() {
        // The address moved, or somebody borrows it. Either way the kernel decides anew whose it is.
        tables.forget_endpoint(inner.source);
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
fn encapsulate<P: Packet>(
    packet: &mut P,
    config: &Config,
    remote: &Remote,
    inner: &Inner,
) -> Result<Verdict, Reason> {
    let hash = packet.flow_hash();
    let id = packet.random();
    let headers = encap::headers(config, remote, inner, hash, id)?;
    packet.push_tunnel()?;
    // From here on the packet is neither of the two: what fails now, drops it.
    let Ok(outer) = packet.at_mut::<VxlanOverIpv4>(IP) else { return Ok(Verdict::Drop(Reason::Mangled)) };
    *outer = headers;
    let Ok(ip) = packet.at_mut::<Ipv4>(INNER_IP) else { return Ok(Verdict::Drop(Reason::Mangled)) };
    ip.decrement_ttl();
    Ok(Verdict::Send { ifindex: config.underlay, next_hop: None })
}

#[inline(always)]
fn route<P: Packet>(packet: &mut P, config: &Config, remote: &Remote) -> Result<Verdict, Reason> {
    packet.at_mut::<Ipv4>(IP)?.decrement_ttl();
    Ok(Verdict::Send { ifindex: config.underlay, next_hop: Some(remote.node.ipv4_octets()) })
}

#[cfg(test)]
mod tests {
    use ovl_common::wire::Udp;

    use super::*;
    use crate::testing::{
        Frame, GATEWAY, NODE, PEER_NODE, PEER_POD, PEER_VTEP, POD, POD_MAC, POD_PORT, UNDERLAY, VTEP, config,
        endpoint, from_pod_frame, left_to_the_kernel_from_pod, tables, udp,
    };

    #[test]
    fn a_packet_for_a_tunnelled_peer_is_wrapped() {
        let mut frame = from_pod_frame();
        let before = frame.clone();
        let verdict = from_pod(&mut frame, &tables(Travel::Vxlan));
        assert_eq!(verdict, Verdict::Send { ifindex: UNDERLAY, next_hop: None });

        let outer: VxlanOverIpv4 = frame.read(IP);
        assert_eq!(outer.ip.checksum, outer.ip.computed_checksum());
        assert_eq!((outer.ip.source, outer.ip.destination), (NODE, PEER_NODE));
        assert_eq!((outer.ip.ttl, outer.ip.tos, outer.ip.fragment), (64, 0, [0; 2]));
        assert_eq!(usize::from(u16::from_be_bytes(outer.ip.total_length)), frame.bytes.len() - IP);
        assert_eq!(usize::from(u16::from_be_bytes(outer.udp.length)), frame.bytes.len() - IP - 20);
        assert_eq!((outer.udp.destination, outer.udp.checksum), (8472u16.to_be_bytes(), [0; 2]));
        assert_eq!(bytemuck::bytes_of(&outer.vxlan), [8, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!((outer.ethernet.source, outer.ethernet.destination), (VTEP, PEER_VTEP));

        let inner: Ipv4 = frame.read(INNER_IP);
        assert_eq!(inner.ttl, 63);
        assert_eq!(inner.checksum, inner.computed_checksum());
        assert_eq!(frame.bytes[INNER_IP + 20..], before.bytes[IP + 20..], "the payload is untouched");
    }

    #[test]
    fn a_packet_for_a_direct_peer_is_routed() {
        let mut frame = from_pod_frame();
        let length = frame.bytes.len();
        let verdict = from_pod(&mut frame, &tables(Travel::Direct));
        assert_eq!(verdict, Verdict::Send { ifindex: UNDERLAY, next_hop: Some(PEER_NODE) });
        let ip: Ipv4 = frame.read(IP);
        assert_eq!((ip.ttl, ip.checksum, frame.bytes.len()), (63, ip.computed_checksum(), length));
    }

    #[test]
    fn what_the_kernel_must_see_passes_untouched() {
        for (name, change, reason) in left_to_the_kernel_from_pod() {
            let mut frame = from_pod_frame();
            change(&mut frame);
            let before = frame.bytes.clone();
            assert_eq!(from_pod(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(reason), "{name}");
            assert_eq!(frame.bytes, before, "{name}");
        }
    }

    #[test]
    fn only_connections_under_way_take_the_fast_path() {
        for (flags, fast) in
            [(0x10, true), (0x18, true), (0x02, false), (0x12, false), (0x11, false), (0x04, false)]
        {
            let mut frame = from_pod_frame();
            frame.change::<Ipv4>(IP, |ip| ip.protocol = 6);
            frame.bytes[IP + 20 + 12] = 0x50;
            frame.bytes[IP + 20 + 13] = flags;
            let verdict = from_pod(&mut frame.clone(), &tables(Travel::Vxlan));
            let expected = if fast { Reason::Forwarded } else { Reason::TcpFlags };
            assert_eq!(verdict.reason(), expected, "flags {flags:#x}");

            let mut tables = tables(Travel::Vxlan);
            tables.config = Some(Config { carry_tcp: 0, ..config() });
            assert_eq!(from_pod(&mut frame, &tables), Verdict::Pass(Reason::StrictConntrack));
        }
    }

    #[test]
    fn only_echoes_of_icmp_take_the_fast_path() {
        for (kind, code, fast) in [(8, 0, true), (0, 0, true), (3, 4, false), (11, 0, false), (8, 1, false)] {
            let mut frame = from_pod_frame();
            frame.change::<Ipv4>(IP, |ip| ip.protocol = 1);
            frame.bytes[IP + 20] = kind;
            frame.bytes[IP + 21] = code;
            let expected = if fast { Reason::Forwarded } else { Reason::Protocol };
            assert_eq!(
                from_pod(&mut frame, &tables(Travel::Vxlan)).reason(),
                expected,
                "type {kind} code {code}"
            );
        }
    }

    #[test]
    fn size_is_judged_per_segment() {
        let overlay = 1450 - 28;
        let table = [
            (Travel::Vxlan, overlay, None, Reason::Forwarded),
            (Travel::Vxlan, overlay + 1, None, Reason::Oversize),
            (Travel::Direct, overlay + 50, None, Reason::Forwarded),
            (Travel::Direct, overlay + 51, None, Reason::Oversize),
            (Travel::Vxlan, 20_000, Some(overlay), Reason::Forwarded),
            (Travel::Vxlan, 20_000, Some(overlay + 1), Reason::Oversize),
            (Travel::Vxlan, 65_507 - 50, Some(overlay), Reason::Forwarded),
            (Travel::Vxlan, 65_507 - 49, Some(overlay), Reason::Oversize),
        ];
        for (travel, payload, segment_size, reason) in table {
            let mut frame = Frame::new(POD_PORT, udp(POD, PEER_POD, (POD_MAC, GATEWAY), payload));
            frame.segment_size = segment_size;
            assert_eq!(from_pod(&mut frame, &tables(travel)).reason(), reason, "{payload} {segment_size:?}");
        }
    }

    #[test]
    fn the_agent_decides_whether_anything_is_carried_at_all() {
        let table = [
            (None, 500, Reason::NoConfig),
            (Some(Config { abi: 0, ..config() }), 500, Reason::NoConfig),
            (Some(Config { fast_path: 0, ..config() }), 500, Reason::FastPathOff),
            (Some(config()), 1000, Reason::Forwarded),
            (Some(config()), 1001, Reason::Expired),
        ];
        for (config, now, reason) in table {
            let mut tables = tables(Travel::Vxlan);
            (tables.config, tables.now) = (config, now);
            assert_eq!(from_pod(&mut from_pod_frame(), &tables).reason(), reason);
        }
    }

    #[test]
    fn an_address_seen_on_another_port_is_forgotten() {
        let tables = tables(Travel::Vxlan);
        tables.set_endpoint(POD, ovl_common::Endpoint { ifindex: 99, ..endpoint() });
        assert_eq!(from_pod(&mut from_pod_frame(), &tables), Verdict::Pass(Reason::MovedSource));
        assert_eq!(tables.endpoint_of(POD), None);
        assert_eq!(tables.pod_mac_of(POD_PORT), Some(POD_MAC), "and the sender's MAC is noted");
    }

    #[test]
    fn the_source_port_is_the_flows() {
        let mut frame = from_pod_frame();
        let _sent = from_pod(&mut frame, &tables(Travel::Vxlan));
        // The kernel's formula on the test's hash 0x12345678: (h ^ h << 16) * (60999 - 32768) >> 32, plus 32768.
        assert_eq!(frame.read::<Udp>(IP + 20).source, 40_299u16.to_be_bytes());
    }
}
