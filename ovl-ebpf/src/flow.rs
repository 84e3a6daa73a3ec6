//! Which flows may take the fast path: those that netfilter has accepted, each direction for itself, and lately.
//!
//! Packets that netfilter accepted of an established connection carry a mark when they reach the egress programs, which
//! write the flow's row. Netfilter calls a connection established once it has seen both directions, and the first
//! packets of either need its leave; so a row says that the very flow passed every rule. It says so for a while only,
//! and not past a change that the agent saw: then the next packet goes to netfilter again.

use ovl_common::{Config, FastPath, Flow, FlowKey, Reason};

use crate::active::Active;
use crate::inspect::{Inner, Step};
use crate::tables::Tables;

/// Which way a packet goes, seen from the pod here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From it.
    Out,
    /// To it.
    Into,
}

/// A packet that wants to take the fast path.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Which way it goes.
    pub direction: Direction,
    /// The pod's host-side interface.
    pub port: u32,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub now: u64,
    /// `Config::epoch` of now.
    pub epoch: u64,
    /// Its length.
    pub bytes: u64,
}

/// A packet that netfilter has accepted.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance {
    /// Which way it goes.
    pub direction: Direction,
    /// The pod's host-side interface, where that is known.
    pub port: Option<u32>,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub now: u64,
    /// `Config::epoch` of now.
    pub epoch: u64,
    /// For how long it is good, nanoseconds.
    pub verified_for: u64,
}

/// The row of the flow that a packet belongs to.
#[inline(always)]
pub fn key(direction: Direction, inner: &Inner) -> FlowKey {
    let (local, remote, local_port, remote_port) = match direction {
        Direction::Out => (inner.source, inner.destination, inner.source_port, inner.destination_port),
        Direction::Into => (inner.destination, inner.source, inner.destination_port, inner.source_port),
    };
    FlowKey { local, remote, local_port, remote_port, protocol: inner.protocol.into() }
}

/// Whether a packet goes on with its connection. One that begins or ends it may not take the fast path, and what was
/// known of the flow ends with it: conntrack follows the rest, and the next connection between the
/// same ports is another. The row stays, void: a client has so few ports that it is soon wanted again, and to take another
/// from the map costs ten times what writing one does. While a connection ends its last acknowledgements
/// would only fill it again, so for a moment nothing does.
#[inline(always)]
pub fn goes_on<T: Tables>(
    tables: &T,
    active: &Active<'_>,
    direction: Direction,
    inner: &Inner,
) -> Result<(), Reason> {
    let step = inner.step();
    if step == Step::Go {
        return Ok(());
    }
    if active.config.fast_path == FastPath::Verified as u32 && step != Step::Accept {
        let now = active.now;
        let closed = if step == Step::Close { Flow::tick(now) } else { Flow::long_closed(now) };
        tables.close_flow(&key(direction, inner), closed);
    }
    Err(Reason::TcpFlags)
}

/// Whether a packet that [`goes_on`] may take the fast path, as far as its flow is concerned.
#[inline(always)]
pub fn admit<T: Tables>(
    tables: &T,
    active: &Active<'_>,
    direction: Direction,
    port: u32,
    inner: &Inner,
) -> Result<(), Reason> {
    if active.config.fast_path != FastPath::Verified as u32 {
        return Ok(());
    }
    tables.use_flow(&key(direction, inner), &usage(active, direction, port, inner))
}

/// The same for a packet that meets [`goes_on`] and [`admit`] once more: nothing is written.
#[inline(always)]
pub fn may_go<T: Tables>(
    tables: &T,
    active: &Active<'_>,
    direction: Direction,
    port: u32,
    inner: &Inner,
) -> Result<(), Reason> {
    if inner.step() != Step::Go {
        return Err(Reason::TcpFlags);
    }
    if active.config.fast_path != FastPath::Verified as u32 {
        return Ok(());
    }
    tables.check_flow(&key(direction, inner), &usage(active, direction, port, inner))
}

