//! Traffic between pods: single pings, a TCP stream, request/response, and both kinds of traffic in the background of a
//! restart.

mod integrity;
mod latency;
mod ping;
mod stream;

pub use integrity::tcp_intact;
pub use latency::{RequestResponse, tcp_request_response};
pub use ping::{PingInBackground, PingSummary, ping, ping_all_pairs};
pub use stream::{Stream, StreamInBackground, tcp_stream, tcp_transfer};

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

use crate::background::Background;
use crate::netns::Netns;
use crate::wait::wait_for;

const START_DEADLINE: Duration = Duration::from_secs(10);

/// Waits until something listens on `address:port` in `netns`, or its process ends.
fn wait_for_listener(netns: &Netns, address: Ipv4Addr, port: u16, process: &mut Background) -> Result<()> {
    let mut ended = false;
    wait_for(&format!("a listener on {address}:{port}"), START_DEADLINE, || {
        ended = process.try_status()?.is_some();
        let listeners = netns.command("ss").args(["-Htln", &format!("src {address}:{port}")]).run()?;
        Ok(ended || !listeners.trim().is_empty())
    })?;
    anyhow::ensure!(!ended, "the server for {address}:{port} ended at once: {}", process.log().trim());
    Ok(())
}
