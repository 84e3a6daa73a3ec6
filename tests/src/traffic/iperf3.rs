//! iperf3: how it is started, and how its report is read.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::ends::{Ends, Placement, pinned};
use super::wait_for_listener;
use crate::background::Background;

const PORT: u16 = 5201;
/// How much longer than asked for a run may take: connection set-up, a result on a busy machine.
const SLACK: Duration = Duration::from_secs(20);

/// A client and its server.
#[derive(Debug)]
pub(super) struct Iperf3 {
    client: Background,
    server: Background,
    seconds: u32,
}

/// Where its processes run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cores {
    /// Where the scheduler puts them.
    Any,
    /// Pinned.
    Placed(Placement),
}

impl Iperf3 {
    /// Starts both; the words of `options` go to the client.
    pub(super) fn start(ends: Ends<'_>, cores: Cores, options: &str, seconds: u32) -> Result<Self> {
        let Ends { client, server, address } = ends;
        let [sending, receiving] = match cores {
            Cores::Any => [client.command("iperf3"), server.command("iperf3")],
            Cores::Placed(placement) => {
                let [from, to] = placement.cores();
                let sending = pinned(client.command("taskset"), from).arg("iperf3");
                [sending, pinned(server.command("taskset"), to).arg("iperf3")]
            }
        };
        let receiving = receiving.words(&format!("-s -1 -p {PORT} -B {address}"));
        let mut serving = Background::start_unnamed(&receiving)?;
        wait_for_listener(server, (address, PORT).into(), &mut serving)?;
        let sending = sending.words(&format!("-c {address} -p {PORT} -J {options}"));
        Ok(Self { client: Background::start_unnamed(&sending)?, server: serving, seconds })
    }

    /// Whether it still runs.
    pub(super) fn is_running(&mut self) -> Result<bool> {
        Ok(self.client.try_status()?.is_none())
    }

    /// Waits for the end, and has `read` look at the report.
    pub(super) fn finish<T>(mut self, read: impl FnOnce(&Report) -> Result<T>) -> Result<T> {
        let deadline = Duration::from_secs(u64::from(self.seconds)) + SLACK;
        self.client.wait(deadline).context("wait for iperf3")?;
        let text = self.client.log();
        drop(self.server);
        let report = Report::parse(&text).and_then(|report| read(&report));
        report.with_context(|| format!("read the result of iperf3: {}", shortened(&text)))
    }
}

/// The client's report.
#[derive(Debug)]
pub(super) struct Report(Value);

impl Report {
    /// Reads it; what iperf3 complains about is an error.
    pub(super) fn parse(text: &str) -> Result<Self> {
        // Warnings may precede the JSON document.
        let json = text.find('{').and_then(|start| text.get(start..)).context("there is no JSON")?;
        let report: Value = serde_json::from_str(json).context("parse the JSON")?;
        if let Some(error) = report.get("error").and_then(Value::as_str) {
            anyhow::bail!("iperf3 reports an error: {error}");
        }
        Ok(Self(report))
    }

    /// What stands at `pointer`.
    pub(super) fn at(&self, pointer: &str) -> Result<&Value> {
        self.0.pointer(pointer).with_context(|| format!("nothing at {pointer}"))
    }

    /// A whole number.
    pub(super) fn count(&self, pointer: &str) -> Result<u64> {
        self.at(pointer)?.as_u64().with_context(|| format!("no count at {pointer}"))
    }

    /// A number.
    pub(super) fn number(&self, pointer: &str) -> Result<f64> {
        self.at(pointer)?.as_f64().with_context(|| format!("no number at {pointer}"))
    }
}

fn shortened(text: &str) -> &str {
    text.trim().get(..400).unwrap_or(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_on_what_iperf3_complains_about() {
        let error = Report::parse(r#"{"error":"unable to connect to server"}"#).unwrap_err().to_string();
        assert!(error.contains("unable to connect"), "{error}");
    }
}
