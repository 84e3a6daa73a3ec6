//! Connections that carry one request and one answer, one after another.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::ends::{Ends, Placement};
use super::timing::{Times, WARM_UP, stay_on};
use crate::{interrupt, sockets};

/// Bytes of the request and of the answer.
const MESSAGE: usize = 64;
/// How long a healthy connection may take for anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Openings {
    /// Connections per second, each from its first packet to its last.
    pub per_second: f64,
    /// Half of them took no longer.
    pub p50_micros: f64,
    /// All but a hundredth took no longer.
    pub p99_micros: f64,
    /// Connections in all.
    pub connections: u64,
}

/// Connects, asks, hears the answer and closes, over and over for some seconds.
pub fn open_and_close(ends: Ends<'_>, placement: Placement, seconds: u32) -> Result<Openings> {
    let listener = sockets::listen(ends.server, (ends.address, 0).into())?;
    let to = listener.local_addr()?;
    let [asking, answering] = placement.cores();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(&listener, answering));
        let asked = ends.client.inside(|| ask(to, asking, Duration::from_secs(seconds.into())));
        let closed = sockets::close(&listener);
        serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        closed.context("close the listener")?;
        asked?
    })
}

/// Closes first, as a web server does: the connection then lingers here, and the client's port is free at once.
fn serve(listener: &TcpListener, core: usize) -> Result<()> {
    stay_on(core)?;
    let mut buffer = [0; MESSAGE];
    while let Ok((mut stream, _)) = listener.accept() {
        stream.set_read_timeout(Some(PATIENCE))?;
        // A client that gave up says so itself.
        let _gone = stream.read_exact(&mut buffer).and_then(|()| stream.write_all(&buffer));
    }
    Ok(())
}

fn ask(to: SocketAddr, core: usize, time: Duration) -> Result<Openings> {
    stay_on(core)?;
    let begin = Instant::now();
    let (warm, end) = (begin + WARM_UP, begin + WARM_UP + time);
    let mut times = Times::default();
    loop {
        let start = Instant::now();
        if start >= end || interrupt::requested() {
            break;
        }
        ask_once(to).with_context(|| format!("ask {to}"))?;
        if start >= warm {
            times.push(start.elapsed());
        }
    }
    interrupt::check()?;
    let connections = times.len() as u64;
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let per_second = connections as f64 / time.as_secs_f64();
    let none = "no connection was made";
    Ok(Openings {
        per_second,
        p50_micros: times.percentile(50).context(none)?,
        p99_micros: times.percentile(99).context(none)?,
        connections,
    })
}

fn ask_once(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[0; MESSAGE]).context("send")?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer).context("wait for the answer")?;
    let rest = stream.read(&mut answer).context("wait for the end")?;
    ensure!(rest == 0, "more came than was asked for");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{Netns, unique_prefix};

    #[test]
    fn connections_come_and_go() {
        let netns = Netns::create(&unique_prefix("openings")).unwrap();
        let ends = Ends { client: &netns, server: &netns, address: [127, 0, 0, 1].into() };
        let result = open_and_close(ends, Placement::TwoCores, 1).unwrap();
        assert!(result.connections > 100 && result.p99_micros >= result.p50_micros, "{result:?}");
    }
}
