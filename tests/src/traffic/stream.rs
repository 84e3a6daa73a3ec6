//! TCP streams, by iperf3.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Destination;
use super::ends::{Ends, Placement};
use super::iperf3::{Cores, Iperf3, Report};
use crate::pod::Pod;

/// In bits per second, as iperf3 takes it: some 17 packets of full size in a millisecond.
const PACE: &str = "200M";

/// What iperf3 measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// What arrived, per second.
    pub bits_per_second: f64,
    /// What arrived in all.
    pub bytes: u64,
    /// Segments the client sent again.
    pub retransmits: u64,
    /// How many of the intervals (a tenth of a second each) passed without a byte.
    pub silent_intervals: usize,
}

/// Sends from `client` to `server` for some seconds and waits for the result.
pub fn tcp_stream<'pod>(
    client: &'pod Pod,
    server: impl Into<Destination<'pod>>,
    seconds: u32,
) -> Result<Stream> {
    StreamInBackground::start(client, server, seconds)?.finish()
}

/// Sends as many streams at once as `flows` says, with client and server on a core each.
pub fn tcp_streams(ends: Ends<'_>, flows: u32, seconds: u32) -> Result<Stream> {
    let options = format!("-t {seconds} -P {flows} -i 0.1");
    Iperf3::start(ends, Cores::Placed(Placement::TwoCores), &options, seconds)?.finish(read)
}

/// Sends about `bytes` from `client` to `server`: for captures, which should stay small.
pub fn tcp_transfer<'pod>(
    client: &'pod Pod,
    server: impl Into<Destination<'pod>>,
    bytes: u64,
) -> Result<Stream> {
    StreamInBackground::launch(client, server.into(), &format!("-n {bytes}"), 0)?.finish()
}

/// A stream that runs while something else happens.
#[derive(Debug)]
pub struct StreamInBackground(Iperf3);

impl StreamInBackground {
    /// Starts server and client.
    pub fn start<'pod>(
        client: &'pod Pod,
        server: impl Into<Destination<'pod>>,
        seconds: u32,
    ) -> Result<Self> {
        Self::launch(client, server.into(), &format!("-t {seconds}"), seconds)
    }

    /// Starts them at 200 Mbit/s at most, for tests in which nothing may be lost.
    ///
    /// As fast as it goes, a stream fills whatever queue is the shortest, and what does not fit is rightly lost: a veth
    /// with a program of XDP has a ring of 256 packets (`VETH_RING_SIZE` in the kernel's veth.c) and drops the rest.
    pub fn paced<'pod>(
        client: &'pod Pod,
        server: impl Into<Destination<'pod>>,
        seconds: u32,
    ) -> Result<Self> {
        Self::launch(client, server.into(), &format!("-t {seconds} --fq-rate {PACE}"), seconds)
    }

    fn launch(client: &Pod, server: Destination<'_>, amount: &str, seconds: u32) -> Result<Self> {
        let Destination { pod: server, address } = server;
        let ends = Ends { client: client.netns(), server: server.netns(), address };
        Iperf3::start(ends, Cores::Any, &format!("{amount} -i 0.1"), seconds).map(Self)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        self.0.is_running()
    }

    /// Waits for its end.
    pub fn finish(self) -> Result<Stream> {
        self.0.finish(read)
    }
}

fn read(report: &Report) -> Result<Stream> {
    let intervals = report.at("/intervals")?.as_array().context("the intervals are no list")?;
    let silent = |interval: &&Value| interval.pointer("/sum/bytes").and_then(Value::as_u64) == Some(0);
    Ok(Stream {
        bits_per_second: report.number("/end/sum_received/bits_per_second")?,
        bytes: report.count("/end/sum_received/bytes")?,
        retransmits: report.count("/end/sum_sent/retransmits")?,
        silent_intervals: intervals.iter().filter(silent).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_received_side() {
        let text = r#"warning: this system is slow
            {"intervals":[{"sum":{"bytes":7}},{"sum":{"bytes":0}}],
             "end":{"sum_sent":{"retransmits":3},"sum_received":{"bytes":99,"bits_per_second":12.5e9}}}"#;
        let stream = read(&Report::parse(text).unwrap()).unwrap();
        assert_eq!((stream.bytes, stream.retransmits, stream.silent_intervals), (99, 3, 1));
        assert!((stream.bits_per_second - 12.5e9).abs() < 1.0);
    }
}
