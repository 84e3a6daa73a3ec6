//! A conversation with an [`Echo`](crate::echo::Echo) that goes on while something else happens: a message at every
//! tick, and a look at every byte that comes back.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::netns::Netns;
use crate::pattern::pattern;
use crate::sockets;
use crate::wait::{poll_until, wait_for};

/// How long a flow may take to begin, and a stream to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often somebody who waits for a datagram looks whether to go on.
const LOOK: Duration = Duration::from_millis(50);
/// How long the answers to the last datagrams may take.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// The number of a datagram stands in its first bytes.
const NUMBER: usize = 8;

/// How much and how often.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes of a message.
    pub message: usize,
    /// The time between two messages.
    pub every: Duration,
}

/// Few bytes a hundred times a second.
pub const SMALL: Pace = Pace { message: 64, every: Duration::from_millis(10) };
/// Some ten megabytes a second, there and back.
pub const BULK: Pace = Pace { message: 100_000, every: Duration::from_millis(10) };

/// A running flow; dropping it ends it.
#[derive(Debug)]
pub struct Flow {
    name: String,
    /// That of a TCP flow.
    stream: Option<Arc<TcpStream>>,
    ticks: Option<Sender<()>>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

/// What became of a flow.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Messages sent.
    pub asked: u64,
    /// Messages that came back whole.
    pub answered: u64,
    /// The longest time without an answer.
    pub longest_gap: Duration,
}

impl Outcome {
    /// Messages that did not come back.
    pub fn lost(&self) -> u64 {
        self.asked.saturating_sub(self.answered)
    }
}

#[derive(Debug, Default)]
struct Seen {
    asked: u64,
    answered: u64,
    mark: Option<u8>,
    last: Option<Instant>,
    longest_gap: Duration,
    failure: Option<String>,
    ended: bool,
}

impl Flow {
    /// A TCP connection from `netns` to the server at `to`.
    pub fn tcp(netns: &Netns, to: SocketAddr, pace: Pace) -> Result<Self> {
        let stream = Arc::new(sockets::connect(netns, to, PATIENCE)?);
        // How long nothing comes is measured here, and judged by the test.
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        let (sending, receiving) = (Arc::clone(&stream), Arc::clone(&stream));
        let send = move |number: u64| {
            let offset = number * pace.message as u64;
            (&*sending).write_all(pattern(offset, pace.message))
        };
        let receive = move |seen: &Mutex<Seen>| receive_stream(&receiving, pace.message, seen);
        Self::start(format!("TCP from {} to {to}", netns.name()), Some(stream), pace, send, receive)
    }

    /// Datagrams of at least eight bytes from one port of `netns` to the server at `to`.
    pub fn udp(netns: &Netns, to: SocketAddr, pace: Pace) -> Result<Self> {
        let socket = Arc::new(sockets::udp_to(netns, to)?);
        socket.set_read_timeout(Some(LOOK))?;
        let (sending, receiving) = (Arc::clone(&socket), Arc::clone(&socket));
        let send = move |number: u64| {
            // One that cannot be sent is lost like any other.
            let _lost = sending.send(&datagram(number, pace.message));
            Ok(())
        };
        let receive = move |seen: &Mutex<Seen>| receive_datagrams(&receiving, pace.message, seen);
        Self::start(format!("UDP from {} to {to}", netns.name()), None, pace, send, receive)
    }

    fn start(
        name: String,
        stream: Option<Arc<TcpStream>>,
        pace: Pace,
        send: impl Fn(u64) -> std::io::Result<()> + Send + 'static,
        receive: impl Fn(&Mutex<Seen>) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (ticks, clock) = channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (by_sender, by_receiver) = (Arc::clone(&seen), Arc::clone(&seen));
        let threads = vec![
            std::thread::spawn(move || note(&by_sender, keep_sending(&clock, pace.every, &send, &by_sender))),
            std::thread::spawn(move || note(&by_receiver, receive(&by_receiver))),
        ];
        let flow = Self { name, stream, ticks: Some(ticks), seen, threads };
        flow.wait_for_more(1, PATIENCE)?;
        Ok(flow)
    }

    /// How many messages have come back.
    pub fn answered(&self) -> u64 {
        locked(&self.seen).answered
    }

    /// How the server called itself that answered last.
    pub fn mark(&self) -> Option<u8> {
        locked(&self.seen).mark
    }

