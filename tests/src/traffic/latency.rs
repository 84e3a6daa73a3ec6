//! TCP request/response, by sockperf.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::wait_for_listener;
use crate::background::Background;
use crate::pod::Pod;

const PORT: u16 = 11111;
const SLACK: Duration = Duration::from_secs(20);

/// What sockperf measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestResponse {
    /// One way (half a round trip), the mean.
    pub one_way_micros: f64,
    /// Completed requests.
    pub requests: u64,
}

/// Sends small requests one after another for some seconds, with client and server on the machine's last core.
///
/// Left to the scheduler the two jump between placements and the figure with them; on one core it repeats within 2 %
/// and is the pure cost of the path.
pub fn tcp_request_response(client: &Pod, server: &Pod, seconds: u32) -> Result<RequestResponse> {
    let address = server.address();
    let core = last_core();
    let command = server
        .netns()
        .command("taskset")
        .words(&format!("-c {core} sockperf server --tcp -i {address} -p {PORT}"));
    let mut serving = Background::start_unnamed(&command)?;
    wait_for_listener(server.netns(), (address, PORT).into(), &mut serving)?;

    let command = client.netns().command("taskset");
    let command =
        command.words(&format!("-c {core} sockperf ping-pong --tcp -i {address} -p {PORT} -t {seconds}"));
    let mut asking = Background::start_unnamed(&command)?;
    asking
        .wait(Duration::from_secs(u64::from(seconds)) + SLACK)
        .context("wait for the request/response run")?;
    let text = asking.log();
    parse(&text).with_context(|| format!("read the result of sockperf: {}", text.trim()))
}

fn last_core() -> usize {
    std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1)
}

fn parse(text: &str) -> Result<RequestResponse> {
    let after = |marker: &str| {
        let rest = text.split(marker).nth(1).with_context(|| format!("there is no {marker:?}"))?;
        rest.split_whitespace().next().with_context(|| format!("nothing follows {marker:?}"))
    };
    // "[Valid Duration] RunTime=1.450 sec; SentMessages=85000; ReceivedMessages=85000", then
    // "Summary: Latency is 8.513 usec", with colours around some of the words.
    let valid = text.split("[Valid Duration]").nth(1).context("there is no valid duration")?;
    let received = valid.split("ReceivedMessages=").nth(1).context("there is no count of messages")?;
    let digits: String = received.chars().take_while(char::is_ascii_digit).collect();
    Ok(RequestResponse {
        one_way_micros: after("Latency is ")?.parse().context("read the latency")?,
        requests: digits.parse().context("read the count of messages")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary() {
        let text = "sockperf: [Valid Duration] RunTime=1.449 sec; SentMessages=85123; ReceivedMessages=85122\n\
            sockperf: \x1b[2;35m====> avg-latency=8.495 (std-dev=1.331)\x1b[0m\n\
            sockperf: \x1b[2;35mSummary: Latency is 8.495 usec\x1b[0m\n";
        let result = parse(text).unwrap();
        assert_eq!(result.requests, 85122);
        assert!((result.one_way_micros - 8.495).abs() < 1e-9);
    }
}
