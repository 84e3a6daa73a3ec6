//! `from_wire`: what another node sends to a pod here.

use ovl_common::wire::{ETHERTYPE_IPV4, Ethernet, Ipv4};
use ovl_common::{Config, Endpoint, IpKey, Reason, Travel};

use crate::active::{active, is_local};
use crate::decap::{self, Outer};
use crate::egress::fits;
use crate::inspect::{Inner, Trailer, check_link_layer, inspect};
use crate::packet::{INNER_IP, IP, Packet};
use crate::tables::Tables;
use crate::verdict::Verdict;

/// Ethernet and IPv4: enough to tell whether the packet is any of ours.
const OUTER_HEADERS: usize = 14 + 20;
/// Up to and including an inner TCP header.
const TUNNEL_HEADERS: usize = INNER_IP + 20 + 20;
/// Up to and including the TCP header of a packet without a tunnel.
const PLAIN_HEADERS: usize = IP + 20 + 20;

/// Decides about a packet at the ingress of the underlay device.
#[inline(always)]
pub fn from_wire<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    match carry(packet, tables) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Pass(reason),
    }
}

#[inline(always)]
fn carry<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Reason> {
    let config = active(tables)?;
    check_link_layer(packet)?;
    if !packet.to_this_host() {
        return Err(Reason::NotForUs);
    }
    packet.make_linear(OUTER_HEADERS);
    let ip: &Ipv4 = packet.at(IP)?;
    if is_local(config, IpKey::from_ipv4_octets(ip.destination)) {
        packet.make_linear(PLAIN_HEADERS);
        plain(packet, tables, config)
    } else if config.encapsulation == ovl_common::Encapsulation::Vxlan as u32
        && decap::is_to_tunnel(config, ip)
    {
        packet.make_linear(TUNNEL_HEADERS);
        tunnelled(packet, tables, config)
    } else {
        Err(Reason::NotTunnel)
    }
}

#[inline(always)]
fn tunnelled<P: Packet, T: Tables>(packet: &mut P, tables: &T, config: &Config) -> Result<Verdict, Reason> {
    let outer = decap::outer(packet, config)?;
    let inner = inspect(packet, config, INNER_IP, Trailer::None)?;
    fits(&inner, config.tunnel_mtu)?;
    check_node(tables, &inner, &outer)?;
    let congested = decap::must_mark_congestion(outer.tos, inner.tos)?;
    let endpoint = *tables.endpoint(inner.destination).ok_or(Reason::UnknownPod)?;
    packet.pop_tunnel()?;
    // From here on the packet is neither of the two: what fails now, drops it.
    match finish(packet, &endpoint, congested) {
        Ok(verdict) => Ok(verdict),
        Err(_) => Ok(Verdict::Drop(Reason::Mangled)),
    }
}

/// The inner source's subnet must be leased by the node that sent the packet.
#[inline(always)]
fn check_node<T: Tables>(tables: &T, inner: &Inner, outer: &Outer) -> Result<(), Reason> {
    let remote = tables.remote(inner.source).ok_or(Reason::WrongNode)?;
    if remote.node != outer.node || remote.travel != Travel::Vxlan as u16 {
        return Err(Reason::WrongNode);
    }
    Ok(())
}

#[inline(always)]
fn plain<P: Packet, T: Tables>(packet: &mut P, tables: &T, config: &Config) -> Result<Verdict, Reason> {
    let inner = inspect(packet, config, IP, Trailer::Padding)?;
    fits(&inner, config.underlay_mtu)?;
    let remote = tables.remote(inner.source).ok_or(Reason::WrongNode)?;
    if remote.travel != Travel::Direct as u16 {
        return Err(Reason::WrongNode);
    }
    let endpoint = *tables.endpoint(inner.destination).ok_or(Reason::UnknownPod)?;
    finish(packet, &endpoint, false)
}

