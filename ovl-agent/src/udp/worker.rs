//! A worker: one queue of the device, a socket of each family, and a thread that carries packets between them.
//!
//! Nothing is allocated per packet, and nothing waits for anything but the kernel. The other workers see to other
//! flows: the kernel gives a flow's packets to the queue that its answers are written to, and a peer's to one socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tracing::{error, warn};

use super::coalesce::Coalescer;
use super::delivery::deliver;
use super::icmp::{self, Limit, Problem};
use super::offload::{self, Offload};
use super::outbox::Outbox;
use super::packet::{self, Header};
use super::peers::{Overlay, Shared};
use super::reason::{Counters, Reason, Tally, Way};
use super::segment::{Segments, complete};
use super::socket::{Inbox, MESSAGE, RawSocket, Socket};
use super::tun::Queue;
use crate::family::{ByFamily, Family};

/// Most packets or calls in one direction before the other one has its turn.
const TURN: usize = 64;
const RECEIVE_TURN: usize = 4;

/// What a worker works with.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) queue: Queue,
    pub(crate) sockets: ByFamily<Socket>,
    /// For ICMP errors, where this process may have such sockets.
    pub(crate) raw: ByFamily<RawSocket>,
    pub(crate) shared: Shared,
    pub(crate) counters: Arc<Counters>,
    /// Becomes readable when it is to end.
    pub(crate) end: Arc<EventFd>,
    /// The peers' UDP port.
    pub(crate) port: u16,
}

impl Worker {
    /// Carries packets until it is told to end, or the device is gone.
    pub(crate) fn run(self) {
        let mut state = State::new(&self.queue);
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(errno) => {
                    error!("cannot wait for packets: {errno}; the udp backend begins anew");
                    return;
                }
            };
            if ready.end {
                return;
            }
            let overlay = self.shared.now();
            if ready.queue
                && let Err(reason) = self.carry_out(&overlay, &mut state)
            {
                warn!("the TUN device gives no more packets: {reason}; it is made anew");
                return;
            }
            for (family, socket) in self.sockets.iter() {
                if ready.sockets.get(family).is_some() {
                    self.carry_in(socket, &overlay, &mut state);
                }
            }
            state.tally.hand_over(&self.counters);
        }
    }

    fn wait(&self) -> nix::Result<Ready> {
        let interest = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let queue = self.queue.as_fd();
        let [v4, v6] =
            Family::ALL.map(|family| self.sockets.get(family).map_or(queue, |socket| socket.as_fd()));
        // A family without a socket looks at the queue once more.
        let mut all = [self.end.as_fd(), queue, v4, v6].map(interest);
        match poll(&mut all, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let [end, queue, v4, v6] = all.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
        let sockets = ByFamily { v4: v4.then_some(()), v6: v6.then_some(()) };
        Ok(Ready { end, queue, sockets })
    }

    /// The pods' packets to the peers.
    fn carry_out(&self, overlay: &Overlay, state: &mut State) -> io::Result<()> {
        for _ in 0..TURN {
            let length = match self.queue.read(&mut state.packet) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let State { packet, outbox, tally, .. } = state;
            let read = &mut packet[..length];
            if let Err(reason) = self.send(read, overlay, outbox, tally) {
                let inner = read.get(offload::LENGTH..).unwrap_or_default();
                tally.count(Way::FromTun, reason, 1, inner.len());
                answer(self, overlay, reason, inner, &mut state.limit, &mut state.message);
            }
        }
        self.flush(&mut state.outbox, &mut state.tally);
        Ok(())
    }

    /// Puts one packet, or what it is an aggregate of, into the outbox.
    fn send(
        &self,
        read: &mut [u8],
        overlay: &Overlay,
        outbox: &mut Outbox,
        tally: &mut Tally,
    ) -> Result<(), Reason> {
        let (offload, packet) = read.split_first_chunk_mut::<{ offload::LENGTH }>().ok_or(Reason::Short)?;
        let offload = Offload::read(*offload).ok_or(Reason::BadOffload)?;
        let header = Header::read(packet)?;
        if is_group(header.destination) {
            return Err(Reason::Group);
        }
        let node = overlay.node_of(header.destination).ok_or(Reason::NotOverlay)?;
        if header.ttl <= 1 {
            return Err(Reason::Ttl);
        }
        let to = SocketAddr::new(node, self.port);
        packet::take_hop(packet);
        let mut put = |length: usize, write: &mut dyn FnMut(&mut [u8])| {
            if length > MESSAGE {
                return Err(Reason::Oversize);
            }
            if let Some(place) = outbox.place(to, length) {
                write(place);
                return Ok(());
            }
            self.flush(outbox, tally);
            write(outbox.place(to, length).ok_or(Reason::Oversize)?);
            Ok(())
        };
        if let Some(aggregate) = offload.aggregate {
            let segments = Segments::of(packet, &header, aggregate, offload.checksum)?;
            for index in 0..segments.count() {
                put(segments.length(index), &mut |place| segments.write(index, place))?;
            }
            return Ok(());
        }
        if let Some(checksum) = offload.checksum {
            complete(packet, checksum)?;
        }
        put(packet.len(), &mut |place| place.copy_from_slice(packet))
    }

    fn flush(&self, outbox: &mut Outbox, tally: &mut Tally) {
        outbox.send(&self.sockets, |is_sent, packets, bytes| {
            let reason = if is_sent { Reason::Forwarded } else { Reason::SendFailed };
            tally.count(Way::FromTun, reason, packets, bytes);
        });
    }

    /// The peers' packets to the pods.
    fn carry_in(&self, socket: &Socket, overlay: &Overlay, state: &mut State) {
        let State { inbox, coalescer, tally, .. } = state;
        for _ in 0..RECEIVE_TURN {
            // What went wrong with one datagram is no matter of the next.
            if inbox.receive(socket).is_err() {
                return;
            }
            let Inbox { buffer, received } = &mut *inbox;
            for message in received.iter() {
                if message.is_cut {
                    tally.count(Way::ToTun, Reason::Oversize, 1, message.place.len());
                    continue;
                }
                let mut rest = message.place.clone();
                while !rest.is_empty() || message.place.is_empty() {
                    let place = rest.start..rest.end.min(rest.start + message.size);
                    rest.start = place.end;
                    let packet = &buffer[place.clone()];
                    match inspect(packet, message.from, overlay) {
                        Ok(header) => {
                            if coalescer.is_full() {
                                self.deliver(coalescer, buffer, tally);
                            }
                            coalescer.add(buffer, place, &header);
                        }
                        Err(reason) => {
                            tally.count(Way::ToTun, reason, 1, packet.len());
                            answer(self, overlay, reason, packet, &mut state.limit, &mut state.message);
                        }
                    }
                    if message.place.is_empty() {
                        break;
                    }
                }
            }
            self.deliver(coalescer, buffer, tally);
            if !inbox.is_full() {
                return;
            }
        }
    }

    fn deliver(&self, coalescer: &mut Coalescer, buffer: &mut [u8], tally: &mut Tally) {
        deliver(coalescer, buffer, tally, |parts| self.queue.write(parts));
    }
}

