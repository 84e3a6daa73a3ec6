//! Reading the bytes of a packet that a program showed.

use std::net::IpAddr;

use ovl_common::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPIP, IPV6_IN_IP, Ipv4, Ipv6, TCP, TunnelHeaders, UDP,
};
use ovl_common::{Config, Encapsulation, Event, IpKey};

/// What is known of a packet; of one in a tunnel, of the packet inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packet {
    /// EtherType, network byte order.
    pub(super) ethertype: [u8; 2],
    /// Addresses and protocol number; none where it is not IP, or too short to tell.
    pub(super) ip: Option<Ip>,
    /// Source and destination port, of TCP and UDP.
    pub(super) ports: Option<(u16, u16)>,
    /// The other node, of a packet that is in this node's tunnel.
    pub(super) node: Option<IpAddr>,
}

/// What an IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
}

impl Packet {
    /// Every address that somebody may look for it by.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ends = self.ip.into_iter().flat_map(|ip| [ip.source, ip.destination]);
        ends.chain(self.node)
    }
}

/// Reads an event.
pub(super) fn read(event: &Event, config: &Config) -> Packet {
    let bytes = event.head.get(..event.captured.into()).unwrap_or_default();
    let (outer, payload) = plain(event.ethertype, bytes);
    tunnelled(outer, payload, config).unwrap_or(outer)
}

/// The packet, and what is behind its IP header.
fn plain(ethertype: [u8; 2], bytes: &[u8]) -> (Packet, &[u8]) {
    let Some((ip, payload)) = ip(ethertype, bytes) else {
        return (Packet { ethertype, ..Packet::default() }, &[]);
    };
    let ports = prefix::<[[u8; 2]; 2]>(payload)
        .filter(|_| ip.protocol == TCP || ip.protocol == UDP)
        .map(|ports| (u16::from_be_bytes(ports[0]), u16::from_be_bytes(ports[1])));
    (Packet { ethertype, ip: Some(ip), ports, node: None }, payload)
}

/// The packet inside, where it came through this node's tunnel or has just been wrapped for it.
fn tunnelled(outer: Packet, payload: &[u8], config: &Config) -> Option<Packet> {
    let ip = outer.ip?;
    let tunnel = if ip.source.is_ipv4() { &config.tunnel_v4 } else { &config.tunnel_v6 };
    let (ethertype, inside) = if tunnel.encapsulation == Encapsulation::Ipip as u8 {
        match ip.protocol {
            IPIP => (ETHERTYPE_IPV4, payload),
            IPV6_IN_IP => (ETHERTYPE_IPV6, payload),
            _ => return None,
        }
    } else {
        let headers: TunnelHeaders = prefix(payload)?;
        let is_ours = tunnel.encapsulation == Encapsulation::Vxlan as u8
            && ip.protocol == UDP
            && headers.udp.destination == tunnel.port;
        if !is_ours {
            return None;
        }
        (headers.ethernet.ethertype, payload.get(size_of::<TunnelHeaders>()..)?)
    };
    let own = IpAddr::from(tunnel.address);
    let node = if ip.destination == own {
        ip.source
    } else if ip.source == own {
        ip.destination
    } else {
        return None;
    };
    let (inner, _) = plain(ethertype, inside);
    Some(Packet { node: Some(node), ..inner })
}

/// The bits of [`Ipv4::fragment`] that say where it belongs.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What an IP header says, and what is behind it: nothing in fragments after the first.
fn ip(ethertype: [u8; 2], bytes: &[u8]) -> Option<(Ip, &[u8])> {
    match ethertype {
        ETHERTYPE_IPV4 => {
            let header: Ipv4 = prefix(bytes)?;
            let length = usize::from(header.version_and_length & 0xf) * 4;
            let is_first = u16::from_be_bytes(header.fragment) & FRAGMENT_OFFSET == 0;
            let payload = bytes.get(length..).filter(|_| is_first && length >= size_of::<Ipv4>());
            let ip = Ip {
                source: IpAddr::from(header.source),
                destination: IpAddr::from(header.destination),
                protocol: header.protocol,
            };
            Some((ip, payload.unwrap_or_default())).filter(|_| header.version_and_length >> 4 == 4)
        }
        ETHERTYPE_IPV6 => {
            let header: Ipv6 = prefix(bytes)?;
            // As the programs have it: no address on the wire is a mapped IPv4 one.
            let ip = Ip {
                source: IpKey::from_ipv6_octets(header.source).into(),
                destination: IpKey::from_ipv6_octets(header.destination).into(),
                protocol: header.next_header,
            };
            let payload = bytes.get(size_of::<Ipv6>()..).unwrap_or_default();
            Some((ip, payload)).filter(|_| header.version_class_label[0] >> 4 == 6)
        }
        _ => None,
    }
}

fn prefix<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
pub(super) mod testing {
    use bytemuck::Zeroable as _;
    use ovl_common::{Action, Program, Reason};

    use super::*;