/// The frame as the pod's gateway would send it.
#[inline(always)]
fn finish<P: Packet>(packet: &mut P, endpoint: &Endpoint, congested: bool) -> Result<Verdict, Reason> {
    // The IP header first: where it cannot be written, nothing has changed.
    let ip: &mut Ipv4 = packet.at_mut(IP)?;
    ip.decrement_ttl();
    if congested {
        ip.set_congestion_experienced();
    }
    let ethernet: &mut Ethernet = packet.at_mut(0)?;
    *ethernet = Ethernet { destination: endpoint.pod, source: endpoint.gateway, ethertype: ETHERTYPE_IPV4 };
    Ok(Verdict::Deliver { ifindex: endpoint.ifindex })
}

#[cfg(test)]
mod tests {
    use ovl_common::Mac;

    use super::*;
    use crate::testing::{
        Frame, GATEWAY, PEER_NODE, PEER_POD, POD, POD_MAC, POD_PORT, UNDERLAY, UNDERLAY_MAC, config,
        from_wire_frame, left_to_the_kernel_from_wire, outer, tables, udp,
    };

    #[test]
    fn a_tunnel_packet_is_stripped_and_delivered() {
        let mut frame = from_wire_frame();
        let before = frame.clone();
        assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)), Verdict::Deliver { ifindex: POD_PORT });
        let ethernet: Ethernet = frame.read(0);
        assert_eq!((ethernet.source, ethernet.destination), (GATEWAY, POD_MAC));
        assert_eq!(ethernet.ethertype, ETHERTYPE_IPV4);
        let ip: Ipv4 = frame.read(IP);
        assert_eq!((ip.ttl, ip.checksum, ip.tos), (63, ip.computed_checksum(), 0));
        assert_eq!(frame.bytes[IP + 20..], before.bytes[INNER_IP + 20..]);
    }

    #[test]
    fn a_plain_packet_is_delivered_padding_and_all() {
        for padding in [0, 4] {
            let mut bytes = udp(PEER_POD, POD, (Mac([2; 6]), UNDERLAY_MAC), 5);
            bytes.resize(bytes.len() + padding, 0);
            let mut frame = Frame::new(UNDERLAY, bytes);
            assert_eq!(
                from_wire(&mut frame, &tables(Travel::Direct)),
                Verdict::Deliver { ifindex: POD_PORT }
            );
            assert_eq!(frame.read::<Ethernet>(0).destination, POD_MAC);
            assert_eq!(frame.read::<Ipv4>(IP).ttl, 63);
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
    fn what_the_kernel_must_see_passes_untouched() {
        for (name, change, reason) in left_to_the_kernel_from_wire() {
            let mut frame = from_wire_frame();
            change(&mut frame);
            let before = frame.bytes.clone();
            assert_eq!(from_wire(&mut frame, &tables(Travel::Vxlan)), Verdict::Pass(reason), "{name}");
            assert_eq!(frame.bytes, before, "{name}");
        }
    }

    #[test]
    fn a_peer_may_not_choose_how_it_travels() {
        // Tunnelled where it should come plain, and plain where it should come tunnelled.
        let verdict = from_wire(&mut from_wire_frame(), &tables(Travel::Direct));
        assert_eq!(verdict, Verdict::Pass(Reason::WrongNode));
        let mut plain = Frame::new(UNDERLAY, udp(PEER_POD, POD, (Mac([2; 6]), UNDERLAY_MAC), 5));
        assert_eq!(from_wire(&mut plain, &tables(Travel::Vxlan)), Verdict::Pass(Reason::WrongNode));
    }

    #[test]
    fn without_a_tunnel_tunnel_packets_are_nothing_special() {
        let mut tables = tables(Travel::Direct);
        tables.config = Some(Config { encapsulation: 0, ..config() });
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
                    other @ (Verdict::Drop(_) | Verdict::Send { .. }) => {
                        panic!("{other:?} at byte {position} ^ {value:#x}")
                    }
                }
            }
        }
    }
}