/// Which descriptors have something.
struct Ready {
    end: bool,
    queue: bool,
    sockets: ByFamily<()>,
}

/// What a worker changes while it works.
struct State {
    packet: Box<[u8]>,
    outbox: Outbox,
    inbox: Inbox,
    coalescer: Coalescer,
    tally: Tally,
    limit: Limit,
    message: Vec<u8>,
}

impl State {
    fn new(queue: &Queue) -> Self {
        /// The largest packet of a TUN device, bytes.
        const LARGEST: usize = 65_536;
        Self {
            packet: vec![0; offload::LENGTH + LARGEST].into_boxed_slice(),
            outbox: Outbox::new(),
            inbox: Inbox::new(),
            coalescer: Coalescer::new(queue.takes_datagrams()),
            tally: Tally::default(),
            limit: Limit::new(Instant::now()),
            message: Vec::with_capacity(2048),
        }
    }
}

/// Whether a datagram from a node is a packet to hand over. Whether it is too large for the way to the pod is the kernel's
/// business: other nodes may have a wider underlay.
fn inspect(packet: &[u8], node: IpAddr, overlay: &Overlay) -> Result<Header, Reason> {
    let header = Header::read(packet)?;
    if !packet::is_header_whole(packet, &header) {
        return Err(Reason::BadChecksum);
    }
    overlay.check_source(node, header.source)?;
    if header.ttl <= 1 {
        return Err(Reason::Ttl);
    }
    Ok(header)
}

/// Tells the sender of a packet why it was dropped, where that is its business.
fn answer(
    worker: &Worker,
    overlay: &Overlay,
    reason: Reason,
    packet: &[u8],
    limit: &mut Limit,
    message: &mut Vec<u8>,
) {
    let problem = if reason == Reason::NotOverlay {
        Problem::Unreachable
    } else if reason == Reason::Ttl {
        Problem::TimeExceeded
    } else {
        return;
    };
    let Ok(header) = Header::read(packet) else { return };
    let family = header.family();
    let (Some(socket), Some(source)) = (worker.raw.get(family), overlay.own_address(family)) else { return };
    if limit.allows(Instant::now()) && icmp::write(problem, source, packet, &header, message) {
        // As with every error message: where it gets lost, nobody is told of that.
        let _lost = socket.send(message, header.source);
    }
}

/// Whether an address is not one node's: a group's, everybody's, or of the link, which ends here.
fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::SourceCheck;
    use crate::udp::packet::testing::{pods, udp};

    #[test]
    fn what_comes_in_is_looked_at_before_anything_is_done() {
        let shared = Shared::new(SourceCheck::Off);
        let node = "192.0.2.12".parse().expect("valid");
        let packet = udp(pods()[0], &[1; 100]);
        let with = |at: usize, byte: u8| {
            let mut packet = packet.clone();
            packet[at] = byte;
            packet
        };
        let mut last_hop = packet.clone();
        (0..63).for_each(|_| packet::take_hop(&mut last_hop));
        let table = [
            ("as it should be", packet.clone(), Ok(())),
            ("nothing", vec![], Err(Reason::Short)),
            ("cut off", packet[..90].to_vec(), Err(Reason::BadLength)),
            ("changed on the way", with(8, 9), Err(Reason::BadChecksum)),
            ("at its last hop", last_hop, Err(Reason::Ttl)),
            ("large", udp(pods()[0], &[1; 1500]), Ok(())),
        ];
        for (what, packet, expected) in table {
            assert_eq!(inspect(&packet, node, &shared.now()).map(drop), expected, "{what}");
        }
        shared.change(|overlay| overlay.check = SourceCheck::Loose);
        let stranger = inspect(&packet, node, &shared.now());
        assert_eq!(stranger, Err(Reason::UnknownNode));
    }
}
