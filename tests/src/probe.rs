//! Single datagrams of one flow with chosen IP header fields, to an [`Echo`](crate::echo::Echo): what traceroute, QoS
//! and congestion control do. They are told apart by their lengths.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Netns;
use crate::pattern::pattern;
use crate::sockets;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
const USUAL_TTL: u8 = 64;

/// A socket that talks to one server.
#[derive(Debug)]
pub struct Probe {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Probe {
    /// From a port of the kernel's choice.
    pub fn open(from: &Netns, to: SocketAddr) -> Result<Self> {
        let socket = sockets::udp_to(from, to)?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(Self { socket, to })
    }

    /// Sends `length` bytes, whatever becomes of them.
    pub fn send(&self, length: usize) -> Result<()> {
        // An error may be what an earlier datagram met, and is told once.
        let sent = self.socket.send(pattern(0, length)).or_else(|_| self.socket.send(pattern(0, length)));
        sent.with_context(|| format!("send {length} bytes to {}", self.to))?;
        Ok(())
    }

    /// Sends `length` bytes and waits for them to come back.
    pub fn exchange(&self, length: usize) -> Result<()> {
        self.send(length)?;
        let (start, mut back) = (Instant::now(), vec![0; 1 << 16]);
        while start.elapsed() < PATIENCE {
            // An error is an earlier datagram's.
            if self.socket.recv(&mut back).is_ok_and(|got| got == length + 1) {
                return Ok(());
            }
        }
        bail!("no answer from {} to a datagram of {length} bytes", self.to)
    }

    /// Sends `length` bytes; whether anything comes back soon.
    pub fn is_answered(&self, length: usize) -> Result<bool> {
        self.send(length)?;
        let mut back = vec![0; 1 << 16];
        Ok(self.socket.recv(&mut back).is_ok_and(|got| got == length + 1))
    }

    /// Sends `length` bytes every now and then until the socket is told that nobody listens there.
    pub fn is_refused(&self, length: usize) -> Result<bool> {
        let mut back = [0; 1 << 10];
        Ok(match self.socket.send(pattern(0, length)).and_then(|_sent| self.socket.recv(&mut back)) {
            Ok(_) => false,
            Err(error) => error.kind() == ErrorKind::ConnectionRefused,
        })
    }

    /// Sends with this TTL or hop limit what `send` sends.
    pub fn with_ttl(&self, ttl: u8, send: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.set_ttl(ttl)?;
        send(self)?;
        self.set_ttl(USUAL_TTL)
    }

    /// DSCP and ECN of everything from now on.
    pub fn set_tos(&self, tos: u8) -> Result<()> {
        let tos = i32::from(tos);
        if self.to.is_ipv4() {
            setsockopt(&self.socket, sockopt::Ipv4Tos, &tos)
        } else {
            setsockopt(&self.socket, sockopt::Ipv6TClass, &tos)
        }
        .context("set DSCP and ECN")
    }

    fn set_ttl(&self, ttl: u8) -> Result<()> {
        let ttl = i32::from(ttl);
        if self.to.is_ipv4() {
            setsockopt(&self.socket, sockopt::Ipv4Ttl, &ttl)
        } else {
            setsockopt(&self.socket, sockopt::Ipv6Ttl, &ttl)
        }
        .context("set the TTL")
    }
}
