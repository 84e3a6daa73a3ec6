//! What the programs learn from the packets that the kernel carries: which pod is behind which interface.
//!
//! An endpoint is learned only when three things agree: the kernel itself routed a packet for the address out of this
//! interface (`to_pod` runs on its egress), the frame came from the gateway, and it is addressed to the MAC that
//! last sent on this interface. The last one matters because a bridge floods frames for a MAC it has forgotten to
//! all its ports, and bridges forget pods whose every packet takes the fast path.

use ovl_common::wire::{
    Arp, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, ICMPV6, Ipv4, Ipv6, NeighbourAdvertisement,
};
use ovl_common::{Endpoint, FastPath, IpKey, Mac, Reason};

use crate::active::{Active, active};
use crate::flow::{Direction, accept};
use crate::inspect::{Step, TRANSPORT, Trailer, check_link_layer, inspect};
use crate::ip::IpHeader;
use crate::packet::{IP, Packet};
use crate::tables::Tables;
use crate::tunnel::Tunnel as _;
use crate::verdict::{Verdict, is_group};

/// Notes the MAC of the pod behind the interface that `packet` came in on, and where an address moved to.
#[inline(always)]
pub(crate) fn note_sender<P: Packet, T: Tables>(packet: &mut P, tables: &T) {
    match packet.ethertype() {
        ETHERTYPE_ARP => packet.make_linear(IP + size_of::<Arp>()),
        ETHERTYPE_IPV6 => packet.make_linear(IP + size_of::<Ipv6>() + size_of::<NeighbourAdvertisement>()),
        _ => {}
    }
    let Ok(ethernet) = packet.at::<Ethernet>(0) else { return };
    if packet.is_tagged() || is_group(ethernet.source) {
        return;
    }
    let ifindex = packet.ifindex();
    let mac = ethernet.source;
    match packet.ethertype() {
        ETHERTYPE_ARP => heed_arp(packet, tables, ifindex),
        ETHERTYPE_IPV6 => heed_advertisement(packet, tables, ifindex, mac),
        _ => {}
    }
    if tables.pod_mac(ifindex) != Some(&mac) {
        tables.learn_pod_mac(ifindex, &mac);
    }
}

/// A pod that says by ARP that an address is its own, which is known to be another's, has that forgotten: the kernel
/// moves the address on such a word, too, and then decides whose it is.
#[inline(always)]
fn heed_arp<P: Packet, T: Tables>(packet: &P, tables: &T, ifindex: u32) {
    let Ok(arp) = packet.at::<Arp>(IP) else { return };
    let sender = IpKey::from_ipv4_octets(arp.sender);
    if tables.endpoint(sender).is_some_and(|known| known.ifindex != ifindex || known.pod != arp.sender_mac) {
        tables.forget_endpoint(sender);
    }
}

/// The same by neighbour discovery.
#[inline(always)]
fn heed_advertisement<P: Packet, T: Tables>(packet: &P, tables: &T, ifindex: u32, mac: Mac) {
    let Ok(ip) = packet.at::<Ipv6>(IP) else { return };
    if ip.next_header != ICMPV6 {
        return;
    }
    let Ok(advertisement) = packet.at::<NeighbourAdvertisement>(IP + size_of::<Ipv6>()) else { return };
    if advertisement.kind != NeighbourAdvertisement::KIND {
        return;
    }
    let target = IpKey::from_ipv6_octets(advertisement.target);
    if tables.endpoint(target).is_some_and(|known| known.ifindex != ifindex || known.pod != mac) {
        tables.forget_endpoint(target);
    }
}

/// Decides about a packet at the egress of a pod's host-side interface: always to the kernel.
#[inline(always)]
pub fn to_pod<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict<'static> {
    let learned = active(tables).and_then(|active| match packet.ethertype() {
        ETHERTYPE_IPV4 => learn::<Ipv4, P, T>(packet, tables, &active),
        ETHERTYPE_IPV6 => learn::<Ipv6, P, T>(packet, tables, &active),
        _ => Err(Reason::NotIp),
    });
    match learned {
        Ok(reason) | Err(reason) => Verdict::Pass(reason),
    }
}

