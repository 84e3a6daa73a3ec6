//! Sockets of this process inside network namespaces: thousands of connections without a process for each.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// How long a healthy connection may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// A TCP listener at `address` in `netns`.
pub fn listen(netns: &Netns, address: SocketAddr) -> Result<TcpListener> {
    netns
        .inside(|| TcpListener::bind(address))?
        .with_context(|| format!("listen on {address} in {}", netns.name()))
}

/// A UDP socket at `address` in `netns`.
pub fn udp(netns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    netns.inside(|| UdpSocket::bind(address))?.with_context(|| format!("bind {address} in {}", netns.name()))
}

/// A UDP socket at a port of the kernel's choice that talks to `to`.
pub fn udp_to(netns: &Netns, to: SocketAddr) -> Result<UdpSocket> {
    let socket = udp(netns, unspecified(to))?;
    socket.connect(to).with_context(|| format!("connect to {to} from {}", netns.name()))?;
    Ok(socket)
}

/// A TCP connection from `netns` to `to`, which must come about in time; no read or write takes longer than ten
/// seconds.
pub fn connect(netns: &Netns, to: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let stream = netns.inside(|| TcpStream::connect_timeout(&to, patience))?;
    let stream = stream.with_context(|| format!("connect to {to} from {}", netns.name()))?;
    bounded(stream)
}

/// The next connection of a listener.
pub fn accept(listener: &TcpListener) -> Result<TcpStream> {
    // The standard library has the option for streams only, the kernel for every socket.
    TcpStream::from(OwnedFd::from(listener.try_clone()?)).set_read_timeout(Some(PATIENCE))?;
    let (stream, _) = listener.accept().context("wait for a connection")?;
    bounded(stream)
}

/// Ends a listener for all who wait for its connections.
pub(crate) fn close(listener: &TcpListener) -> io::Result<()> {
    TcpStream::from(OwnedFd::from(listener.try_clone()?)).shutdown(std::net::Shutdown::Both)
}

/// Both ends of a TCP connection.
#[derive(Debug)]
pub struct Pair {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that accepted.
    pub server: TcpStream,
}

impl Pair {
    /// Connects from `client` to `to`, where `server` is, at a port of the kernel's choice.
    pub fn connect(client: &Netns, server: &Netns, to: IpAddr) -> Result<Self> {
        let listener = listen(server, (to, 0).into())?;
        Self::through(client, &listener, listener.local_addr()?)
    }

    /// Connects from `client` to `to`, which leads to `listener` by whatever way.
    pub fn through(client: &Netns, listener: &TcpListener, to: SocketAddr) -> Result<Self> {
        let client = connect(client, to, PATIENCE)?;
        Ok(Self { client, server: accept(listener)? })
    }
}

fn bounded(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    let address: IpAddr = if like.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    (address, 0).into()
}
