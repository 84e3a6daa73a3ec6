//! Many requests at once, one in every flow: what no standard tool sends. One thread asks and one answers.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::ends::{Ends, Placement, Protocol};
use super::latency::RequestResponse;
use super::timing::{Times, WARM_UP, stay_on};
use crate::{interrupt, sockets};

/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;
/// How often somebody who waits looks whether to go on.
const LOOK: u16 = 50;
/// After that long a datagram is lost and its flow asks again.
const LOST: Duration = Duration::from_millis(200);

/// Keeps a small request on its way in each of `flows` flows for some seconds.
pub fn many_requests(
    ends: Ends<'_>,
    protocol: Protocol,
    flows: usize,
    placement: Placement,
    seconds: u32,
) -> Result<RequestResponse> {
    let (askers, answerers) = connect(ends, protocol, flows)?;
    let [asking, answering] = placement.cores();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&answerers, answering, &ended));
        let asked = scope.spawn(|| ask(&askers, asking, Duration::from_secs(seconds.into()))).join();
        ended.store(true, Ordering::Relaxed);
        let answered = answering.join();
        answered.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("answer requests")?;
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("ask")
    })
}

/// A socket that never waits.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

fn connect(ends: Ends<'_>, protocol: Protocol, flows: usize) -> Result<(Vec<Socket>, Vec<Socket>)> {
    let Ends { client, server, address } = ends;
    let (mut askers, mut answerers) = (Vec::new(), Vec::new());
    match protocol {
        Protocol::Tcp => {
            for _ in 0..flows {
                let pair = sockets::Pair::connect(client, server, address)?;
                askers.push(Socket::Tcp(pair.client));
                answerers.push(Socket::Tcp(pair.server));
            }
        }
        Protocol::Udp => {
            let server = sockets::udp(server, (address, 0).into())?;
            let to = server.local_addr()?;
            for _ in 0..flows {
                askers.push(Socket::Udp(sockets::udp_to(client, to)?));
            }
            answerers.push(Socket::Udp(server));
        }
    }
    askers.iter().chain(&answerers).try_for_each(Socket::never_wait)?;
    Ok((askers, answerers))
}