#[inline(always)]
fn learn<I: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    active: &Active<'_>,
) -> Result<Reason, Reason> {
    check_link_layer(packet)?;
    packet.make_linear(IP + I::LENGTH + TRANSPORT);
    let ifindex = packet.ifindex();
    let ethernet: &Ethernet = packet.at(0)?;
    let endpoint = Endpoint::new(ifindex, ethernet.destination, ethernet.source);
    let ip: &I = packet.at(IP)?;
    ip.check_version()?;
    let address = ip.destination();
    if !I::local(active.config).contains(address) {
        return Err(Reason::NotOverlay);
    }
    let is_known = tables.endpoint(address) == Some(&endpoint);
    if !is_known {
        check_delivery(tables, &endpoint)?;
        if !tables.learn_endpoint(address, &endpoint) {
            return Err(Reason::Full);
        }
    }
    let is_verified = verify::<I, P, T>(packet, tables, active, Direction::Into) == Reason::Verified;
    Ok(match (is_known, is_verified) {
        (false, _) => Reason::Learned,
        (true, true) => Reason::Verified,
        (true, false) => Reason::Known,
    })
}

/// Whether a frame that left by `endpoint`'s interface, with its two MACs, came from the gateway and is for who is there.
#[inline(always)]
fn check_delivery<T: Tables>(tables: &T, endpoint: &Endpoint) -> Result<(), Reason> {
    let port = tables.port(endpoint.ifindex).ok_or(Reason::NotPort)?;
    if endpoint.gateway != port.gateway {
        return Err(Reason::NotRouted);
    }
    if tables.pod_mac(endpoint.ifindex) == Some(&endpoint.pod) { Ok(()) } else { Err(Reason::Flooded) }
}

/// Notes that netfilter accepted the packet, where it says so. A function of its own for the sake of the stack.
#[inline(never)]
pub(crate) fn verify<I: IpHeader, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    active: &Active<'_>,
    direction: Direction,
) -> Reason {
    let config = active.config;
    if config.fast_path != FastPath::Verified as u32 || packet.mark() & config.mark == 0 {
        return Reason::Unmarked;
    }
    let inner = match inspect::<I, P>(packet, config, IP, Trailer::None) {
        Ok(inner) => inner,
        Err(reason) => return reason,
    };
    // What accepts a connection has been accepted in its own direction, as what follows it.
    if matches!(inner.step(), Step::Break | Step::Close) {
        return Reason::TcpFlags;
    }
    let (here, there) = match direction {
        Direction::Out => (inner.source, inner.destination),
        Direction::Into => (inner.destination, inner.source),
    };
    if !I::local(config).contains(here) {
        return Reason::ForeignSource;
    }
    let Some(remote) = tables.remote(there) else { return Reason::NotOverlay };
    let (device, is_tunnelled) = (packet.ifindex(), remote.travel == P::Tunnel::TRAVEL as u8);
    match direction {
        Direction::Out if is_tunnelled == (device == config.underlay) => Reason::OtherWay,
        Direction::Out => accept(tables, active, direction, None, &inner),
        Direction::Into => accept(tables, active, direction, Some(device), &inner),
    }
}

#[cfg(test)]
mod tests {
    use ovl_common::{Config, Travel};

    use super::*;
    use crate::ip::Family;
    use crate::testing::{
        Frame, GATEWAY, MARK, PEER_POD, PEER_POD6, POD, POD_MAC, POD_PORT, POD6, config, endpoint,
        from_pod_frame, from_pod_frame_of, tables, to_pod_frame_of, udp,
    };

    fn delivery() -> Frame {
        Frame::new(POD_PORT, udp(PEER_POD, POD, (GATEWAY, POD_MAC), 10))
    }

