//! Flows that are open while others are measured: as many entries in conntrack and in the programs' map.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ovl_tests::netns::Netns;
use ovl_tests::{interrupt, sockets};

use super::site::Site;

/// So many ports of the server a port of the client talks to.
const FAN: u32 = 250;
/// Those of the client, one after the other: by chance the same would come twice.
const FIRST_PORT: u16 = 10_000;
/// A flow is verified once netfilter has seen it in both directions, and shows that with the packets after.
const TIMES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that are open at any time beside those that are counted.
const SPARE: u32 = 10_000;

/// Opens so many UDP flows; they stay open for hours.
pub(super) fn open(site: &Site, flows: u32) -> Result<()> {
    if flows <= 1 {
        return Ok(());
    }
    for member in site.cluster.measured_pair()? {
        let netns = member.node.netns();
        let room = conntrack(netns, "max")?;
        ensure!(
            room >= flows + SPARE,
            "conntrack has room for {room} flows, {flows} and some more are wanted: `sysctl -w net.netfilter.nf_conntrack_max={}` makes it",
            flows + SPARE
        );
        netns.sysctl(&[
            "net.netfilter.nf_conntrack_udp_timeout=36000",
            "net.netfilter.nf_conntrack_udp_timeout_stream=36000",
        ])?;
    }
    let ends = site.ends()?;
    let server = |_| sockets::udp(ends.server, (ends.address, 0).into());
    let servers: Vec<_> = (0..flows.min(FAN)).map(server).collect::<Result<_>>()?;
    let ports = servers.iter().map(UdpSocket::local_addr).collect::<Result<Vec<_>, _>>()?;
    let mut left = flows;
    for port in FIRST_PORT.. {
        interrupt::check()?;
        let client = sockets::udp(ends.client, (IpAddr::from([0; 4]), port).into())?;
        let count = usize::try_from(left.min(FAN))?;
        talk(&client, &servers[..count], &ports[..count])?;
        left = left.saturating_sub(FAN);
        if left == 0 {
            break;
        }
    }
    let members = site.cluster.measured_pair()?;
    for member in members.iter().filter(|_| site.contender.asks_netfilter()) {
        let open = conntrack(member.node.netns(), "count")?;
        ensure!(open >= flows, "conntrack of {} has {open} flows, not {flows}", member.node.name());
    }
    Ok(())
}

fn conntrack(netns: &Netns, what: &str) -> Result<u32> {
    let name = format!("net.netfilter.nf_conntrack_{what}");
    let text = netns.command("sysctl").args(["-n", &name]).run()?;
    text.trim().parse().with_context(|| format!("read {name}"))
}

/// From one socket to all of these and back.
fn talk(client: &UdpSocket, servers: &[UdpSocket], ports: &[SocketAddr]) -> Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 8];
    for _ in 0..TIMES {
        for (server, port) in servers.iter().zip(ports) {
            server.set_read_timeout(Some(PATIENCE))?;
            client.send_to(b"ask", port).context("open a flow")?;
            let (_, from) = server.recv_from(&mut buffer).context("hear from a new flow")?;
            server.send_to(b"answer", from).context("answer a new flow")?;
            client.recv_from(&mut buffer).context("wait for a new flow's answer")?;
        }
    }
    Ok(())
}
