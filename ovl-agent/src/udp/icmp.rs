//! What senders are told of packets that could not be carried: ICMP (RFC 792) and ICMPv6 (RFC 4443) errors.
//!
//! Flannel sends unreachables with its own address as their source into the device they came from, where the kernel
//! drops them as martians, and nothing at all when the TTL is used up. Here they go out like everything else that this
//! node sends.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::checksum::Sum;
use super::packet::{Header, ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER, addresses, write_length};
use crate::family::Family;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No node has the destination.
    Unreachable,
    /// TTL or hop limit was used up on the way.
    TimeExceeded,
}

/// The longest error, bytes: what every link carries in one piece (RFC 1812 section 4.3.2.3, RFC 4443 section 3.1).
const LONGEST_V4: usize = 576;
const LONGEST_V6: usize = 1280;
/// What an error adds before the packet that it quotes, beside the IP header, bytes.
const ICMP_HEADER: usize = 8;
const TTL: u8 = 64;

/// Writes the error from `source` to the sender of `packet` into `message`, which gets as long as it is. `false` where
/// nobody may be told (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
pub(crate) fn write(
    problem: Problem,
    source: IpAddr,
    packet: &[u8],
    header: &Header,
    message: &mut Vec<u8>,
) -> bool {
    let family = header.family();
    if Family::of(source) != family || !may_answer(packet, header) {
        return false;
    }
    message.clear();
    let (protocol, longest) = match (source, header.source) {
        (IpAddr::V4(source), IpAddr::V4(sender)) => {
            message.extend([0x45, 0, 0, 0, 0, 0, 0, 0, TTL, ICMP, 0, 0]);
            message.extend(source.octets());
            message.extend(sender.octets());
            (ICMP, LONGEST_V4)
        }
        (IpAddr::V6(source), IpAddr::V6(sender)) => {
            message.extend([0x60, 0, 0, 0, 0, 0, ICMPV6, TTL]);
            message.extend(source.octets());
            message.extend(sender.octets());
            (ICMPV6, LONGEST_V6)
        }
        _ => return false,
    };
    let ip_header = message.len();
    let kind = match (problem, family) {
        // Code 0 each: network unreachable, no route to destination, exceeded in transit.
        (Problem::Unreachable, Family::V4) | (Problem::TimeExceeded, Family::V6) => 3,
        (Problem::Unreachable, Family::V6) => 1,
        (Problem::TimeExceeded, Family::V4) => 11,
    };
    message.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    let quoted = packet.len().min(longest - ip_header - ICMP_HEADER);
    message.extend(&packet[..quoted]);
    write_length(message, ip_header, family);
    let (ip, icmp) = message.split_at_mut(ip_header);
    let pseudo = match family {
        Family::V4 => Sum::default(),
        Family::V6 => Sum::pseudo_header(addresses(ip, family), protocol, icmp.len().try_into().unwrap_or(0)),
    };
    let sum = pseudo.bytes(icmp).checksum();
    icmp[2..4].copy_from_slice(&sum);
    true
}

fn may_answer(packet: &[u8], header: &Header) -> bool {
    let is_first = header.fragment.is_none_or(|place| place == 0);
    let kind = packet.get(header.length).copied();
    let is_error = match header.protocol {
        // All but questions and their answers.
        ICMP => !matches!(kind, Some(0 | 8 | 9 | 10 | 13..=18)),
        ICMPV6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    };
    let is_one = |address: IpAddr| {
        let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        !(address.is_multicast() || address.is_unspecified() || address.is_loopback() || is_broadcast)
    };
    is_first && !is_error && is_one(header.source) && is_one(header.destination)
}

/// Keeps errors from becoming a flood (RFC 1812 section 4.3.2.8).
#[derive(Debug)]
pub(crate) struct Limit {
    since: Instant,
    left: u32,
}

impl Limit {
    const EACH: u32 = 100;
    const SPAN: Duration = Duration::from_millis(100);

    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, left: Self::EACH }
    }

    /// Whether one more may be sent.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Self::SPAN {
            *self = Self::new(now);
        }
        let allows = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allows
    }
}

