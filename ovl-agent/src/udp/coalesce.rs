//! Packets from peers put together again into aggregates, as a device with GRO would, so that the kernel's way to the
//! pods is gone once for many of them.
//!
//! Only what could be taken apart again into the very same packets is put together: consecutive segments of a TCP
//! connection, or datagrams between the same ports, with the same headers but for lengths, checksums and numbers, and
//! with right checksums. The order of a connection's packets stays.

use std::io::IoSlice;
use std::ops::Range;

use super::checksum::Sum;
use super::offload::{self, Aggregate, Checksum, Kind, Offload};
use super::packet::{self, Header, IPV4_HEADER, IPV6_HEADER, TCP, UDP, addresses};
use super::segment::{ACK, PSH};
use crate::family::Family;

/// Most runs that are under way: beyond, all are written.
const RUNS: usize = 64;
/// Most packets of a run, as in the kernel's own aggregates of UDP (`UDP_MAX_SEGMENTS`).
const PACKETS: usize = 64;
/// The longest packet, bytes.
const LONGEST: usize = 65_535;

/// Packets to be written as one.
#[derive(Debug, Default)]
struct Run {
    /// The first packet, in the buffer that all packets are in.
    head: Range<usize>,
    /// The payloads of the others.
    others: Vec<Range<usize>>,
    /// `None` for what is never put together.
    flow: Option<Flow>,
    /// Whether nothing may follow.
    is_closed: bool,
    /// Whether the last packet asked for delivery at once (TCP's PSH).
    is_pushed: bool,
    /// Whether the first packet's checksum has been looked at, and is right.
    is_checked: bool,
}

/// Where the parts of a packet of TCP or UDP are.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    family: Option<Family>,
    is_tcp: bool,
    /// Where transport begins and payload begins, bytes from the start of the packet.
    transport: usize,
    payload: usize,
    /// Payload of each packet but the last, bytes.
    size: usize,
    /// TCP: the sequence number that comes next.
    next: u32,
    /// Bytes of the whole.
    total: usize,
}

/// Runs under way, over packets in one buffer.
#[derive(Debug)]
pub(crate) struct Coalescer {
    runs: Vec<Run>,
    used: usize,
    /// Whether the kernel takes runs of datagrams, too.
    takes_datagrams: bool,
}

impl Coalescer {
    /// One with room for everything it will ever hold. Without `takes_datagrams`, only streams are put together.
    pub(crate) fn new(takes_datagrams: bool) -> Self {
        let run = || Run { others: Vec::with_capacity(PACKETS), ..Run::default() };
        Self { runs: std::iter::repeat_with(run).take(RUNS).collect(), used: 0, takes_datagrams }
    }

    /// Whether the next packet may need a place that is not there: write the runs first.
    pub(crate) fn is_full(&self) -> bool {
        self.used == self.runs.len()
    }

    /// Takes the packet at `place` of `buffer`, whose header is `header`.
    pub(crate) fn add(&mut self, buffer: &[u8], place: Range<usize>, header: &Header) {
        let packet = &buffer[place.clone()];
        let flow = Flow::of(packet, header).filter(|flow| flow.is_tcp || self.takes_datagrams);
        if let Some(flow) = &flow {
            let live = self.runs.iter_mut().take(self.used).rev();
            let same = live.into_iter().find(|run| run.is_of(buffer, packet, flow));
            if let Some(run) = same
                && run.append(buffer, &place, flow)
            {
                return;
            }
        }
        if let Some(run) = self.runs.get_mut(self.used) {
            run.others.clear();
            run.is_closed = flow.is_none_or(|flow| !flow.may_go_on(packet));
            (run.head, run.flow, run.is_checked, run.is_pushed) = (place, flow, false, false);
            self.used += 1;
        }
    }

