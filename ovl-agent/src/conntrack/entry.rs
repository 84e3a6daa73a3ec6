//! A connection as ctnetlink names and describes it (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, SocketAddr};

use nix::libc;

use crate::netlink::nfnetlink::{Attributes, attributes};

/// `CTA_…`, and below them `CTA_TUPLE_…`, `CTA_IP_…`, `CTA_PROTO_…` and `CTA_PROTOINFO_…`.
const TUPLE_ORIG: u16 = 1;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const TIMEOUT: u16 = 7;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
/// `TCP_CONNTRACK_ESTABLISHED` in linux/netfilter/nf_conntrack_tcp.h.
const ESTABLISHED: u8 = 3;
/// `IPS_DYING` and `IPS_FIXED_TIMEOUT` in linux/netfilter/nf_conntrack_common.h.
const UNCHANGEABLE: u32 = 1 << 9 | 1 << 10;

/// A flow, in either direction: connection tracking finds a connection that is not translated by both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// `IPPROTO_…`.
    pub protocol: u8,
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

impl Tuple {
    /// Its address family (`AF_…`) and what names it; `None` where it is no TCP of one family.
    pub(super) fn of_tcp(&self) -> Option<(u8, Attributes)> {
        if i32::from(self.protocol) != libc::IPPROTO_TCP {
            return None;
        }
        let (family, addresses) =
            match (self.source.ip().to_canonical(), self.destination.ip().to_canonical()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    let source = Attributes::default().bytes(V4_SRC, &source.octets());
                    (libc::AF_INET, source.bytes(V4_DST, &destination.octets()))
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    let source = Attributes::default().bytes(V6_SRC, &source.octets());
                    (libc::AF_INET6, source.bytes(V6_DST, &destination.octets()))
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
            };
        let ports = Attributes::default()
            .bytes(PROTO_NUM, &[self.protocol])
            .bytes(PROTO_SRC_PORT, &self.source.port().to_be_bytes())
            .bytes(PROTO_DST_PORT, &self.destination.port().to_be_bytes());
        let tuple = Attributes::default().nested(TUPLE_IP, &addresses).nested(TUPLE_PROTO, &ports);
        Some((u8::try_from(family).ok()?, Attributes::default().nested(TUPLE_ORIG, &tuple)))
    }
}

/// What sets the timeout of the connection that `named` names.
pub(super) fn with_timeout(named: Attributes, seconds: u32) -> Attributes {
    named.bytes(TIMEOUT, &seconds.to_be_bytes())
}

/// Whether the connection that the kernel describes is TCP in the state ESTABLISHED and would be forgotten before
/// `seconds` are over, though it need not be.
pub(super) fn is_short(description: &[u8], seconds: u32) -> bool {
    let (mut established, mut short, mut changeable) = (false, false, true);
    for (kind, value) in attributes(description) {
        match kind {
            STATUS => changeable = number(value).is_some_and(|status| status & UNCHANGEABLE == 0),
            TIMEOUT => short = number(value).is_some_and(|left| left < seconds),
            PROTOINFO => established = tcp_state(value) == Some(ESTABLISHED),
            _ => {}
        }
    }
    established && short && changeable
}

fn tcp_state(protocol: &[u8]) -> Option<u8> {
    let (_, tcp) = attributes(protocol).find(|(kind, _)| *kind == PROTOINFO_TCP)?;
    let (_, state) = attributes(tcp).find(|(kind, _)| *kind == TCP_STATE)?;
    state.first().copied()
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(protocol: u8, source: &str, destination: &str) -> Tuple {
        let [source, destination] = [source, destination].map(|address| address.parse().expect(address));
        Tuple { protocol, source, destination }
    }

    #[test]
    fn only_tcp_of_one_family_has_a_name() {
        let family = |tuple: Tuple| tuple.of_tcp().map(|(family, _)| family);
        assert_eq!(family(tuple(6, "10.42.1.2:40000", "10.42.2.2:80")), Some(2));
        assert_eq!(family(tuple(6, "[fd42::1]:40000", "[fd42::2]:80")), Some(10));
        assert_eq!(family(tuple(6, "[::ffff:10.42.1.2]:40000", "10.42.2.2:80")), Some(2));
        assert_eq!(family(tuple(6, "[fd42::1]:40000", "10.42.2.2:80")), None);
        assert_eq!(family(tuple(17, "10.42.1.2:40000", "10.42.2.2:53")), None);
    }

    #[test]
    fn short_is_what_is_established_and_could_live_longer() {
        let description = |state: u8, left: u32, status: u32| {
            let tcp = Attributes::default().bytes(TCP_STATE, &[state]);
            let protocol = Attributes::default().nested(PROTOINFO_TCP, &tcp);
            let all = Attributes::default().bytes(STATUS, &status.to_be_bytes());
            all.bytes(TIMEOUT, &left.to_be_bytes()).nested(PROTOINFO, &protocol)
        };
        let table = [
            ("idle after the fast path", description(3, 290, 0xe), true),
            ("long enough", description(3, 1000, 0xe), false),
            ("closing", description(4, 100, 0xe), false),
            ("being removed", description(3, 290, 0x20e), false),
            ("somebody gave it a fixed timeout", description(3, 290, 0x40e), false),
            (
                "a flow table has it: no timeout, no state",
                Attributes::default().bytes(STATUS, &[0; 4]),
                false,
            ),
            ("nothing", Attributes::default(), false),
        ];
        for (name, description, expected) in table {
            assert_eq!(is_short(description.as_slice(), 1000), expected, "{name}");
        }
    }
}