    #[test]
    fn a_pod_is_learned_once_it_sent_and_was_delivered_to() {
        let tables = tables(Travel::Vxlan);
        tables.forget_endpoint(IpKey::from_ipv4_octets(POD));
        assert_eq!(to_pod(&mut delivery(), &tables), Verdict::Pass(Reason::Flooded), "it has not sent yet");
        let sent = crate::egress::from_pod(&mut from_pod_frame(), &tables);
        assert_eq!(sent, Verdict::Pass(Reason::UnknownSource));
        assert_eq!(to_pod(&mut delivery(), &tables), Verdict::Pass(Reason::Learned));
        assert_eq!(tables.endpoint_of(POD), Some(endpoint()));
        assert_eq!(to_pod(&mut delivery(), &tables), Verdict::Pass(Reason::Known));
    }

    #[test]
    fn what_proves_nothing_teaches_nothing() {
        type Change = fn(&mut Frame);
        let table: [(&str, Change, Reason); 7] = [
            ("tagged", |f| f.tagged = true, Reason::Vlan),
            ("not ip", |f| f.change::<Ethernet>(0, |e| e.ethertype = [8, 6]), Reason::NotIp),
            ("short", |f| f.bytes.truncate(20), Reason::Short),
            ("no port", |f| f.ifindex = 99, Reason::NotPort),
            ("bridged", |f| f.change::<Ethernet>(0, |e| e.source = Mac([2; 6])), Reason::NotRouted),
            ("flooded", |f| f.change::<Ethernet>(0, |e| e.destination = Mac([2; 6])), Reason::Flooded),
            ("nested", |f| f.change::<Ipv4>(IP, |i| i.destination = [172, 16, 0, 1]), Reason::NotOverlay),
        ];
        for (name, change, reason) in table {
            let tables = tables(Travel::Vxlan);
            tables.forget_endpoint(IpKey::from_ipv4_octets(POD));
            tables.learn_pod_mac(POD_PORT, &POD_MAC);
            let mut frame = delivery();
            change(&mut frame);
            let before = frame.bytes.clone();
            assert_eq!(to_pod(&mut frame, &tables), Verdict::Pass(reason), "{name}");
            assert_eq!(frame.bytes, before, "{name}");
            assert_eq!(tables.endpoint_of(POD), None, "{name}");
        }
    }

    #[test]
    fn what_is_known_is_not_asked_for_again() {
        let mut tables = tables(Travel::Vxlan);
        tables.learn_pod_mac(POD_PORT, &Mac([2; 6]));
        tables.ports.clear();
        assert_eq!(to_pod(&mut delivery(), &tables), Verdict::Pass(Reason::Known));
        // Nor is who sent it, where only its flow is in the way.
        tables.config = Some(Config { fast_path: FastPath::Verified as u32, ..config() });
        let sent = crate::egress::from_pod(&mut from_pod_frame(), &tables);
        assert_eq!(sent, Verdict::Pass(Reason::NoFlow));
        assert_eq!(tables.pod_mac_of(POD_PORT), Some(Mac([2; 6])));
        // Its other addresses are learned all the same: what it sends from them is noted.
        tables.forget_endpoint(IpKey::from_ipv4_octets(POD));
        let sent = crate::egress::from_pod(&mut from_pod_frame(), &tables);
        assert_eq!(sent, Verdict::Pass(Reason::UnknownSource));
        assert_eq!(tables.pod_mac_of(POD_PORT), Some(POD_MAC));
    }

    #[test]
    fn a_full_table_is_said_so() {
        let mut tables = tables(Travel::Vxlan);
        tables.forget_endpoint(IpKey::from_ipv4_octets(POD));
        tables.learn_pod_mac(POD_PORT, &POD_MAC);
        tables.full = true;
        assert_eq!(to_pod(&mut delivery(), &tables), Verdict::Pass(Reason::Full));
    }

