//! One queue of a TUN device with the headers of virtio-net: whole IP packets, and aggregates of them.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::libc::{self, c_char, c_short, c_uint, c_ulong};

const CONTROL: &str = "/dev/net/tun";

/// Aggregates that the kernel may hand over: TCP's, with what ECN needs; datagrams' from Linux 6.2 on.
const TCP_OFFLOADS: c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP_OFFLOADS: c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// A queue, which does not block.
#[derive(Debug)]
pub(crate) struct Queue {
    file: File,
    takes_datagrams: bool,
}

impl Queue {
    /// Opens a queue of the device called `name`, which is made where it is not there and stays when its last queue is
    /// closed.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(CONTROL);
        let file = file.with_context(|| {
            format!("cannot open {CONTROL}, which the udp backend needs (`modprobe tun`; in a container, give it the device)")
        })?;
        let mut queue = Self { file, takes_datagrams: true };
        match queue.attach(name) {
            Ok(()) => {}
            Err(Errno::EBUSY | Errno::EINVAL) => bail!(
                "{name} is there and is another process's, or no TUN device with several queues: stop flanneld, or \
                 remove it (`ip link del {name}`)"
            ),
            Err(errno) => return Err(errno).with_context(|| format!("cannot make TUN device {name}")),
        }
        if queue.command(libc::TUNSETOFFLOAD, (TCP_OFFLOADS | UDP_OFFLOADS).into()).is_err() {
            queue.takes_datagrams = false;
            let set = queue.command(libc::TUNSETOFFLOAD, TCP_OFFLOADS.into());
            set.with_context(|| format!("cannot set the offloads of {name}"))?;
        }
        let kept = queue.command(libc::TUNSETPERSIST, 1);
        kept.with_context(|| format!("cannot make {name} outlive the agent"))?;
        Ok(queue)
    }

    /// Whether aggregates of datagrams may be written, as those of streams may be: from Linux 6.2 on.
    pub(crate) fn takes_datagrams(&self) -> bool {
        self.takes_datagrams
    }

    /// Reads the next packet with its [header](super::offload) before it.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes a packet with its header before it.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(parts)
    }

    #[expect(clippy::cast_possible_truncation, reason = "bits of a word that the kernel has as a short")]
    fn attach(&self, name: &str) -> nix::Result<()> {
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as c_short },
        };
        if name.len() >= libc::IFNAMSIZ {
            return Err(Errno::ENAMETOOLONG);
        }
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = c_char::from_ne_bytes([byte]);
        }
        // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        Errno::result(result).map(drop)
    }

    /// One of the requests whose argument is a number.
    fn command(&self, request: libc::Ioctl, argument: c_ulong) -> nix::Result<()> {
        // SAFETY: these requests take the number itself and touch no memory of ours.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) };
        Errno::result(result).map(drop)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
