//! How TCP is held back where it is measured.
//!
//! Not by what the machine happens to use. One that paces (BBR) sends by its own clock: then the clock is what is measured,
//! and timers on one core and acknowledgements on another put the packets of a flow out of order.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use ovl_tests::netns::Netns;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;

use crate::cluster::Cluster;

/// What Linux uses unless told.
const USUAL: &str = "cubic";

/// What there is, what namespaces may choose of it beside the machine's own, and the machine's own.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
const OWN: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What TCP is to go by: what was asked for, else the usual one, else, where that is not to be had, the machine's own.
pub(crate) fn choose(asked: Option<&str>) -> Result<String> {
    match (asked, while_allowed(asked.unwrap_or(USUAL), || Ok(()))) {
        (_, Ok(())) => Ok(asked.unwrap_or(USUAL).to_owned()),
        (Some(_), Err(error)) => Err(error),
        (None, Err(error)) => {
            let own = read(OWN)?;
            println!("    TCP goes by {own}, as on this machine: {error:#}");
            Ok(own)
        }
    }
}

/// Has all nodes and pods use the one with this name.
pub(crate) fn set(cluster: &Cluster, name: &str) -> Result<()> {
    let nodes = cluster.topology().nodes().iter().map(Node::netns);
    let pods = cluster.pods().iter().map(Pod::netns);
    while_allowed(name, || nodes.chain(pods).try_for_each(|netns| set_in(netns, name)))
}

fn set_in(netns: &Netns, name: &str) -> Result<()> {
    netns
        .sysctl(&[&format!("net.ipv4.tcp_congestion_control={name}")])
        .with_context(|| format!("choose TCP congestion control {name}"))
}

/// Does `work` while namespaces may choose `name`, which the machine may have to itself (`TCP_CONG_NON_RESTRICTED` in
/// net/ipv4/tcp_cong.c). Who has chosen keeps it afterwards.
fn while_allowed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let has = |list: &str| list.split_whitespace().any(|one| one == name);
    if read(OWN)? == name {
        return work();
    }
    if !has(&read(AVAILABLE)?) {
        // It says by itself what is wrong, and the list below what there is.
        let _loaded = Command::new("modprobe").args(["--quiet", &format!("tcp_{name}")]).status();
    }
    let before = read(ALLOWED)?;
    if has(&before) {
        return work();
    }
    fs::write(ALLOWED, format!("{before} {name}")).with_context(|| {
        let there = read(AVAILABLE).unwrap_or_default();
        format!("TCP congestion control {name:?} is not to be had here; there is: {there}")
    })?;
    let done = work();
    fs::write(ALLOWED, before).with_context(|| format!("restore {ALLOWED}"))?;
    done
}

fn read(file: &str) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    Ok(text.trim().to_owned())
}
