//! What became of packets, counted. The words are those of the programs' counters where they mean the same.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::facts::CounterFacts;

macro_rules! reasons {
    ($($variant:ident $name:literal $meaning:literal,)*) => {
        /// What became of a packet, and why.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Reason { $(#[doc = $meaning] $variant,)* }

        impl Reason {
            const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// A short name for tables and metrics.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for a person.
            pub(crate) fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

reasons! {
    Forwarded "forwarded" "Sent to the peer's node.",
    Delivered "delivered" "Handed to the kernel, which has it on its way to the pod.",
    Short "short" "Dropped: it ends before its headers do.",
    BadHeader "bad_header" "Dropped: an IP version or a header that is not what it should be.",
    BadLength "bad_length" "Dropped: a length field that disagrees with the packet.",
    BadChecksum "bad_checksum" "Dropped: the IPv4 header's checksum is wrong.",
    BadOffload "bad_offload" "Dropped: the kernel describes an aggregate that nobody asked it for.",
    Oversize "oversize" "Dropped: larger than a datagram can be.",
    Ttl "ttl" "Dropped: TTL or hop limit was used up; the sender is told (Time Exceeded).",
    Group "group" "Dropped: to a group or to everybody on the link, which there is none of.",
    NotOverlay "not_overlay" "Dropped: the destination is in no peer's subnet; the sender is told (Unreachable).",
    UnknownNode "unknown_node" "Dropped: from an address that is no node's. Let pass with --source-check=off.",
    WrongNode "wrong_node" "Dropped: the inner source is in another node's subnet. Let pass with --source-check=off.",
    ForeignSource "foreign_source" "Dropped: the inner source is in no node's subnet (--source-check=strict).",
    SendFailed "send_failed" "Dropped: the kernel did not take it for the underlay.",
    WriteFailed "write_failed" "Dropped: the kernel did not take it for the pods.",
}

/// The way that a packet takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the pods to a peer.
    FromTun,
    /// From a peer to the pods.
    ToTun,
}

impl Way {
    const ALL: [Self; 2] = [Self::FromTun, Self::ToTun];

    fn name(self) -> &'static str {
        match self {
            Self::FromTun => "from_tun",
            Self::ToTun => "to_tun",
        }
    }
}

const ROWS: usize = Way::ALL.len() * Reason::ALL.len();

/// Packets and bytes by way and reason.
type Rows<T> = [(T, T); ROWS];

/// The counts of all workers.
#[derive(Debug)]
pub(crate) struct Counters(Rows<AtomicU64>);

impl Default for Counters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| (AtomicU64::new(0), AtomicU64::new(0))))
    }
}

impl Counters {
    /// Every counter that is not zero.
    pub(crate) fn facts(&self) -> Vec<CounterFacts> {
        let mut facts = Vec::new();
        for way in Way::ALL {
            for reason in Reason::ALL {
                let (packets, bytes) = &self.0[row(way, reason)];
                let packets = packets.load(Ordering::Relaxed);
                if packets > 0 {
                    facts.push(CounterFacts {
                        program: way.name().to_owned(),
                        reason: reason.name().to_owned(),
                        meaning: reason.meaning().to_owned(),
                        packets,
                        bytes: bytes.load(Ordering::Relaxed),
                    });
                }
            }
        }
        facts
    }
}

/// What one worker has counted since it last added it to the others' counts.
#[derive(Debug)]
pub(crate) struct Tally(Rows<u64>);

impl Default for Tally {
    fn default() -> Self {
        Self([(0, 0); ROWS])
    }
}

impl Tally {
    /// Counts packets of `bytes` in all.
    pub(crate) fn count(&mut self, way: Way, reason: Reason, packets: usize, bytes: usize) {
        let row = &mut self.0[row(way, reason)];
        row.0 += packets as u64;
        row.1 += bytes as u64;
    }

    /// Adds everything to `counters`.
    pub(crate) fn hand_over(&mut self, counters: &Counters) {
        for ((packets, bytes), (all_packets, all_bytes)) in self.0.iter_mut().zip(&counters.0) {
            if *packets > 0 {
                all_packets.fetch_add(std::mem::take(packets), Ordering::Relaxed);
                all_bytes.fetch_add(std::mem::take(bytes), Ordering::Relaxed);
            }
        }
    }
}

fn row(way: Way, reason: Reason) -> usize {
    way as usize * Reason::ALL.len() + reason as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_counted_is_told_once() {
        let (counters, mut tally) = (Counters::default(), Tally::default());
        assert!(counters.facts().is_empty());
        tally.count(Way::FromTun, Reason::Forwarded, 3, 4000);
        tally.count(Way::ToTun, Reason::WriteFailed, 1, 60);
        for _ in 0..2 {
            tally.hand_over(&counters);
            let facts = counters.facts();
            let rows: Vec<_> = facts
                .iter()
                .map(|row| (row.program.as_str(), row.reason.as_str(), row.packets, row.bytes))
                .collect();
            let expected = [("from_tun", "forwarded", 3, 4000), ("to_tun", "write_failed", 1, 60)];
            assert_eq!(rows, expected);
        }
    }

    #[test]
    fn rows_and_names_are_distinct() {
        let all = || Way::ALL.into_iter().flat_map(|way| Reason::ALL.map(|reason| (way, reason)));
        let rows: BTreeSet<usize> = all().map(|(way, reason)| row(way, reason)).collect();
        assert_eq!((rows.len(), rows.last()), (ROWS, Some(&(ROWS - 1))));
        let names: BTreeSet<&str> = Reason::ALL.into_iter().map(Reason::name).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
