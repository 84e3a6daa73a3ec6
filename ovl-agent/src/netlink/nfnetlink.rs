//! netfilter's own netlink: nftables and conntrack, asked without a process.
//!
//! The kernel answers while a request is sent, so that nothing here waits.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

mod message;

pub(crate) use message::{Attributes, attributes};

use message::{messages, request};

/// `NFNL_SUBSYS_…` in linux/netfilter/nfnetlink.h, the upper byte of a type.
pub(crate) const CONNTRACK: u16 = 1 << 8;
pub(crate) const NFTABLES: u16 = 10 << 8;
/// `NLM_F_REQUEST`, `NLM_F_ACK` and `NLM_F_DUMP` in linux/netlink.h.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// The kernel sends no more than this at once.
const BUFFER: usize = 64 * 1024;

/// How much to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The one thing that the attributes name.
    One,
    /// All that fits the attributes.
    All,
}

/// One of many requests that are sent at once.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What is asked for, or to be done: the subsystem and its message.
    pub(crate) kind: u16,
    /// `AF_…` or `NFPROTO_…`.
    pub(crate) family: u8,
    /// About what.
    pub(crate) attributes: Attributes,
    /// Whether the answer is only how it went.
    pub(crate) is_command: bool,
}

/// A socket to netfilter in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens it.
    pub(crate) fn open() -> nix::Result<Self> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Self { socket })
    }

    /// Opens one to which the kernel sends the events of `group` (`NFNLGRP_…`, from 1 to 32).
    pub(crate) fn subscribe(group: u32) -> nix::Result<Self> {
        let netlink = Self::open()?;
        let groups = group.checked_sub(1).and_then(|bit| 1u32.checked_shl(bit)).ok_or(Errno::EINVAL)?;
        bind(netlink.socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(netlink)
    }

    /// The types of the messages in the next event. `EAGAIN`: there is none; `ENOBUFS`: some were lost.
    pub(crate) fn event(&self) -> nix::Result<Vec<u16>> {
        let mut buffer = vec![0; BUFFER];
        messages(self.receive(&mut buffer)?).map(|message| Ok(message?.kind)).collect()
    }

    /// Sends a request about `family`, and hands the attributes of every message of the answer to `each`.
    pub(crate) fn ask(
        &self,
        kind: u16,
        scope: Scope,
        family: u8,
        attributes: &Attributes,
        mut each: impl FnMut(&[u8]),
    ) -> nix::Result<()> {
        let flags = if scope == Scope::All { REQUEST | DUMP } else { REQUEST };
        self.send(&request(kind, flags, 0, family, attributes)?)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                let message = message?;
                if let Some(attributes) = message.content()? {
                    each(attributes);
                }
                if !message.has_more() {
                    return Ok(());
                }
            }
        }
    }

    /// Sends requests at once, a few dozen at most (the answers have to fit into the socket's buffer), and returns the
    /// attributes that each was answered with. An error of the whole leaves the socket of no more use.
    pub(crate) fn ask_each(&self, requests: &[Request]) -> nix::Result<Vec<nix::Result<Vec<u8>>>> {
        let mut bytes = Vec::new();
        for (index, Request { kind, family, attributes, is_command }) in requests.iter().enumerate() {
            let flags = if *is_command { REQUEST | ACK } else { REQUEST };
            let sequence = u32::try_from(index).map_err(|_too_many| Errno::EMSGSIZE)?;
            bytes.extend(request(*kind, flags, sequence, *family, attributes)?);
        }
        let mut answers: Vec<Option<nix::Result<Vec<u8>>>> = vec![None; requests.len()];
        if !requests.is_empty() {
            self.send(&bytes)?;
        }
        let mut buffer = vec![0; BUFFER];
        while answers.iter().any(Option::is_none) {
            for message in messages(self.receive(&mut buffer)?) {
                let message = message?;
                let index = usize::try_from(message.sequence).unwrap_or(usize::MAX);
                let answer = answers.get_mut(index).ok_or(Errno::EBADMSG)?;
                *answer = Some(message.content().map(|content| content.unwrap_or_default().to_vec()));
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn send(&self, bytes: &[u8]) -> nix::Result<()> {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()).map(drop)
    }

    /// What was asked for is there when `send` returns, and more when `recv` does.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> nix::Result<&'a [u8]> {
        let length = recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        Ok(buffer.get(..length).unwrap_or_default())
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
