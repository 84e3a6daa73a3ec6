//! One TCP stream, by iperf3.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Destination, wait_for_listener};
use crate::background::Background;
use crate::pod::Pod;

const PORT: u16 = 5201;
/// How much longer than asked for a run may take: connection set-up, a result on a busy machine.
const SLACK: Duration = Duration::from_secs(20);

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
pub struct StreamInBackground {
    client: Background,
    server: Background,
    seconds: u32,
}

impl StreamInBackground {
    /// Starts server and client.
    pub fn start<'pod>(
        client: &'pod Pod,
        server: impl Into<Destination<'pod>>,
        seconds: u32,
    ) -> Result<Self> {
        Self::launch(client, server.into(), &format!("-t {seconds}"), seconds)
    }

    fn launch(client: &Pod, server: Destination<'_>, amount: &str, seconds: u32) -> Result<Self> {
        let Destination { pod: server, address } = server;
        let command = server.netns().command("iperf3").words(&format!("-s -1 -p {PORT} -B {address}"));
        let mut serving = Background::start_unnamed(&command)?;
        wait_for_listener(server.netns(), (address, PORT).into(), &mut serving)?;
        let command =
            client.netns().command("iperf3").words(&format!("-c {address} -p {PORT} {amount} -i 0.1 -J"));
        let sending = Background::start_unnamed(&command)?;
        Ok(Self { client: sending, server: serving, seconds })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.client.try_status()?.is_none())
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Stream> {
        let deadline = Duration::from_secs(u64::from(self.seconds)) + SLACK;
        self.client.wait(deadline).context("wait for the TCP stream")?;
        let text = self.client.log();
        drop(self.server);
        parse(&text).with_context(|| format!("read the result of iperf3: {}", shortened(&text)))
    }
}

fn parse(text: &str) -> Result<Stream> {
    // Warnings may precede the JSON document.
    let json = text.find('{').and_then(|start| text.get(start..)).context("there is no JSON")?;
    let report: Value = serde_json::from_str(json).context("parse the JSON")?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        anyhow::bail!("iperf3 reports an error: {error}");
    }
    let at = |pointer: &str| report.pointer(pointer).with_context(|| format!("nothing at {pointer}"));
    let intervals = at("/intervals")?.as_array().context("the intervals are no list")?;
    let silent = |interval: &&Value| interval.pointer("/sum/bytes").and_then(Value::as_u64) == Some(0);
    Ok(Stream {
        bits_per_second: at("/end/sum_received/bits_per_second")?.as_f64().context("no rate")?,
        bytes: at("/end/sum_received/bytes")?.as_u64().context("no bytes")?,
        retransmits: at("/end/sum_sent/retransmits")?.as_u64().context("no retransmits")?,
        silent_intervals: intervals.iter().filter(silent).count(),
    })
}

fn shortened(text: &str) -> &str {
    text.trim().get(..400).unwrap_or(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_received_side() {
        let text = r#"warning: this system is slow
            {"intervals":[{"sum":{"bytes":7}},{"sum":{"bytes":0}}],
             "end":{"sum_sent":{"retransmits":3},"sum_received":{"bytes":99,"bits_per_second":12.5e9}}}"#;
        let stream = parse(text).unwrap();
        assert_eq!((stream.bytes, stream.retransmits, stream.silent_intervals), (99, 3, 1));
        assert!((stream.bits_per_second - 12.5e9).abs() < 1.0);
    }

    #[test]
    fn passes_on_what_iperf3_complains_about() {
        let error = parse(r#"{"error":"unable to connect to server"}"#).unwrap_err().to_string();
        assert!(error.contains("unable to connect"), "{error}");
    }
}
