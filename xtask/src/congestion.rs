//! How TCP is held back where it is measured.
//!
//! Not by what the machine happens to use. One that paces (BBR) sends by its own clock: then the clock is what is measured,
//! and timers on one core and acknowledgements on another put the packets of a flow out of order.

use std::fs;

use anyhow::{Context as _, Result};
use ovl_tests::netns::Netns;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;

use crate::cluster::Cluster;

/// What Linux uses unless told.
pub(crate) const USUAL: &str = "cubic";

const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Has all nodes and pods use the one with this name.
pub(crate) fn set(cluster: &Cluster, name: &str) -> Result<()> {
    let nodes = cluster.topology().nodes().iter().map(Node::netns);
    let pods = cluster.pods().iter().map(Pod::netns);
    nodes.chain(pods).try_for_each(|netns| set_in(netns, name))
}

fn set_in(netns: &Netns, name: &str) -> Result<()> {
    netns.sysctl(&[&format!("net.ipv4.tcp_congestion_control={name}")]).with_context(|| {
        let there = fs::read_to_string(AVAILABLE).unwrap_or_default();
        format!(
            "TCP congestion control {name:?} is not to be had here; there is: {} (modprobe tcp_{name} may add it)",
            there.trim()
        )
    })
}