    /// `from_pod` wrapped a UDP packet of 10.42.3.2:4000 to 10.42.7.2:5000 for node 192.0.2.12.
    pub(in super::super) fn event() -> Event {
        let mut event = Event {
            program: Program::FromPod as u8,
            reason: Reason::Forwarded as u8,
            action: Action::Send as u8,
            captured: 0,
            length: 142,
            ifindex: u32::MAX,
            mark: 0x2000,
            ethertype: ETHERTYPE_IPV4,
            reserved: [0; 2],
            head: [0; ovl_common::HEAD],
        };
        let outer = ipv4([192, 0, 2, 11], [192, 0, 2, 12], UDP);
        let udp = [0x80, 1, 33, 24, 0, 50, 0, 0];
        let vxlan = [8, 0, 0, 0, 0, 0, 1, 0];
        let ethernet = [2, 0, 0, 0, 0, 12, 2, 0, 0, 0, 0, 11, 8, 0];
        let inner = ipv4([10, 42, 3, 2], [10, 42, 7, 2], UDP);
        let ports = [0x0f, 0xa0, 0x13, 0x88, 0, 8, 0, 0];
        fill(&mut event, &[&outer[..], &udp, &vxlan, &ethernet, &inner, &ports].concat());
        event
    }

    /// The same as it is read.
    pub(in super::super) fn packet() -> Packet {
        read(&event(), &config())
    }

    pub(super) fn fill(event: &mut Event, bytes: &[u8]) {
        event.head[..bytes.len()].copy_from_slice(bytes);
        event.captured = u8::try_from(bytes.len()).expect("short");
    }

    /// Node 192.0.2.11, with VXLAN on 8472.
    pub(super) fn config() -> Config {
        let mut config = Config::zeroed();
        config.tunnel_v4.address = IpKey::from_ipv4_octets([192, 0, 2, 11]);
        config.tunnel_v4.port = 8472u16.to_be_bytes();
        config.tunnel_v4.encapsulation = Encapsulation::Vxlan as u8;
        config
    }

    pub(super) fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8) -> [u8; 20] {
        let mut header = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[12..16].copy_from_slice(&source);
        header[16..].copy_from_slice(&destination);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{config, event, fill, ipv4, packet};
    use super::*;

    fn addresses(packet: &Packet) -> Vec<String> {
        packet.addresses().map(|address| address.to_string()).collect()
    }

    #[test]
    fn of_a_tunnel_packet_the_inside_is_read_whichever_way_it_goes() {
        assert_eq!(addresses(&packet()), ["10.42.3.2", "10.42.7.2", "192.0.2.12"]);
        assert_eq!(packet().ports, Some((4000, 5000)));
        let mut into = event();
        into.head[12..20].copy_from_slice(&[192, 0, 2, 12, 192, 0, 2, 11]);
        assert_eq!(read(&into, &config()).node, packet().node);
        into.head[12..20].copy_from_slice(&[192, 0, 2, 12, 192, 0, 2, 13]);
        assert_eq!(addresses(&read(&into, &config())), ["192.0.2.12", "192.0.2.13"], "not of this node");
    }

    #[test]
    fn of_ip_in_ip_the_inside_is_read() {
        let mut ipip = config();
        ipip.tunnel_v4.encapsulation = Encapsulation::Ipip as u8;
        let mut event = event();
        let outer = ipv4([192, 0, 2, 11], [192, 0, 2, 12], IPIP);
        let inner = ipv4([10, 42, 3, 2], [10, 42, 7, 2], UDP);
        fill(&mut event, &[&outer[..], &inner, &[0x0f, 0xa0, 0x13, 0x88, 0, 8, 0, 0]].concat());
        assert_eq!(addresses(&read(&event, &ipip)), ["10.42.3.2", "10.42.7.2", "192.0.2.12"]);
        assert_eq!(read(&event, &ipip).ports, Some((4000, 5000)));
        assert_eq!(read(&event, &config()).node, None, "not this network's");
    }

    #[test]
    fn without_a_tunnel_it_is_what_it_is() {
        let mut plain = config();
        plain.tunnel_v4.encapsulation = Encapsulation::None as u8;
        let packet = read(&event(), &plain);
        assert_eq!((packet.ports, packet.node), (Some((32769, 8472)), None));
    }

    #[test]
    fn ports_are_read_only_where_they_are() {
        let mut event = event();
        let udp = ipv4([10, 42, 3, 2], [10, 42, 7, 2], UDP);
        let mut options = [&udp[..], &[1; 4], &[0, 1, 0, 2]].concat();
        options[0] = 0x46;
        let mut later = [&udp[..], &[0, 1, 0, 2]].concat();
        later[7] = 1;
        let icmp = [&ipv4([10, 42, 3, 2], [10, 42, 7, 2], 1)[..], &[8, 0, 0, 0]].concat();
        for (bytes, ports) in [(options, Some((1, 2))), (later, None), (icmp, None), (udp.to_vec(), None)] {
            fill(&mut event, &bytes);
            let packet = read(&event, &config());
            assert_eq!((packet.ports, packet.ip.is_some()), (ports, true), "{bytes:?}");
        }
    }

    #[test]
    fn whatever_was_captured_can_be_read() {
        let whole = event();
        for captured in 0..=u8::MAX {
            for ethertype in [ETHERTYPE_IPV4, ETHERTYPE_IPV6, [8, 6]] {
                let packet = read(&Event { captured, ethertype, ..whole }, &config());
                assert_eq!(
                    packet.ip.is_some(),
                    ethertype == ETHERTYPE_IPV4
                        && (20..=116).contains(&captured)
                        && !(50..70).contains(&captured),
                    "{captured}"
                );
            }
        }
    }
}
