//! A flow as it is told.

use std::net::IpAddr;

use ovl_common::wire::{ICMP, ICMPV6, TCP, UDP};
use ovl_common::{Flow, FlowKey, Half};
use serde::Serialize;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// What would become of the next packet of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// It takes the fast path.
    Fast,
    /// It asks netfilter again, for its time is over.
    Aged,
    /// It asks netfilter again, for something else has changed: rules, leases, the pod's interface.
    Changed,
    /// Netfilter has accepted the other direction not yet.
    OneWay,
    /// Netfilter has accepted this direction not yet.
    Unseen,
}

impl State {
    /// The word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Aged => "aged",
            Self::Changed => "changed",
            Self::OneWay => "one-way",
            Self::Unseen => "unseen",
        }
    }

    /// As the programs decide, in the same order (`ovl_ebpf::flow`); of the pod's interface only they know that it is
    /// another.
    fn of(own: &Half, other: &Half, flow: &Flow, epoch: u64, now: u64) -> Self {
        if own.until == 0 {
            Self::Unseen
        } else if other.until == 0 {
            Self::OneWay
        } else if own.epoch != epoch || flow.port == 0 {
            Self::Changed
        } else if now > own.until {
            Self::Aged
        } else {
            Self::Fast
        }
    }
}

/// A flow: packets and bytes are those that took the fast path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// The pod here.
    pub(super) local: IpAddr,
    /// Its port; of ICMP, the identifier of the echoes that it asks for.
    pub(super) local_port: Option<u16>,
    /// The pod there.
    pub(super) remote: IpAddr,
    /// The same of the other side.
    pub(super) remote_port: Option<u16>,
    /// Name or number of the IP protocol.
    pub(super) protocol: String,
    /// Seconds since netfilter first accepted it.
    pub(super) age_seconds: u64,
    /// Seconds since a packet took the fast path; `None` if none did.
    pub(super) idle_seconds: Option<u64>,
    pub(super) packets_out: u64,
    pub(super) packets_in: u64,
    pub(super) bytes_out: u64,
    pub(super) bytes_in: u64,
    pub(super) state_out: State,
    pub(super) state_in: State,
}

impl Row {
    /// `epoch` and `now` are what the programs compare with: the configuration's, and nanoseconds of
    /// `CLOCK_MONOTONIC`.
    pub(super) fn new(key: &FlowKey, flow: &Flow, epoch: u64, now: u64) -> Self {
        let Flow { out, into, since, .. } = flow;
        let last = out.last.max(into.last);
        Self {
            local: key.local.into(),
            local_port: port(key.local_port),
            remote: key.remote.into(),
            remote_port: port(key.remote_port),
            protocol: protocol_name(key.protocol),
            age_seconds: now.saturating_sub(*since) / SECOND,
            idle_seconds: (last != 0).then(|| now.saturating_sub(last) / SECOND),
            packets_out: out.packets,
            packets_in: into.packets,
            bytes_out: out.bytes,
            bytes_in: into.bytes,
            state_out: State::of(out, into, flow, epoch, now),
            state_in: State::of(into, out, flow, epoch, now),
        }
    }
}

/// 0 is no port.
fn port(bytes: [u8; 2]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes)).filter(|port| *port != 0)
}

fn protocol_name(number: u32) -> String {
    let names = [(ICMP, "icmp"), (ICMPV6, "icmpv6"), (TCP, "tcp"), (UDP, "udp")];
    let known = names.iter().find(|(known, _)| u32::from(*known) == number);
    known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// The example of the tests of everything about flows: a pod here at port 40000, one there at port 80.
#[cfg(test)]
pub(super) fn example(protocol: u8) -> (FlowKey, Flow) {
    use ovl_common::IpKey;

    let key = FlowKey {
        local: IpKey::from_ipv4_octets([10, 42, 3, 2]),
        remote: IpKey::from_ipv4_octets([10, 42, 7, 2]),
        local_port: 40_000_u16.to_be_bytes(),
        remote_port: if protocol == ICMP { [0; 2] } else { 80_u16.to_be_bytes() },
        protocol: protocol.into(),
    };
    let half =
        |packets| Half { until: 2000 * SECOND, epoch: 7, last: 940 * SECOND, packets, bytes: packets * 1000 };
    let flow = Flow { out: half(3), into: half(20), since: 400 * SECOND, port: 21, ..Flow::default() };
    (key, flow)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Flow);

    #[test]
    fn a_row_says_what_the_programs_would_do() {
        use State::{Aged, Changed, Fast, OneWay, Unseen};
        let now = 1000 * SECOND;
        let table: [(Change, State, State); 6] = [
            (|_| {}, Fast, Fast),
            (|flow| flow.out = Half::default(), Unseen, OneWay),
            (|flow| flow.into.until = 0, OneWay, Unseen),
            (|flow| flow.out.until = 999 * SECOND, Aged, Fast),
            (|flow| flow.into.epoch = 6, Fast, Changed),
            (|flow| flow.port = 0, Changed, Changed),
        ];
        for (change, out, into) in table {
            let (key, mut flow) = example(TCP);
            change(&mut flow);
            let row = Row::new(&key, &flow, 7, now);
            assert_eq!((row.state_out, row.state_in), (out, into), "{flow:?}");
        }
    }

    #[test]
    fn ages_are_seconds_and_ports_are_absent_where_there_are_none() {
        let (key, flow) = example(ICMP);
        let row = Row::new(&key, &flow, 7, 1000 * SECOND);
        assert_eq!((row.age_seconds, row.idle_seconds), (600, Some(60)));
        assert_eq!((row.local_port, row.remote_port), (Some(40_000), None));
        assert_eq!(Row::new(&key, &Flow::default(), 7, SECOND).idle_seconds, None);
        assert_eq!((protocol_name(1), protocol_name(132)), ("icmp".to_owned(), "132".to_owned()));
    }
}