    #[test]
    fn an_address_announced_by_another_pod_is_forgotten() {
        let table =
            [(POD_PORT, POD_MAC, true), (POD_PORT, Mac([2; 6]), false), (POD_PORT + 1, POD_MAC, false)];
        for (ifindex, sender_mac, known) in table {
            let tables = tables(Travel::Vxlan);
            let announcement = Arp {
                hardware: [0, 1],
                protocol: ETHERTYPE_IPV4,
                hardware_length: 6,
                protocol_length: 4,
                operation: [0, 1],
                sender_mac,
                sender: POD,
                target_mac: Mac([0; 6]),
                target: POD,
            };
            let ethernet =
                Ethernet { destination: Mac([255; 6]), source: sender_mac, ethertype: ETHERTYPE_ARP };
            let bytes = [bytemuck::bytes_of(&ethernet), bytemuck::bytes_of(&announcement)].concat();
            let mut frame = Frame::new(ifindex, bytes);
            assert_eq!(crate::egress::from_pod(&mut frame, &tables), Verdict::Pass(Reason::NotIp));
            assert_eq!(tables.endpoint_of(POD).is_some(), known, "port {ifindex}, {sender_mac}");
        }
    }

    #[test]
    fn an_ipv6_address_advertised_by_another_pod_is_forgotten() {
        for (ifindex, mac, target, known) in [
            (POD_PORT, POD_MAC, POD6, true),
            (POD_PORT, Mac([2; 6]), POD6, false),
            (POD_PORT + 1, POD_MAC, POD6, false),
            (POD_PORT + 1, POD_MAC, PEER_POD6, true),
        ] {
            let tables = tables(Travel::Vxlan);
            let mut frame = from_pod_frame_of(Family::V6);
            frame.ifindex = ifindex;
            frame.change::<Ethernet>(0, |ethernet| ethernet.source = mac);
            frame.change::<Ipv6>(IP, |ip| {
                ip.next_header = ICMPV6;
                ip.hop_limit = 255;
                ip.destination = [0xff; 16];
            });
            frame.change::<NeighbourAdvertisement>(IP + 40, |advertisement| {
                advertisement.kind = NeighbourAdvertisement::KIND;
                advertisement.target = target;
            });
            let _passed = crate::egress::from_pod(&mut frame, &tables);
            assert_eq!(tables.endpoint_of(POD6).is_some(), known, "port {ifindex}, {mac}");
            let mut other = frame.clone();
            other.change::<NeighbourAdvertisement>(IP + 40, |advertisement| advertisement.kind = 135);
            tables.set_endpoint(POD6, endpoint());
            let _passed = crate::egress::from_pod(&mut other, &tables);
            assert!(tables.endpoint_of(POD6).is_some(), "a solicitation says nothing");
        }
    }

    #[test]
    fn a_group_address_is_nobodys() {
        let tables = tables(Travel::Vxlan);
        let mut frame = from_pod_frame();
        frame.change::<Ethernet>(0, |ethernet| {
            ethernet.source = Mac([0xff; 6]);
            ethernet.ethertype = [8, 6];
        });
        let _passed = crate::egress::from_pod(&mut frame, &tables);
        assert_eq!(tables.pod_mac_of(POD_PORT), None);
    }

    #[test]
    fn a_delivery_that_netfilter_accepted_makes_its_flow_known() {
        for family in [Family::V4, Family::V6] {
            let mut tables = tables(Travel::Vxlan);
            tables.config = Some(Config { fast_path: FastPath::Verified as u32, ..config() });
            tables.learn_pod_mac(POD_PORT, &POD_MAC);
            let deliver = |mark: u32| {
                let mut frame = to_pod_frame_of(family);
                frame.mark = mark;
                to_pod(&mut frame, &tables)
            };
            assert_eq!(deliver(!MARK), Verdict::Pass(Reason::Known));
            assert_eq!(tables.flows(), []);
            assert_eq!(deliver(MARK), Verdict::Pass(Reason::Verified));
            let flows = tables.flows();
            let [(key, flow)] = flows.as_slice() else { panic!("{flows:?}") };
            assert_eq!((key.local_port, key.remote_port, key.protocol), ([0x30, 0x39], [0, 53], 17));
            assert_eq!((flow.into.until, flow.into.epoch, flow.port, flow.since), (600, 3, POD_PORT, 500));
            assert_eq!(flow.out.until, 0);
            assert_eq!(deliver(MARK), Verdict::Pass(Reason::Known), "it says nothing new");
        }
    }
}
