//! Datagrams on their way to the peers: those of one size for one node become one message.

use std::net::SocketAddr;

use nix::errno::Errno;

use super::socket::{DATAGRAMS, MESSAGE, MESSAGES, Message, Socket};
use crate::family::{ByFamily, Family};

/// Room for a few of the largest messages.
const ROOM: usize = 256 << 10;

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    buffer: Box<[u8]>,
    used: usize,
    messages: Vec<Message>,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; ROOM].into_boxed_slice(), used: 0, messages: Vec::with_capacity(MESSAGES) }
    }

    /// A place for a datagram of `length` bytes, at most [`MESSAGE`]; `None` where there is none before the others are
    /// sent.
    pub(crate) fn place(&mut self, to: SocketAddr, length: usize) -> Option<&mut [u8]> {
        let place = self.used..self.used + length;
        if place.end > self.buffer.len() {
            return None;
        }
        let is_room = self.messages.len() < MESSAGES;
        match self.messages.last_mut() {
            Some(last) if last.takes(to, length) => last.place.end = place.end,
            _ if is_room => self.messages.push(Message { to, place: place.clone(), size: length }),
            _ => return None,
        }
        self.used = place.end;
        self.buffer.get_mut(place)
    }

    /// Sends everything, and tells `tell` what became of how many datagrams and bytes.
    pub(crate) fn send(&mut self, sockets: &ByFamily<Socket>, mut tell: impl FnMut(bool, usize, usize)) {
        let mut rest = self.messages.as_slice();
        while let Some(first) = rest.first() {
            let family = Family::of(first.to.ip());
            let same = rest.iter().take_while(|message| Family::of(message.to.ip()) == family).count();
            let (now, others) = rest.split_at(same);
            let Some(socket) = sockets.get(family) else {
                for message in now {
                    tell(false, message.count(), message.place.len());
                }
                rest = others;
                continue;
            };
            let (sent, errno) = socket.send(&self.buffer, now);
            now.iter().take(sent).for_each(|message| tell(true, message.count(), message.place.len()));
            rest = &rest[sent..];
            if let (Some(errno), Some((failed, others))) = (errno, rest.split_first())
                && errno != Errno::EINTR
            {
                self.send_singly(socket, failed, errno, &mut tell);
                rest = others;
            }
        }
        self.messages.clear();
        self.used = 0;
    }

    /// Where a way takes no message of several (no checksums in the device, packets larger than it carries), each
    /// datagram for itself.
    fn send_singly(
        &self,
        socket: &Socket,
        message: &Message,
        errno: Errno,
        tell: &mut impl FnMut(bool, usize, usize),
    ) {
        let is_worth_it = matches!(errno, Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP);
        for datagram in self.buffer[message.place.clone()].chunks(message.size) {
            let is_sent = is_worth_it && message.count() > 1 && socket.send_one(datagram, message.to).is_ok();
            tell(is_sent, 1, datagram.len());
        }
    }
}

impl Message {
    /// How many datagrams it has.
    fn count(&self) -> usize {
        self.place.len().div_ceil(self.size.max(1))
    }

    /// Whether a datagram may be put behind the others.
    fn takes(&self, to: SocketAddr, length: usize) -> bool {
        self.to == to
            && length <= self.size
            // A shorter one is the last.
            && self.place.len().is_multiple_of(self.size)
            && self.count() < DATAGRAMS
            && self.place.len() + length <= MESSAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of datagrams, by message, for one and the same node.
    fn messages(lengths: &[usize]) -> Vec<(usize, usize)> {
        let to = "192.0.2.12:8285".parse().expect("valid");
        let mut outbox = Outbox::new();
        for length in lengths {
            outbox.place(to, *length).expect("room").fill(1);
        }
        outbox.messages.iter().map(|message| (message.size, message.count())).collect()
    }

    #[test]
    fn datagrams_of_one_size_are_one_message() {
        assert_eq!(messages(&[1000; 5]), [(1000, 5)]);
        assert_eq!(messages(&[1000, 1000, 300]), [(1000, 3)]);
        assert_eq!(messages(&[1000, 300, 300, 1000]), [(1000, 2), (300, 1), (1000, 1)]);
        assert_eq!(messages(&[300, 1000]), [(300, 1), (1000, 1)]);
        assert_eq!(messages(&[52; 70]), [(52, 64), (52, 6)]);
        assert_eq!(messages(&[1472; 50]), [(1472, 44), (1472, 6)]);
    }

    #[test]
    fn nodes_are_told_apart_and_there_is_an_end() {
        let node = |number: u16| SocketAddr::from(([192, 0, 2, 12], number));
        let mut outbox = Outbox::new();
        for number in 0..16 {
            assert!(outbox.place(node(number), 100).is_some());
        }
        assert!(outbox.place(node(16), 100).is_none(), "no more messages");
        assert!(outbox.place(node(15), 100).is_some(), "but more datagrams");
        let mut outbox = Outbox::new();
        let mut places = 0;
        while outbox.place(node(0), MESSAGE).is_some() {
            places += 1;
        }
        assert_eq!(places, 4);
    }
}