    /// Waits for `count` more answers.
    pub fn wait_for_more(&self, count: u64, deadline: Duration) -> Result<()> {
        let goal = self.answered() + count;
        wait_for(&format!("{count} more answers: {}", self.name), deadline, || {
            self.check()?;
            Ok(self.answered() >= goal)
        })
    }

    /// An error when it has failed: reset, closed by the other end, other bytes than were sent.
    pub fn check(&self) -> Result<()> {
        locked(&self.seen).failure.as_ref().map_or(Ok(()), |failure| bail!("{}: {failure}", self.name))
    }

    /// Sends no more, waits for what is on its way and ends it. A stream must come back to its last byte.
    pub fn stop(mut self) -> Result<Outcome> {
        self.ticks = None;
        let stopped = Instant::now();
        let is_stream = self.stream.is_some();
        let sender = self.threads.remove(0);
        let all_back = || {
            let seen = locked(&self.seen);
            sender.is_finished() && (seen.answered == seen.asked || seen.failure.is_some())
        };
        let are_all_back = poll_until(if is_stream { PATIENCE } else { LAST_ANSWERS }, all_back);
        self.check()?;
        let seen = locked(&self.seen);
        let silence = seen.last.map(|last| stopped.saturating_duration_since(last)).unwrap_or_default();
        let outcome = Outcome {
            asked: seen.asked,
            answered: seen.answered,
            // Silence is a gap, too, when nothing ends it.
            longest_gap: seen.longest_gap.max(silence),
        };
        ensure!(are_all_back || !is_stream, "{}: it did not come back whole: {outcome:?}", self.name);
        Ok(outcome)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.ticks = None;
        locked(&self.seen).ended = true;
        if let Some(stream) = &self.stream {
            // One that is gone already is what is wanted.
            let _gone = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

fn keep_sending(
    clock: &Receiver<()>,
    every: Duration,
    send: &impl Fn(u64) -> std::io::Result<()>,
    seen: &Mutex<Seen>,
) -> Result<()> {
    for number in 0.. {
        locked(seen).asked = number + 1;
        send(number).context("send")?;
        if clock.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    Ok(())
}

fn receive_stream(mut stream: &TcpStream, message: usize, seen: &Mutex<Seen>) -> Result<()> {
    let mut mark = [0];
    stream.read_exact(&mut mark).context("hear who answers")?;
    let (mut offset, mut buffer) = (0_u64, vec![0; 1 << 18]);
    loop {
        let length = stream.read(&mut buffer).context("receive")?;
        if length == 0 {
            bail!("the other end closed it");
        }
        ensure!(buffer[..length] == *pattern(offset, length), "other bytes came back after {offset}");
        offset += length as u64;
        locked(seen).saw(offset / message as u64, mark[0]);
    }
}

fn receive_datagrams(socket: &UdpSocket, message: usize, seen: &Mutex<Seen>) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        if locked(seen).ended {
            return Ok(());
        }
        // Also what an ICMP error says: the datagram is lost like any other.
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let Some((&mark, back)) = buffer[..length].split_first() else { bail!("an empty answer") };
        let number = back.first_chunk::<NUMBER>().map(|bytes| u64::from_be_bytes(*bytes));
        let number = number.context("a short answer")?;
        ensure!(back == datagram(number, message), "other bytes came back than datagram {number} has");
        let mut seen = locked(seen);
        let answered = seen.answered + 1;
        seen.saw(answered, mark);
    }
}

fn datagram(number: u64, length: usize) -> Vec<u8> {
    [&number.to_be_bytes()[..], pattern(number, length.saturating_sub(NUMBER))].concat()
}

impl Seen {
    fn saw(&mut self, answered: u64, mark: u8) {
        let now = Instant::now();
        let gap = self.last.map_or(Duration::ZERO, |last| now - last);
        self.longest_gap = self.longest_gap.max(gap);
        (self.answered, self.mark, self.last) = (answered, Some(mark), Some(now));
    }
}

/// Keeps the first failure; what breaks while the flow is ended is none.
fn note(seen: &Mutex<Seen>, result: Result<()>) {
    let mut seen = locked(seen);
    if let Err(error) = result
        && !seen.ended
    {
        seen.failure.get_or_insert(format!("{error:#}"));
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