#[inline(always)]
fn usage(active: &Active<'_>, direction: Direction, port: u32, inner: &Inner) -> Usage {
    Usage { direction, port, now: active.now, epoch: active.config.epoch, bytes: inner.length as u64 }
}

impl Usage {
    /// Whether a flow's row allows it.
    #[inline(always)]
    pub fn check(&self, flow: &Flow) -> Result<(), Reason> {
        let (own, other) = match self.direction {
            Direction::Out => (&flow.out, &flow.into),
            Direction::Into => (&flow.into, &flow.out),
        };
        if flow.closed != 0 || own.until == 0 {
            return Err(Reason::NoFlow);
        }
        if other.until == 0 {
            return Err(Reason::OneWay);
        }
        if own.epoch != self.epoch || flow.port != self.port {
            return Err(Reason::Changed);
        }
        if self.now > own.until { Err(Reason::Aged) } else { Ok(()) }
    }

    /// Counts it.
    #[inline(always)]
    pub fn count(&self, flow: &mut Flow) {
        let half = match self.direction {
            Direction::Out => &mut flow.out,
            Direction::Into => &mut flow.into,
        };
        half.last = self.now;
        half.packets = half.packets.wrapping_add(1);
        half.bytes = half.bytes.wrapping_add(self.bytes);
    }
}

/// Notes that netfilter accepted a packet of a flow. `port` is the pod's host-side interface, where that is known.
#[inline(always)]
pub fn accept<T: Tables>(
    tables: &T,
    active: &Active<'_>,
    direction: Direction,
    port: Option<u32>,
    inner: &Inner,
) -> Reason {
    let Config { epoch, verified_for, .. } = *active.config;
    let acceptance = Acceptance { direction, port, now: active.now, epoch, verified_for };
    tables.accept_flow(&key(direction, inner), &acceptance)
}

impl Acceptance {
    /// Writes it into a flow's row, and only what is its own to say: the other direction's packets may be on another CPU.
    /// Anything but [`Reason::Verified`] wrote nothing.
    #[inline(always)]
    pub fn note(&self, flow: &mut Flow) -> Reason {
        if flow.is_closing(self.now) {
            return Reason::Closing;
        }
        let is_new = flow.since == 0
            // Later one side has closed, and the other goes on.
            || flow.closed != 0
            // Another pod has the address now: what its predecessor was allowed is not its to use.
            || self.port.is_some_and(|port| flow.port != 0 && flow.port != port);
        if is_new {
            *flow = Flow { since: self.now, ..Flow::default() };
        }
        let names_port = match self.port {
            Some(port) if flow.port != port => {
                flow.port = port;
                true
            }
            _ => false,
        };
        let half = match self.direction {
            Direction::Out => &mut flow.out,
            Direction::Into => &mut flow.into,
        };
        // Most packets that the kernel carries of a flow say nothing new.
        if !names_port
            && half.epoch == self.epoch
            && half.until > self.now.wrapping_add(self.verified_for / 2)
        {
            return Reason::Known;
        }
        half.epoch = self.epoch;
        half.until = self.now.wrapping_add(self.verified_for);
        Reason::Verified
    }
}

#[cfg(test)]
mod tests {
    use ovl_common::Half;

    use super::*;

    type Answer = Result<(), Reason>;
    type Change = fn(&mut Flow);

    const NOW: u64 = 1000;

    fn half() -> Half {
        Half { until: NOW, epoch: 7, ..Half::default() }
    }