const _: () = assert!(LONGEST_V4 > IPV4_HEADER + ICMP_HEADER && LONGEST_V6 > IPV6_HEADER + ICMP_HEADER);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::packet::testing::{ip, pods, udp};
    use crate::udp::packet::{TCP, is_header_whole};

    fn answer(problem: Problem, packet: &[u8]) -> Option<Vec<u8>> {
        let header = Header::read(packet).expect("sound");
        let source = if header.source.is_ipv4() { "10.42.3.0" } else { "fd42:0:0:3::" };
        let mut message = vec![0xa5; 10];
        let source = source.parse().expect(source);
        write(problem, source, packet, &header, &mut message).then_some(message)
    }

    #[test]
    fn errors_have_the_form_of_the_rfcs() {
        let [ipv4, ipv6] = pods();
        let table = [
            (Problem::Unreachable, ipv4, 3, 100, 20 + 8 + 20 + 8 + 100),
            (Problem::TimeExceeded, ipv4, 11, 1400, 576),
            (Problem::Unreachable, ipv6, 1, 100, 40 + 8 + 40 + 8 + 100),
            (Problem::TimeExceeded, ipv6, 3, 1400, 1280),
        ];
        for (problem, addresses, kind, payload, length) in table {
            let packet = udp(addresses, &vec![7; payload]);
            let message = answer(problem, &packet).expect("an answer");
            let header = Header::read(&message).expect("sound");
            assert!(is_header_whole(&message, &header));
            assert_eq!((header.destination, message.len()), (addresses.0, length));
            let body = &message[header.length..];
            assert_eq!(&body[..2], [kind, 0]);
            assert!(packet.starts_with(&body[8..]));
            let pseudo = match header.family() {
                Family::V4 => Sum::default(),
                Family::V6 => Sum::pseudo_header(
                    super::addresses(&message, Family::V6),
                    ICMPV6,
                    u32::try_from(body.len()).expect("small"),
                ),
            };
            assert!(pseudo.bytes(body).is_valid());
        }
    }

    #[test]
    fn nobody_is_told_who_may_not_be() {
        let [ipv4, ipv6] = pods();
        let address = |text: &str| -> IpAddr { text.parse().expect(text) };
        let mut later = udp(ipv4, b"body");
        later[6..8].copy_from_slice(&[0, 9]);
        let mut first = udp(ipv4, b"body");
        first[6..8].copy_from_slice(&[0x20, 0]);
        let table = [
            ("a later fragment", later, false),
            ("a first fragment", first, true),
            ("an error", ip(ipv4.0, ipv4.1, ICMP, &[3, 0, 0, 0, 0, 0, 0, 0]), false),
            ("an echo", ip(ipv4.0, ipv4.1, ICMP, &[8, 0, 0, 0, 0, 0, 0, 0]), true),
            ("half an ICMP packet", ip(ipv4.0, ipv4.1, ICMP, &[]), false),
            ("an error of ICMPv6", ip(ipv6.0, ipv6.1, ICMPV6, &[1, 0, 0, 0, 0, 0, 0, 0]), false),
            ("an echo of ICMPv6", ip(ipv6.0, ipv6.1, ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0]), true),
            ("TCP", ip(ipv4.0, ipv4.1, TCP, &[0; 20]), true),
            ("to a group", ip(ipv4.0, address("224.0.0.1"), TCP, &[0; 20]), false),
            ("to everybody", ip(ipv4.0, address("255.255.255.255"), TCP, &[0; 20]), false),
            ("from nobody", ip(address("0.0.0.0"), ipv4.1, TCP, &[0; 20]), false),
            ("from a loop", ip(address("::1"), ipv6.1, TCP, &[0; 20]), false),
        ];
        for (what, packet, is_told) in table {
            assert_eq!(answer(Problem::Unreachable, &packet).is_some(), is_told, "{what}");
        }
    }

    #[test]
    fn no_flood() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let allowed = |limit: &mut Limit, now| (0..1000).filter(|_| limit.allows(now)).count();
        assert_eq!(allowed(&mut limit, start), 100);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(99)), 0);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(100)), 100);
    }
}