    /// Gives every run to `write`, oldest first, in parts with the device's header before them: with the number of its
    /// packets and their bytes. One hop is taken off each packet.
    pub(crate) fn finish(&mut self, buffer: &mut [u8], mut write: impl FnMut(&[IoSlice<'_>], usize, usize)) {
        for run in self.runs.iter().take(self.used) {
            packet::take_hop(&mut buffer[run.head.clone()]);
            let offload = run.merge(buffer).write();
            let empty = IoSlice::new(&[]);
            let mut parts = [empty; PACKETS + 1];
            parts[0] = IoSlice::new(&offload);
            parts[1] = IoSlice::new(&buffer[run.head.clone()]);
            for (part, other) in parts[2..].iter_mut().zip(&run.others) {
                *part = IoSlice::new(&buffer[other.clone()]);
            }
            let parts = &parts[..2 + run.others.len()];
            let bytes = parts.iter().map(|part| part.len()).sum::<usize>() - offload::LENGTH;
            write(parts, 1 + run.others.len(), bytes);
        }
        self.used = 0;
    }
}

impl Run {
    /// Whether a packet is of the same connection, or between the same ports.
    fn is_of(&self, buffer: &[u8], packet: &[u8], flow: &Flow) -> bool {
        let Some(own) = &self.flow else { return false };
        let head = &buffer[self.head.clone()];
        (own.family, own.is_tcp, own.transport) == (flow.family, flow.is_tcp, flow.transport)
            && flow.family.is_some_and(|family| addresses(head, family) == addresses(packet, family))
            && head[own.transport..own.transport + 4] == packet[flow.transport..flow.transport + 4]
    }

    /// Takes a packet of its flow where it fits, which is said.
    fn append(&mut self, buffer: &[u8], place: &Range<usize>, flow: &Flow) -> bool {
        let (head, packet) = (&buffer[self.head.clone()], &buffer[place.clone()]);
        let Some(own) = &mut self.flow else { return false };
        let length = packet.len() - flow.payload;
        if self.is_closed
            || self.others.len() + 2 > PACKETS
            || length == 0
            || length > own.size
            || own.total + length > LONGEST
            || !own.is_continued_by(head, packet, flow, self.others.len())
        {
            return false;
        }
        if !self.is_checked && !own.is_whole(head) {
            self.is_closed = true;
            return false;
        }
        self.is_checked = true;
        if !flow.is_whole(packet) {
            return false;
        }
        self.is_pushed = own.is_tcp && packet[flow.transport + 13] & PSH != 0;
        self.is_closed = length < own.size || self.is_pushed;
        own.next = flow.next;
        own.total += length;
        self.others.push(place.start + flow.payload..place.end);
        true
    }

    /// Makes the first packet's headers those of the whole, and says what there is left to do to it.
    fn merge(&self, buffer: &mut [u8]) -> Offload {
        let Some(flow) = self.flow.filter(|_| !self.others.is_empty()) else { return Offload::default() };
        let Some(family) = flow.family else { return Offload::default() };
        let head = &mut buffer[self.head.clone()];
        // Less than a packet can have.
        let word = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        match family {
            Family::V4 => {
                head[2..4].copy_from_slice(&word(flow.total).to_be_bytes());
                head[10..12].fill(0);
                let sum = Sum::default().bytes(&head[..flow.transport]).checksum();
                head[10..12].copy_from_slice(&sum);
            }
            Family::V6 => head[4..6].copy_from_slice(&word(flow.total - IPV6_HEADER).to_be_bytes()),
        }
        let length = flow.total - flow.transport;
        let (protocol, offset, kind) = match (flow.is_tcp, family) {
            (true, Family::V4) => (TCP, 16, Kind::TcpV4),
            (true, Family::V6) => (TCP, 16, Kind::TcpV6),
            (false, _) => (UDP, 6, Kind::Udp),
        };
        let sum = Sum::pseudo_header(addresses(head, family), protocol, length.try_into().unwrap_or(0));
        let transport = &mut head[flow.transport..];
        transport[offset..offset + 2].copy_from_slice(&sum.partial());
        if flow.is_tcp {
            transport[13] |= if self.is_pushed { PSH } else { 0 };
        } else {
            transport[4..6].copy_from_slice(&word(length).to_be_bytes());
        }
        Offload {
            checksum: Some(Checksum { start: word(flow.transport), offset: word(offset) }),
            aggregate: Some(Aggregate { kind, size: word(flow.size), headers: word(flow.payload) }),
        }
    }
}

impl Flow {
    /// Where the parts are of a packet that can be told from others by its ports.
    fn of(packet: &[u8], header: &Header) -> Option<Self> {
        let fixed = if header.family() == Family::V4 { IPV4_HEADER } else { IPV6_HEADER };
        if header.length != fixed || header.fragment.is_some() {
            return None;
        }
        let transport = packet.get(header.length..)?;
        let (is_tcp, length) = match header.protocol {
            TCP => (true, usize::from(transport.get(12)? >> 4) * 4),
            UDP => (false, 8),
            _ => return None,
        };
        let least = if is_tcp { 20 } else { 8 };
        if length < least || transport.len() < length {
            return None;
        }
        let size = transport.len() - length;
        let number = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        let next = number.wrapping_add(u32::try_from(size).ok()?);
        Some(Self {
            family: Some(header.family()),
            is_tcp,
            transport: header.length,
            payload: header.length + length,
            size,
            next: if is_tcp { next } else { 0 },
            total: packet.len(),
        })
    }

    /// Whether others may be put behind a first packet.
    fn may_go_on(&self, packet: &[u8]) -> bool {
        let transport = &packet[self.transport..];
        if self.is_tcp {
            return self.size > 0 && transport[13] == ACK;
        }
        let length = usize::from(u16::from_be_bytes([transport[4], transport[5]]));
        self.size > 0 && length == transport.len() && transport[6..8] != [0; 2]
    }

    /// Whether `packet` has the headers that the next segment after `head` would have.
    fn is_continued_by(&self, head: &[u8], packet: &[u8], flow: &Self, others: usize) -> bool {
        let same = |range: Range<usize>| head[range.clone()] == packet[range];
        let is_ip_same = match self.family {
            // But for length, number and checksum. Numbers count up where they matter, which is where packets may be
            // fragmented (RFC 6864).
            Some(Family::V4) => {
                let number = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
                let expected = number(head).wrapping_add(u16::try_from(others + 1).unwrap_or_default());
                let may_not_fragment = head[6] & 0x40 != 0;
                same(0..2) && same(6..10) && (may_not_fragment || number(packet) == expected)
            }
            Some(Family::V6) => same(0..4) && same(6..8),
            None => false,
        };
        let (there, here) = (&head[self.transport..self.payload], &packet[flow.transport..flow.payload]);
        let is_transport_same = if self.is_tcp {
            let sequence = u32::from_be_bytes([here[4], here[5], here[6], here[7]]);
            // But for sequence number, PSH and checksum.
            sequence == self.next
                && there.len() == here.len()
                && there[8..13] == here[8..13]
                && here[13] & !PSH == ACK
                && there[14..16] == here[14..16]
                && there[18..] == here[18..]
        } else {
            flow.may_go_on(packet)
        };
        is_ip_same && is_transport_same
    }

    /// Whether the checksum is right of a packet that has one.
    fn is_whole(&self, packet: &[u8]) -> bool {
        let Some(family) = self.family else { return false };
        let transport = &packet[self.transport..];
        let length = u32::try_from(transport.len()).unwrap_or(0);
        let protocol = if self.is_tcp { TCP } else { UDP };
        Sum::pseudo_header(addresses(packet, family), protocol, length).bytes(transport).is_valid()
    }
}

#[cfg(test)]
mod tests;
