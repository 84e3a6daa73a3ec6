//! Asking nftables in the kernel, as far as to see whether rules changed: no process is started for it.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc::{NLMSG_DONE, NLMSG_ERROR};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// `struct nlmsghdr`: length (4), type (2), flags (2), sequence (4), port (4).
const HEADER: usize = 16;
/// `struct nfgenmsg`: family (1), version (1), resource (2).
const FAMILY: usize = 4;
/// `NFNL_SUBSYS_NFTABLES` in linux/netfilter/nfnetlink.h, the upper byte of a type.
const NFTABLES: u16 = 10 << 8;
/// `NLM_F_REQUEST`, `NLM_F_MULTI` and `NLM_F_DUMP` in linux/netlink.h.
const REQUEST: u16 = 1;
const MULTI: u16 = 2;
const DUMP: u16 = 0x300;
/// The kernel sends no more than this at once.
const BUFFER: usize = 64 * 1024;

/// How much to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The one thing that the attributes name.
    One,
    /// All that fits the attributes.
    All,
}

/// A socket to nftables in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens it.
    pub(super) fn open() -> nix::Result<Self> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Self { socket })
    }

    /// Sends `message` (of nf_tables.h) about `family` with text attributes, and hands the attributes of every
    /// message of the answer to `each`.
    pub(super) fn ask(
        &self,
        message: u8,
        scope: Scope,
        family: u8,
        attributes: &[(u16, &str)],
        mut each: impl FnMut(&[u8]),
    ) -> nix::Result<()> {
        let flags = if scope == Scope::All { REQUEST | DUMP } else { REQUEST };
        let request = request(NFTABLES | u16::from(message), flags, family, attributes)?;
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            // What was asked for is there when `send` returns, and more when `recv` does.
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
            if read(&buffer[..length.min(BUFFER)], &mut each)? {
                return Ok(());
            }
        }
    }
}

fn request(kind: u16, flags: u16, family: u8, attributes: &[(u16, &str)]) -> nix::Result<Vec<u8>> {
    let mut message = vec![0; HEADER];
    message.extend([family, 0, 0, 0]);
    for (kind, text) in attributes {
        let length = u16::try_from(4 + text.len() + 1).map_err(|_too_long| Errno::ENAMETOOLONG)?;
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(text.bytes().chain([0]));
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(message.len()).map_err(|_too_long| Errno::ENAMETOOLONG)?;
    message[0..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    Ok(message)
}

/// Reads what came at once, and returns whether it was the end of the answer.
fn read(mut messages: &[u8], each: &mut impl FnMut(&[u8])) -> nix::Result<bool> {
    while !messages.is_empty() {
        let length = usize::try_from(u32::from_ne_bytes(bytes(messages, 0)?)).unwrap_or(usize::MAX);
        let kind = i32::from(u16::from_ne_bytes(bytes(messages, 4)?));
        let flags = u16::from_ne_bytes(bytes(messages, 6)?);
        let message = messages.get(..length).filter(|_| length >= HEADER).ok_or(Errno::EBADMSG)?;
        if kind == NLMSG_DONE {
            return Ok(true);
        }
        if kind == NLMSG_ERROR {
            let code = i32::from_ne_bytes(bytes(message, HEADER)?).saturating_neg();
            return if code == 0 { Ok(true) } else { Err(Errno::from_raw(code)) };
        }
        each(message.get(HEADER + FAMILY..).unwrap_or_default());
        if flags & MULTI == 0 {
            return Ok(true);
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The attributes one after the other, by type; what is no attribute ends them.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Flags beside the type: that it is nested, or in network byte order.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes(rest, 0).ok()?));
        let kind = u16::from_ne_bytes(bytes(rest, 2).ok()?) & KIND;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn bytes<const N: usize>(message: &[u8], at: usize) -> nix::Result<[u8; N]> {
    message.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EBADMSG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut message = request(kind, flags, 0, &[]).expect("short");
        message.truncate(HEADER);
        message.extend(body);
        let length = u32::try_from(message.len()).expect("short");
        message[0..4].copy_from_slice(&length.to_ne_bytes());
        message
    }

    fn read_all(messages: &[u8]) -> (nix::Result<bool>, Vec<Vec<u8>>) {
        let mut seen = Vec::new();
        let end = read(messages, &mut |attributes: &[u8]| seen.push(attributes.to_vec()));
        (end, seen)
    }

    #[test]
    fn a_request_has_padded_attributes() {
        let request = request(0x0a07, 1, 2, &[(1, "nat"), (2, "FORWARD")]).expect("short");
        assert_eq!(request.len(), 20 + 8 + 12);
        assert_eq!(request[0..4], 40u32.to_ne_bytes());
        assert_eq!(request[16..20], [2, 0, 0, 0]);
        let read: Vec<_> = attributes(&request[20..]).collect();
        assert_eq!(read, [(1, &b"nat\0"[..]), (2, &b"FORWARD\0"[..])]);
    }

    #[test]
    fn answers_end_where_they_say() {
        let family = [2, 0, 0, 0];
        let row = [&family[..], b"rule"].concat();
        let done = message(3, MULTI, &[0; 4]);
        let one = message(0x0a06, 0, &row);
        let part = message(0x0a06, MULTI, &row);
        assert_eq!(read_all(&one), (Ok(true), vec![b"rule".to_vec()]));
        assert_eq!(read_all(&[part.clone(), part.clone()].concat()), (Ok(false), vec![b"rule".to_vec(); 2]));
        assert_eq!(read_all(&[part, done].concat()), (Ok(true), vec![b"rule".to_vec()]));
        assert_eq!(read_all(&message(2, 0, &(-2i32).to_ne_bytes())), (Err(Errno::ENOENT), vec![]));
    }

    #[test]
    fn nonsense_ends() {
        let whole = message(0x0a06, MULTI, &[0; 12]);
        for cut in 1..whole.len() {
            assert_eq!(read_all(&whole[..cut]).0, Err(Errno::EBADMSG), "cut at {cut}");
        }
        assert_eq!(read_all(&[0; 64]).0, Err(Errno::EBADMSG));
        assert_eq!(attributes(&[0; 64]).count(), 0, "a length of zero ends");
        assert_eq!(attributes(&[0xff; 64]).count(), 0);
        assert_eq!(attributes(&[4, 0, 1, 0, 9]).count(), 1);
    }
}
