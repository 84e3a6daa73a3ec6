//! The underlay's sockets: many datagrams per call, and several of one size as one message on the kernel's way
//! (`UDP_SEGMENT` out, `UDP_GRO` in; udp(7)).

#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of structures and a few messages, in the kernel's types"
)]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::{self, c_int, c_uint, c_void};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, bind, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// Most messages of one call.
pub(crate) const MESSAGES: usize = 16;
/// Most datagrams of one message: `UDP_MAX_SEGMENTS` of every kernel.
pub(crate) const DATAGRAMS: usize = 64;
/// Most bytes of one message: what IPv4's length field leaves beside the headers.
pub(crate) const MESSAGE: usize = 65_535 - 28;
/// Room for the largest message there can be.
const RECEIVED: usize = 65_536;
/// Some milliseconds of a fast sender; and more than the kernel keeps for a node that does not answer (`unres_qlen_bytes`),
/// so that this one does not hold up the others.
const BUFFER: usize = 4 << 20;
/// How long to wait for room in it: the pods' senders wait meanwhile, and so do packets from peers.
const PATIENCE_MILLIS: i64 = 10;
/// `CMSG_SPACE` of a size, and to spare.
const CONTROL: usize = 64;

/// Datagrams of one size for one node, one after the other in a buffer; the last may be shorter.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) to: SocketAddr,
    pub(crate) place: Range<usize>,
    /// Bytes of each.
    pub(crate) size: usize,
}

/// What came from one node in one message.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) from: IpAddr,
    /// Where its datagrams are.
    pub(crate) place: Range<usize>,
    /// Bytes of each; the last may be shorter.
    pub(crate) size: usize,
    /// Whether there was more of it than there was room for.
    pub(crate) is_cut: bool,
}

