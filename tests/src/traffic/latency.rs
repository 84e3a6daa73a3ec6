//! Requests and answers one after another, by sockperf.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::ends::{Ends, Placement, Protocol, pinned};
use super::wait_for_socket;
use crate::background::Background;

const PORT: u16 = 11111;
const SLACK: Duration = Duration::from_secs(20);

/// What a run of requests and answers showed. Times are one way, which is half of there and back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestResponse {
    /// The mean.
    pub mean_micros: f64,
    /// Half of them were at least as fast.
    pub p50_micros: f64,
    /// All but a hundredth were at least as fast.
    pub p99_micros: f64,
    /// Answered requests per second.
    pub per_second: f64,
    /// Answered requests.
    pub requests: u64,
    /// The same with those before it was measured, while everything warmed up.
    pub total: u64,
}

/// Sends small requests one after another for some seconds.
pub fn request_response(
    ends: Ends<'_>,
    protocol: Protocol,
    placement: Placement,
    seconds: u32,
) -> Result<RequestResponse> {
    let Ends { client, server, address } = ends;
    let [asking, serving] = placement.cores();
    let (option, kind) = match protocol {
        Protocol::Tcp => ("--tcp ", "-Htln"),
        Protocol::Udp => ("", "-Huln"),
    };
    let sockperf = |taskset, core| pinned(taskset, core).arg("sockperf");
    let command = sockperf(server.command("taskset"), serving);
    let mut answering =
        Background::start_unnamed(&command.words(&format!("server {option}-i {address} -p {PORT}")))?;
    wait_for_socket(server, (address, PORT).into(), kind, &mut answering)?;

    let command = sockperf(client.command("taskset"), asking);
    let command = command.words(&format!("ping-pong {option}-i {address} -p {PORT} -t {seconds}"));
    let mut asking = Background::start_unnamed(&command)?;
    asking
        .wait(Duration::from_secs(u64::from(seconds)) + SLACK)
        .context("wait for the request/response run")?;
    let text = asking.log();
    parse(&text).with_context(|| format!("read the result of sockperf: {}", text.trim()))
}

fn parse(text: &str) -> Result<RequestResponse> {
    // "[Valid Duration] RunTime=1.450 sec; SentMessages=85000; ReceivedMessages=85000", then
    // "Summary: Latency is 8.513 usec" and "---> percentile 99.000 =   15.1", with colours around some of the words.
    let (all, valid) = text.split_once("[Valid Duration]").context("there is no valid duration")?;
    let after = |marker: &str| number_after(valid, marker);
    let (seconds, received) = (after("RunTime=")?, after("ReceivedMessages=")?);
    anyhow::ensure!(seconds > 0.0, "it took no time");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    let [requests, total] = [received, number_after(all, "ReceivedMessages=")?].map(|count| count as u64);
    Ok(RequestResponse {
        mean_micros: after("Latency is")?,
        p50_micros: after("percentile 50.000 =")?,
        p99_micros: after("percentile 99.000 =")?,
        per_second: received / seconds,
        requests,
        total,
    })
}

fn number_after(text: &str, marker: &str) -> Result<f64> {
    let rest = text.split(marker).nth(1).with_context(|| format!("there is no {marker:?}"))?;
    let word = rest.trim_start().split([' ', ';', '\n']).next().unwrap_or_default();
    word.parse().with_context(|| format!("read the number after {marker:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary() {
        let text = "sockperf: [Total Run] RunTime=2.003 sec; SentMessages=99123; ReceivedMessages=99122\n\
            sockperf: [Valid Duration] RunTime=2.000 sec; SentMessages=85123; ReceivedMessages=85122\n\
            sockperf: \x1b[2;35m====> avg-latency=8.495 (std-dev=1.331)\x1b[0m\n\
            sockperf: \x1b[2;35mSummary: Latency is 8.495 usec\x1b[0m\n\
            sockperf: ---> percentile 99.999 = 2917.360\n\
            sockperf: ---> percentile 99.000 =   12.797\n\
            sockperf: ---> percentile 50.000 =    8.107\n";
        let expected = RequestResponse {
            mean_micros: 8.495,
            p50_micros: 8.107,
            p99_micros: 12.797,
            per_second: 42561.0,
            requests: 85122,
            total: 99122,
        };
        assert_eq!(parse(text).unwrap(), expected);
        assert!(parse("sockperf: ERROR: Message header from server").is_err());
    }
}