    #[test]
    fn a_direction_is_good_for_a_while_and_an_epoch() {
        let good = Flow { out: half(), into: half(), port: 21, ..Flow::default() };
        let usage = |direction| Usage { direction, port: 21, now: NOW, epoch: 7, bytes: 100 };
        let table: [(&str, Change, Answer, Answer); 9] = [
            ("good", |_| {}, Ok(()), Ok(())),
            ("closed", |f| f.close(1), Err(Reason::NoFlow), Err(Reason::NoFlow)),
            ("out unseen", |f| f.out = Half::default(), Err(Reason::NoFlow), Err(Reason::OneWay)),
            ("in unseen", |f| f.into = Half::default(), Err(Reason::OneWay), Err(Reason::NoFlow)),
            ("out aged", |f| f.out.until = NOW - 1, Err(Reason::Aged), Ok(())),
            ("in aged", |f| f.into.until = NOW - 1, Ok(()), Err(Reason::Aged)),
            ("out of another epoch", |f| f.out.epoch = 6, Err(Reason::Changed), Ok(())),
            ("in of another epoch", |f| f.into.epoch = 8, Ok(()), Err(Reason::Changed)),
            ("another pod's", |f| f.port = 22, Err(Reason::Changed), Err(Reason::Changed)),
        ];
        for (name, change, out, into) in table {
            let mut flow = good;
            change(&mut flow);
            assert_eq!(usage(Direction::Out).check(&flow), out, "{name}");
            assert_eq!(usage(Direction::Into).check(&flow), into, "{name}");
        }
    }

    #[test]
    fn netfilters_word_is_written_where_it_is_new() {
        const LATER: u64 = 3 << 30;
        let acceptance =
            Acceptance { direction: Direction::Out, port: None, now: LATER, epoch: 7, verified_for: 100 };
        let into = Acceptance { direction: Direction::Into, port: Some(21), ..acceptance };
        let fresh = Half { until: LATER + 100, epoch: 7, ..Half::default() };
        let counted = |half: Half| Half { packets: 5, ..half };
        let known = Flow { out: counted(fresh), into: counted(fresh), since: 9, port: 21, closed: 0 };
        let first = Flow { since: LATER, ..Flow::default() };
        let table: [(&str, Acceptance, Change, Reason, Flow); 9] = [
            ("first", acceptance, |f| *f = Flow::default(), Reason::Verified, Flow { out: fresh, ..first }),
            (
                "first, to the pod",
                into,
                |f| *f = Flow::default(),
                Reason::Verified,
                Flow { into: fresh, port: 21, ..first },
            ),
            ("nothing new", acceptance, |_| {}, Reason::Known, known),
            ("half-way", acceptance, |f| f.out.until = LATER + 50, Reason::Verified, known),
            ("another epoch", acceptance, |f| f.out.epoch = 6, Reason::Verified, known),
            ("first to the pod", into, |f| f.port = 0, Reason::Verified, known),
            (
                "another pod",
                Acceptance { port: Some(22), ..into },
                |_| {},
                Reason::Verified,
                Flow { into: fresh, port: 22, ..first },
            ),
            (
                "closing",
                acceptance,
                |f| f.close(Flow::tick(LATER)),
                Reason::Closing,
                Flow { closed: Flow::tick(LATER), ..known },
            ),
            (
                "closed long ago",
                acceptance,
                |f| f.close(Flow::long_closed(LATER)),
                Reason::Verified,
                Flow { out: fresh, ..first },
            ),
        ];
        for (name, acceptance, change, reason, expected) in table {
            let mut flow = known;
            change(&mut flow);
            assert_eq!((acceptance.note(&mut flow), flow), (reason, expected), "{name}");
        }
    }

    /// One CPU carries the answers, another the end: whoever was slower must not take back what the other wrote.
    #[test]
    fn a_flow_that_ends_while_a_packet_of_it_is_accepted_stays_void() {
        let mut flow = Flow { out: half(), into: half(), since: 1, port: 21, closed: 0 };
        flow.close(Flow::tick(NOW));
        (flow.into.until, flow.into.epoch) = (2 * NOW, 7);
        for direction in [Direction::Out, Direction::Into] {
            let usage = Usage { direction, port: 21, now: NOW, epoch: 7, bytes: 100 };
            assert_eq!(usage.check(&flow), Err(Reason::NoFlow));
        }
    }

    #[test]
    fn a_packet_is_counted_in_its_own_direction() {
        let mut flow = Flow { out: half(), into: half(), port: 21, ..Flow::default() };
        Usage { direction: Direction::Into, port: 21, now: NOW, epoch: 7, bytes: 100 }.count(&mut flow);
        assert_eq!((flow.into.packets, flow.into.bytes, flow.into.last), (1, 100, NOW));
        assert_eq!(flow.out, half());
    }
}