/// A UDP socket at this node's address, beside those of the other workers.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn bind(address: SocketAddr) -> Result<Self> {
        let open = || -> nix::Result<Self> {
            let (family, level, name) = if address.is_ipv4() {
                (AddressFamily::Inet, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
            } else {
                (AddressFamily::Inet6, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
            };
            let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&fd, sockopt::ReusePort, &true)?;
            // Without the right to more, what everybody may have is what there is.
            if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).is_err() {
                setsockopt(&fd, sockopt::RcvBuf, &BUFFER)?;
            }
            if setsockopt(&fd, sockopt::SndBufForce, &BUFFER).is_err() {
                setsockopt(&fd, sockopt::SndBuf, &BUFFER)?;
            }
            setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(PATIENCE_MILLIS))?;
            setsockopt(&fd, sockopt::UdpGroSegment, &true)?;
            // Where the way is narrower than the interface, outer packets travel in fragments, as vxlan's do: the pods
            // cannot know. Don't-fragment and no is both 0, as a number.
            let plain: c_int = libc::IP_PMTUDISC_DONT;
            let length = size_of::<c_int>() as libc::socklen_t;
            // SAFETY: the kernel reads one int, which outlives the call.
            let set = unsafe {
                libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const plain).cast::<c_void>(), length)
            };
            Errno::result(set)?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
            Ok(Self(fd))
        };
        open().with_context(|| format!("cannot listen on UDP {address}, which the udp backend needs"))
    }

    /// Sends messages from `buffer`, and says of how many the kernel knows what became of them: all sent, or the error
    /// of the one after those that were.
    pub(crate) fn send(&self, buffer: &[u8], messages: &[Message]) -> (usize, Option<Errno>) {
        let count = messages.len().min(MESSAGES);
        let mut addresses = [const { None::<SockaddrStorage> }; MESSAGES];
        // SAFETY: zeros are a valid value of these structures of numbers and pointers.
        let (mut parts, mut headers) = unsafe {
            (std::mem::zeroed::<[libc::iovec; MESSAGES]>(), std::mem::zeroed::<[libc::mmsghdr; MESSAGES]>())
        };
        let mut control = [Control::default(); MESSAGES];
        for (index, message) in messages.iter().take(count).enumerate() {
            let bytes = &buffer[message.place.clone()];
            let address = addresses[index].insert(SockaddrStorage::from(message.to));
            parts[index] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_namelen = address.len();
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
            if bytes.len() > message.size {
                header.msg_control = control[index].0.as_mut_ptr().cast();
                header.msg_controllen = CONTROL;
                let size = u16::try_from(message.size).unwrap_or(u16::MAX);
                // SAFETY: the control buffer is aligned and has room for a header and a size.
                unsafe {
                    let first = libc::CMSG_FIRSTHDR(header);
                    (*first).cmsg_level = libc::SOL_UDP;
                    (*first).cmsg_type = libc::UDP_SEGMENT;
                    (*first).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as c_uint) as usize;
                    libc::CMSG_DATA(first).cast::<u16>().write_unaligned(size);
                    header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as c_uint) as usize;
                }
            }
        }
        // SAFETY: the first `count` headers are filled in; what they point to outlives the call and is only read.
        let sent = unsafe {
            libc::sendmmsg(
                self.0.as_raw_fd(),
                headers.as_mut_ptr(),
                count as c_uint,
                MsgFlags::empty().bits(),
            )
        };
        match Errno::result(sent) {
            Ok(sent) => (usize::try_from(sent).unwrap_or(0), None),
            Err(errno) => (0, Some(errno)),
        }
    }

    /// Sends one datagram.
    pub(crate) fn send_one(&self, bytes: &[u8], to: SocketAddr) -> nix::Result<()> {
        let to = SockaddrStorage::from(to);
        sendto(self.0.as_raw_fd(), bytes, &to, MsgFlags::empty()).map(drop)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A control message, aligned as one must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Default for Control {
    fn default() -> Self {
        Self([0; CONTROL])
    }
}

/// Room for what comes in.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) buffer: Box<[u8]>,
    pub(crate) received: Vec<Received>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; MESSAGES * RECEIVED].into_boxed_slice(),
            received: Vec::with_capacity(MESSAGES),
        }
    }

    /// Whether there may be more than was received the last time.
    pub(crate) fn is_full(&self) -> bool {
        self.received.len() == MESSAGES
    }

    /// Takes what there is, without waiting.
    pub(crate) fn receive(&mut self, socket: &Socket) -> io::Result<()> {
        self.received.clear();
        // SAFETY: zeros are a valid value of these structures of numbers and pointers.
        let (mut names, mut parts, mut headers) = unsafe {
            (
                std::mem::zeroed::<[libc::sockaddr_storage; MESSAGES]>(),
                std::mem::zeroed::<[libc::iovec; MESSAGES]>(),
                std::mem::zeroed::<[libc::mmsghdr; MESSAGES]>(),
            )
        };
        let mut control = [Control::default(); MESSAGES];
        for (index, bytes) in self.buffer.chunks_exact_mut(RECEIVED).enumerate() {
            parts[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
            header.msg_control = control[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
        let (fd, flags) = (socket.0.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: all headers are filled in; the buffers they point to are distinct and outlive the call.
        let count = unsafe {
            libc::recvmmsg(fd, headers.as_mut_ptr(), MESSAGES as c_uint, flags, std::ptr::null_mut())
        };
        let count = usize::try_from(Errno::result(count)?).unwrap_or(0);
        for (index, header) in headers.iter().take(count).enumerate() {
            // SAFETY: the kernel has written as much of the name as it says.
            let name = unsafe {
                SockaddrStorage::from_raw(header.msg_hdr.msg_name.cast(), Some(header.msg_hdr.msg_namelen))
            };
            let ipv4 = name.as_ref().and_then(|name| name.as_sockaddr_in()).map(|name| name.ip().into());
            let ipv6 = name.as_ref().and_then(|name| name.as_sockaddr_in6()).map(|name| name.ip().into());
            // Every datagram comes from somewhere.
            let Some(from) = ipv4.or(ipv6) else { continue };
            let (start, length) = (index * RECEIVED, header.msg_len as usize);
            self.received.push(Received {
                from,
                place: start..start + length.min(RECEIVED),
                size: size_of_each(&header.msg_hdr).unwrap_or(length).max(1),
                is_cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            });
        }
        Ok(())
    }
}

/// The size of the datagrams in a message of several.
fn size_of_each(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has written the control messages that the header points to, and their lengths.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = next.as_ref() {
            if (message.cmsg_level, message.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO) {
                let size = libc::CMSG_DATA(next).cast::<c_int>().read_unaligned();
                return usize::try_from(size).ok();
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
    None
}

/// A socket for whole packets that the kernel sends as it would its own: for ICMP errors.
#[derive(Debug)]
pub(crate) struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens one of the family of `address`.
    pub(crate) fn open(address: IpAddr) -> nix::Result<Self> {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // SAFETY: opens a descriptor, touches no memory.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
        let fd = Errno::result(fd)?;
        // SAFETY: the descriptor was just opened and is nobody else's.
        Ok(Self(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }))
    }

    /// Sends a packet to its destination.
    pub(crate) fn send(&self, packet: &[u8], destination: IpAddr) -> nix::Result<()> {
        let to = SockaddrStorage::from(SocketAddr::new(destination, 0));
        sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::MSG_DONTWAIT).map(drop)
    }
}
