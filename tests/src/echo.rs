//! A server for TCP and UDP that sends back what it gets, and says which server it is.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::netns::Netns;
use crate::pattern::pattern;
use crate::sockets;

/// How often the UDP half looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// A running server; dropping it ends it and its connections.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    mark: u8,
    ended: AtomicBool,
    resets: AtomicUsize,
    peers: Mutex<BTreeSet<IpAddr>>,
    streams: Mutex<Vec<Arc<TcpStream>>>,
}

impl Echo {
    /// Starts it at `address` of `netns`; `mark` is how it calls itself.
    pub fn start(netns: &Netns, address: SocketAddr, mark: u8) -> Result<Self> {
        let listener = sockets::listen(netns, address)?;
        let address = listener.local_addr()?;
        let socket = sockets::udp(netns, address)?;
        socket.set_read_timeout(Some(LOOK))?;
        let shared = Arc::new(Shared {
            mark,
            ended: AtomicBool::new(false),
            resets: AtomicUsize::new(0),
            peers: Mutex::default(),
            streams: Mutex::default(),
        });
        let (accepting, for_tcp, for_udp) = (listener.try_clone()?, Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || for_tcp.accept(&accepting)),
            std::thread::spawn(move || for_udp.answer_datagrams(&socket)),
        ];
        Ok(Self { address, listener, shared, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who has talked to it, as it sees them.
    pub fn peers(&self) -> BTreeSet<IpAddr> {
        locked(&self.shared.peers).clone()
    }

    /// How many of its connections were reset.
    pub fn resets(&self) -> usize {
        self.shared.resets.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // A socket that is gone already is what is wanted.
        let _gone = sockets::close(&self.listener);
        for stream in locked(&self.shared.streams).drain(..) {
            let _gone = stream.shutdown(std::net::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, peer)) = listener.accept() {
            let stream = Arc::new(stream);
            locked(&self.peers).insert(peer.ip());
            locked(&self.streams).push(Arc::clone(&stream));
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.answer_stream(&stream));
        }
    }

    fn answer_stream(&self, mut stream: &TcpStream) {
        let mut buffer = vec![0; 1 << 16];
        let mut answer = || -> std::io::Result<()> {
            stream.set_nodelay(true)?;
            stream.write_all(&[self.mark])?;
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..length])?;
            }
        };
        if answer().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset) {
            self.resets.fetch_add(1, Ordering::Relaxed);
        }
        // The list of streams holds it open, too.
        let _gone = stream.shutdown(std::net::Shutdown::Both);
        locked(&self.streams).retain(|kept| !std::ptr::eq(Arc::as_ptr(kept), stream));
    }

    fn answer_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = vec![self.mark; 1 << 16];
        while !self.ended.load(Ordering::Relaxed) {
            let Ok((length, peer)) = socket.recv_from(&mut buffer[1..]) else { continue };
            locked(&self.peers).insert(peer.ip());
            // One that cannot be sent is lost like any other.
            let _lost = socket.send_to(&buffer[..=length], peer);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TCP connection to an [`Echo`].
#[derive(Debug)]
pub struct Caller {
    stream: TcpStream,
    mark: u8,
    offset: u64,
}

impl Caller {
    /// Connects from `netns`.
    pub fn connect(netns: &Netns, to: SocketAddr, patience: Duration) -> Result<Self> {
        let mut stream = sockets::connect(netns, to, patience)?;
        let mut mark = [0];
        stream.read_exact(&mut mark).with_context(|| format!("hear who answers at {to}"))?;
        Ok(Self { stream, mark: mark[0], offset: 0 })
    }

    /// Which server it is.
    pub fn mark(&self) -> u8 {
        self.mark
    }

    /// Sends `length` bytes and compares what comes back.
    pub fn ask(&mut self, length: usize) -> Result<()> {
        let sent = pattern(self.offset, length);
        self.stream.write_all(sent).context("ask")?;
        let mut back = vec![0; length];
        self.stream.read_exact(&mut back).context("wait for the answer")?;
        ensure!(back == sent, "what came back is not what was sent");
        self.offset += length as u64;
        Ok(())
    }
}

/// Asks the server at `to` over UDP, once; which server it is.
pub fn ask_once(netns: &Netns, to: SocketAddr, patience: Duration) -> Result<u8> {
    let socket = sockets::udp_to(netns, to)?;
    socket.set_read_timeout(Some(patience))?;
    let sent = pattern(u64::from(socket.local_addr()?.port()), 100);
    socket.send(sent).with_context(|| format!("send to {to}"))?;
    let mut back = [0; 200];
    let length = socket.recv(&mut back).with_context(|| format!("wait for the answer from {to}"))?;
    ensure!(&back[1..length] == sent, "what came back is not what was sent");
    Ok(back[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::unique_prefix;

    #[test]
    fn answers_by_both_protocols_and_knows_who_asked() {
        let netns = Netns::create(&unique_prefix("echo")).unwrap();
        let echo = Echo::start(&netns, "127.0.0.1:0".parse().unwrap(), 7).unwrap();
        let patience = Duration::from_secs(5);
        let mut caller = Caller::connect(&netns, echo.address(), patience).unwrap();
        caller.ask(100).unwrap();
        caller.ask(50_000).unwrap();
        assert_eq!((caller.mark(), ask_once(&netns, echo.address(), patience).unwrap()), (7, 7));
        assert_eq!(echo.peers(), BTreeSet::from([IpAddr::from([127, 0, 0, 1])]));
        drop(caller);
        assert_eq!(echo.resets(), 0);
    }
}
