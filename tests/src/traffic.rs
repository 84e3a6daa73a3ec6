//! Traffic between pods: single pings, transfers compared by hash, streams, floods, requests and answers, connections
//! that come and go, and traffic in the background of a restart. To pods by their first address, or to a [`Destination`] of either family.

mod destination;
mod ends;
mod flood;
mod integrity;
mod iperf3;
mod latency;
mod many;
mod openings;
mod ping;
mod stream;
mod timing;

pub use destination::Destination;
pub use ends::{Ends, Placement, Protocol, Spinners};
pub use flood::{Flood, udp_flood};
pub use integrity::{tcp_intact, udp_intact};
pub use latency::{RequestResponse, request_response};
pub use many::many_requests;
pub use openings::{Openings, open_and_close};
pub use ping::{
    PingInBackground, PingSummary, ping, ping_all_pairs, ping_burst, ping_fragments, ping_packet,
};
pub use stream::{Stream, StreamInBackground, tcp_stream, tcp_streams, tcp_transfer};

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::background::Background;
use crate::netns::Netns;
use crate::wait::wait_for;

const START_DEADLINE: Duration = Duration::from_secs(10);

/// Waits until something listens on a TCP address in `netns`, or its process ends.
fn wait_for_listener(netns: &Netns, socket: SocketAddr, process: &mut Background) -> Result<()> {
    wait_for_socket(netns, socket, "-Htln", process)
}

/// The same with the words that make `ss` show the right kind of socket.
fn wait_for_socket(netns: &Netns, socket: SocketAddr, kind: &str, process: &mut Background) -> Result<()> {
    let mut ended = false;
    wait_for(&format!("a listener on {socket}"), START_DEADLINE, || {
        ended = process.try_status()?.is_some();
        let listeners = netns.command("ss").args([kind, &format!("src {socket}")]).run()?;
        Ok(ended || !listeners.trim().is_empty())
    })?;
    anyhow::ensure!(!ended, "the server for {socket} ended at once: {}", process.log().trim());
    Ok(())
}
