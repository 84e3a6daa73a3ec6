//! Flows: what netfilter has accepted, as the programs remember it.

use bytemuck::{Pod, Zeroable};

use crate::IpKey;

/// A flow between a pod here and one on another node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKey {
    /// The pod here.
    pub local: IpKey,
    /// The pod there.
    pub remote: IpKey,
    /// Port of the pod here, network byte order. Of ICMP echoes the side that asks has their identifier for a port, the
    /// other has 0: to netfilter it is another flow who asks, which may be forbidden.
    pub local_port: [u8; 2],
    /// Port of the pod there.
    pub remote_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

/// For how long a connection is about to end, in units of [`Flow::closed`].
const CLOSING: u32 = 2;

/// What is known of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// From the pod here.
    pub out: Half,
    /// To the pod here.
    pub into: Half,
    /// When the flow was first accepted, nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// Host-side interface of the pod here; 0 until a packet went to it.
    pub port: u32,
    /// When the end of its connection was last seen, `CLOCK_MONOTONIC` in units of 2^30 ns; 0 if it was not. A row in which
    /// this is not 0 is void, whatever its halves say.
    pub closed: u32,
}

const _: () = assert!(size_of::<Flow>() == 96);

impl Flow {
    /// Nanoseconds of `CLOCK_MONOTONIC` as [`Flow::closed`] has them.
    #[expect(clippy::cast_possible_truncation, reason = "it wraps after a century")]
    pub const fn tick(now: u64) -> u32 {
        let tick = (now >> 30) as u32;
        if tick == 0 { 1 } else { tick }
    }

    /// What [`Flow::closed`] is of a flow that is void and whose next packets are a new one's.
    pub const fn long_closed(now: u64) -> u32 {
        let tick = Self::tick(now).wrapping_sub(CLOSING);
        if tick == 0 { tick.wrapping_sub(1) } else { tick }
    }

    /// Makes it void, as of a connection that ended at `tick` ([`Self::tick`], [`Self::long_closed`]).
    pub const fn close(&mut self, tick: u32) {
        // The second FIN leaves alone what the first has written: other CPUs are about to read it.
        if self.closed != tick {
            self.closed = tick;
        }
    }

    /// Whether its connection ended a moment ago, two seconds at most: what still comes of it are acknowledgements.
    pub const fn is_closing(&self, now: u64) -> bool {
        self.closed != 0 && Self::tick(now).wrapping_sub(self.closed) < CLOSING
    }
}

/// One direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Half {
    /// Until when netfilter's last acceptance is good, nanoseconds of `CLOCK_MONOTONIC`; 0 before the first.
    pub until: u64,
    /// [`crate::Config::epoch`] at that acceptance.
    pub epoch: u64,
    /// When the last packet took the fast path, nanoseconds of `CLOCK_MONOTONIC`.
    pub last: u64,
    /// Packets that took the fast path; one that carries several segments (GSO, GRO) counts once. Not exact where
    /// several CPUs carry one flow.
    pub packets: u64,
    /// Bytes of these, from the link layer on.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_is_void_is_not_closing_at_any_time() {
        for tick in [0, 1, 2, 3, 4, 1 << 20, u64::from(u32::MAX), 1 << 32] {
            let now = tick << 30;
            let flow = Flow { closed: Flow::long_closed(now), ..Flow::default() };
            assert_ne!(flow.closed, 0, "{tick}");
            assert!(!flow.is_closing(now), "{tick}");
            let flow = Flow { closed: Flow::tick(now), ..Flow::default() };
            assert!(flow.is_closing(now), "{tick}");
        }
    }
}