impl Socket {
    fn never_wait(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Udp(socket) => socket.set_nonblocking(true),
        }
    }

    fn is_lossy(&self) -> bool {
        matches!(self, Self::Udp(_))
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => (&*stream).write_all(message),
            Self::Udp(socket) => socket.send(message).map(|_| ()),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(buffer),
            Self::Udp(socket) => socket.recv(buffer),
        }
    }

    /// Sends back all that has come.
    fn echo(&self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self {
                Self::Tcp(stream) => {
                    let length = (&*stream).read(buffer)?;
                    if length == 0 {
                        return Err(ErrorKind::ConnectionAborted.into());
                    }
                    (&*stream).write_all(&buffer[..length])?;
                }
                Self::Udp(socket) => {
                    let (length, from) = socket.recv_from(buffer)?;
                    // One that cannot be sent is lost like any other.
                    let _lost = socket.send_to(&buffer[..length], from);
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// Which of some sockets have something to read.
struct Ready {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Ready {
    fn of(sockets: &[Socket]) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("create an epoll")?;
        for (index, socket) in sockets.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            epoll.add(socket, event).context("watch a socket")?;
        }
        Ok(Self { epoll, events: vec![EpollEvent::empty(); sockets.len()] })
    }

    /// Waits for some of them.
    fn wait(&mut self) -> Result<impl Iterator<Item = usize>> {
        let count = match self.epoll.wait(&mut self.events, EpollTimeout::from(LOOK)) {
            Err(nix::errno::Errno::EINTR) => 0,
            waited => waited.context("wait for packets")?,
        };
        Ok(self.events.iter().take(count).filter_map(|event| usize::try_from(event.data()).ok()))
    }
}

fn answer(sockets: &[Socket], core: usize, ended: &AtomicBool) -> Result<()> {
    stay_on(core)?;
    let (mut ready, mut buffer) = (Ready::of(sockets)?, [0; MESSAGE]);
    while !ended.load(Ordering::Relaxed) {
        for index in ready.wait()? {
            match sockets[index].echo(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // An ICMP error about an earlier answer.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                other => other.context("a flow broke")?,
            }
        }
    }
    Ok(())
}

fn ask(sockets: &[Socket], core: usize, time: Duration) -> Result<RequestResponse> {
    stay_on(core)?;
    let (mut ready, mut buffer) = (Ready::of(sockets)?, [0; MESSAGE]);
    let begin = Instant::now();
    let (warm, end) = (begin + WARM_UP, begin + WARM_UP + time);
    let mut flows = vec![Flow::begin(begin); sockets.len()];
    for (socket, flow) in sockets.iter().zip(&flows) {
        socket.send(&flow.request()).context("send the first request")?;
    }
    let (mut times, mut total, mut looked) = (Times::default(), 0, begin);
    loop {
        for index in ready.wait()? {
            let (socket, flow) = (&sockets[index], &mut flows[index]);
            let length = match socket.receive(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                received => received.context("a flow broke")?,
            };
            ensure!(length > 0, "the other end closed a flow");
            if flow.is_answered_by(&buffer[..length], socket.is_lossy()) {
                let now = Instant::now();
                total += 1;
                if flow.asked >= warm {
                    times.push((now - flow.asked) / 2);
                }
                flow.go_on(now);
                socket.send(&flow.request()).context("send a request")?;
            }
        }
        let now = Instant::now();
        if now >= end || interrupt::requested() {
            break;
        }
        if now - looked > LOST {
            looked = now;
            ask_again(sockets, &mut flows, now)?;
        }
    }
    interrupt::check()?;
    result(times, total, time)
}

/// What one flow waits for.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// The request's number, which stands in its first bytes: an answer that comes late is not the next one's.
    number: u64,
    /// When it was sent first: what was lost took as long as it took.
    asked: Instant,
    /// When it was sent last.
    sent: Instant,
    /// Bytes of the answer that have not come.
    missing: usize,
}

impl Flow {
    fn begin(now: Instant) -> Self {
        Self { number: 0, asked: now, sent: now, missing: MESSAGE }
    }

    fn go_on(&mut self, now: Instant) {
        *self = Self { number: self.number + 1, ..Self::begin(now) };
    }

    fn request(&self) -> [u8; MESSAGE] {
        let mut message = [0; MESSAGE];
        message[..size_of::<u64>()].copy_from_slice(&self.number.to_be_bytes());
        message
    }

    /// Takes in what came; whether the answer is whole with it. Datagrams are answers or none, streams come in pieces.
    fn is_answered_by(&mut self, received: &[u8], is_datagram: bool) -> bool {
        if is_datagram {
            return received == self.request();
        }
        self.missing = self.missing.saturating_sub(received.len());
        self.missing == 0
    }

    /// Whether its request has to be sent again, as the last one was lost.
    fn is_lost(&mut self, now: Instant) -> bool {
        let is_lost = now - self.sent > LOST;
        if is_lost {
            self.sent = now;
        }
        is_lost
    }
}

/// Nobody else sends a lost datagram again.
fn ask_again(sockets: &[Socket], flows: &mut [Flow], now: Instant) -> Result<()> {
    for (socket, flow) in sockets.iter().zip(flows) {
        if socket.is_lossy() && flow.is_lost(now) {
            socket.send(&flow.request()).context("send a request again")?;
        }
    }
    Ok(())
}

fn result(mut times: Times, total: u64, time: Duration) -> Result<RequestResponse> {
    let requests = times.len() as u64;
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let per_second = requests as f64 / time.as_secs_f64();
    let none = "no request was answered";
    Ok(RequestResponse {
        mean_micros: times.mean().context(none)?,
        p50_micros: times.percentile(50).context(none)?,
        p99_micros: times.percentile(99).context(none)?,
        per_second,
        requests,
        total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{Netns, unique_prefix};

    /// A stall: the request is sent again, and both answers come.
    #[test]
    fn a_late_answer_is_not_the_next_ones() {
        let begin = Instant::now();
        let mut flow = Flow::begin(begin);
        assert!(!flow.is_lost(begin + LOST));
        let later = begin + 2 * LOST;
        assert!(flow.is_lost(later) && !flow.is_lost(later + LOST), "once in a while");
        let answer = flow.request();
        assert!(flow.is_answered_by(&answer, true));
        assert_eq!(flow.asked, begin, "it took as long as it took");
        flow.go_on(later);
        assert!(!flow.is_answered_by(&answer, true), "one request is under way, not two");
        assert!(flow.is_answered_by(&flow.request(), true));
    }

    #[test]
    fn a_stream_brings_answers_in_pieces() {
        let mut flow = Flow::begin(Instant::now());
        assert!(!flow.is_answered_by(&[0; 60], false));
        assert!(flow.is_answered_by(&[0; 4], false));
    }

    #[test]
    fn every_flow_is_answered() {
        let netns = Netns::create(&unique_prefix("many")).unwrap();
        let ends = Ends { client: &netns, server: &netns, address: [127, 0, 0, 1].into() };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let result = many_requests(ends, protocol, 32, Placement::TwoCores, 1).unwrap();
            assert!(
                result.requests > 32 && result.p99_micros >= result.p50_micros,
                "{protocol:?}: {result:?}"
            );
        }
    }
}
