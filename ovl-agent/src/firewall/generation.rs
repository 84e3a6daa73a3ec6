//! The kernel's count of nftables transactions, which says without a process started whether anything changed.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::NLMSG_ERROR;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// `struct nlmsghdr` (length, type, flags, sequence, port) and `struct nfgenmsg` (family, version, resource).
const HEADERS: usize = 16 + 4;
const LENGTH: u32 = 16 + 4;
/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETGEN` in linux/netfilter/nfnetlink.h and nf_tables.h.
const GETGEN: u16 = 10 << 8 | 16;
/// `NLM_F_REQUEST` in linux/netlink.h.
const REQUEST: u16 = 1;
/// `NFTA_GEN_ID` in linux/netfilter/nf_tables.h; big-endian, as all numbers in nftables' attributes.
const GEN_ID: u16 = 1;

/// The generation of this thread's network namespace: every transaction adds one. `None` where the kernel has no
/// nf_tables.
pub(super) fn now() -> Result<Option<u32>> {
    match ask() {
        Ok(generation) => Ok(Some(generation)),
        Err(Errno::EINVAL | Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::ENOENT) => Ok(None),
        Err(error) => Err(error)
            .context("cannot ask the kernel for its nftables generation; the agent needs CAP_NET_ADMIN"),
    }
}

fn ask() -> nix::Result<u32> {
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    send(socket.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut answer = [0; 512];
    // The kernel has answered when `send` returns.
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    parse(&answer[..length.min(answer.len())])
}

fn request() -> [u8; HEADERS] {
    let mut request = [0; HEADERS];
    request[0..4].copy_from_slice(&LENGTH.to_ne_bytes());
    request[4..6].copy_from_slice(&GETGEN.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    request
}

fn parse(answer: &[u8]) -> nix::Result<u32> {
    let kind = u16::from_ne_bytes(bytes(answer, 4)?);
    if i32::from(kind) == NLMSG_ERROR {
        return Err(Errno::from_raw(i32::from_ne_bytes(bytes(answer, 16)?).saturating_neg()));
    }
    let mut at = HEADERS;
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes(answer, at)?));
        if u16::from_ne_bytes(bytes(answer, at + 2)?) == GEN_ID {
            return Ok(u32::from_be_bytes(bytes(answer, at + 4)?));
        }
        // Attributes are padded to four bytes, and no shorter than their own header.
        at += length.max(4).next_multiple_of(4);
    }
}

fn bytes<const N: usize>(message: &[u8], at: usize) -> nix::Result<[u8; N]> {
    message.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EBADMSG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 16];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.extend(body);
        message
    }

    #[test]
    fn answers() {
        let pid = [8u8, 0, 2, 0, 0, 0, 0, 7];
        let id = [8u8, 0, 1, 0, 0, 1, 0, 2];
        let body = [&[0; 4][..], &pid, &id].concat();
        assert_eq!(parse(&answer(0x0a0f, &body)), Ok(0x0001_0002), "whatever comes first");
        assert_eq!(parse(&answer(2, &(-1i32).to_ne_bytes())), Err(Errno::EPERM));
        for cut in 0..16 + body.len() {
            assert!(parse(&answer(0x0a0f, &body)[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(parse(&answer(0x0a0f, &[0; 64])), Err(Errno::EBADMSG), "lengths of zero end");
    }
}
