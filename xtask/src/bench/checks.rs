//! What must be right before anything counts: MTU, offloads, rules, and not a packet lost.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use ovl_tests::netns::Netns;
use ovl_tests::traffic;
use ovl_tests::{kernel_vtep, links};

use super::contender::Between;
use super::rules;
use super::site::Site;
use crate::overlay::Backend;

/// What devices do for the processor, by device and feature: `on` or `off`.
pub(super) type Offloads = BTreeMap<String, String>;

/// What decides about how many packets a stream is made of, and who computes checksums.
const FEATURES: &[&str] = &[
    "rx-checksumming",
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
];

/// What VXLAN, UDP alone and IP put before a packet over IPv4.
const TUNNEL: u64 = 50;
const UDP: u64 = 28;
const IPIP: u64 = 20;
/// Where a node's own offloads are listed.
const NODE: &str = "node eth0";
const PINGS: u32 = 20;

/// Checks a site; returns its offloads.
pub(super) fn check(site: &Site) -> Result<Offloads> {
    let mut offloads = Offloads::new();
    let mtu = mtu(site)?;
    for member in site.cluster.measured_pair()? {
        rules::check(member.node)?;
        for (what, netns) in [(NODE, member.node.netns()), ("pod eth0", member.pod.netns())] {
            // A veth whose other end has XDP cuts streams into packets itself: that is a part of what is measured.
            if what == NODE && site.contender.has_xdp() {
                continue;
            }
            offloads.extend(features(netns)?.map(|(name, value)| (format!("{what} {name}"), value)));
        }
    }
    let ends = site.ends()?;
    // The first may have to wait for neighbours, and the next meet flows that are not verified.
    traffic::ping(ends.client, ends.address)?;
    traffic::ping_packet(ends.client, ends.address, mtu).context("send a packet as large as the MTU")?;
    let burst = traffic::ping_burst(ends.client, ends.address, PINGS)?;
    ensure!(
        burst.received == burst.transmitted,
        "of {} pings {} were answered: the path loses packets",
        burst.transmitted,
        burst.received
    );
    Ok(offloads)
}

/// What the traffic's MTU is; an error when it is not what it should be.
fn mtu(site: &Site) -> Result<u64> {
    let members = site.cluster.measured_pair()?;
    let underlay = links::mtu(members[0].node.netns(), "eth0")?;
    if site.contender.ends == Between::Nodes {
        return Ok(underlay);
    }
    let expected = match site.contender.backend {
        Backend::Vxlan => underlay - TUNNEL,
        Backend::HostGw => underlay,
        Backend::Ipip => underlay - IPIP,
        Backend::Udp => underlay - UDP,
    };
    for member in members {
        let mut devices =
            vec![(member.pod.netns(), "eth0"), (member.node.netns(), member.pod.host_interface())];
        if site.contender.backend == Backend::Vxlan {
            devices.push((member.node.netns(), kernel_vtep::DEVICE));
        }
        for (netns, device) in devices {
            let found = links::mtu(netns, device)?;
            ensure!(found == expected, "{device} in {} has the MTU {found}, not {expected}", netns.name());
        }
    }
    Ok(expected)
}

fn features(netns: &Netns) -> Result<impl Iterator<Item = (&'static str, String)>> {
    let text = netns.command("ethtool").words("-k eth0").run()?;
    let mut found = Vec::new();
    for name in FEATURES {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = line.with_context(|| format!("`ethtool -k eth0` says nothing of {name}"))?;
        found.push((*name, value.split_whitespace().next().unwrap_or_default().to_owned()));
    }
    Ok(found.into_iter())
}
