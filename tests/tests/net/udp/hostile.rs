//! Datagrams that nobody should send, from nodes and from strangers: counted, dropped, and no matter to others.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ovl_tests::flannel_udp::PORT;
use ovl_tests::sockets;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{UDP, carried, start};
use crate::overlay::{DUAL, KERNEL, ONLY_IPV4, Overlay, SOON, config};

/// How long it is listened whether something comes that should have been dropped.
const PATIENCE: Duration = Duration::from_millis(100);

/// An IPv4 packet of UDP without a checksum, from anybody to a pod's port.
fn packet(source: Ipv4Addr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V4(destination) = to.ip() else { panic!("an IPv4 pod") };
    let [datagram, total] = [8, 28].map(|more| u16::try_from(more + payload.len()).unwrap().to_be_bytes());
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend([0x30, 0x39]);
    packet.extend(to.port().to_be_bytes());
    packet.extend([datagram[0], datagram[1], 0, 0]);
    packet.extend(payload);
    resum(&mut packet);
    packet
}

/// Writes the header's checksum anew.
fn resum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let words = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The page that scrapers get from the first node.
fn metrics(overlay: &Overlay) -> Result<String> {
    let mut stream = sockets::connect(overlay.node(0).netns(), (Ipv4Addr::LOCALHOST, PORT).into(), SOON)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

fn agents_port(overlay: &Overlay) -> SocketAddr {
    (overlay.node(0).address(), PORT).into()
}

/// Sends a datagram to the first node, sees that it counts it so, and says whether the pod's socket got something.
fn arrives(
    overlay: &Overlay,
    (sender, listening): (&UdpSocket, &UdpSocket),
    datagram: &[u8],
    reason: &str,
) -> Result<bool> {
    let counted = || overlay.agents[0].counter("to_tun", reason);
    let before = counted()?;
    sender.send_to(datagram, agents_port(overlay)).context("send a datagram")?;
    wait_for(&format!("{reason} to be counted"), SOON, || Ok(counted()? == before + 1))?;
    Ok(listening.recv_from(&mut [0; 2048]).is_ok())
}

#[test]
fn packets_that_lie_are_counted_and_dropped() {
    let overlay = start(Topology::builder("udp-lies"), ONLY_IPV4, &format!("{KERNEL} --healthz-port 8285"));
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let listening = sockets::udp(overlay.pods[0].netns(), (overlay.pods[0].address(), 7000).into()).unwrap();
    listening.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = listening.local_addr().unwrap();
    let peer = overlay.node(1);
    let sender = sockets::udp(peer.netns(), (peer.address(), 0).into()).unwrap();
    let IpAddr::V4(source) = overlay.pods[1].address() else { panic!("an IPv4 pod") };
    let sound = packet(source, to, b"sound");
    let with = |at: usize, byte: u8, sums: bool| {
        let mut packet = sound.clone();
        packet[at] = byte;
        if sums {
            resum(&mut packet);
        }
        packet
    };
    let long = |length: usize| packet(source, to, &vec![7; length]);
    let truncated = sound[..25].to_vec();
    let trailing = [sound.clone(), vec![0; 3]].concat();
    let ipv6_without_end = [vec![0x60], vec![0; 20]].concat();
    let table: [(&str, Vec<u8>, &str); 14] = [
        ("sound", sound.clone(), "delivered"),
        ("nothing at all", vec![], "short"),
        ("one byte", vec![0x45], "short"),
        ("half a header", sound[..15].to_vec(), "short"),
        ("half an IPv6 header", ipv6_without_end, "short"),
        ("no IP", b"\x00hello, is it me you are looking for?".to_vec(), "bad_header"),
        ("a header of 8 bytes", with(0, 0x42, true), "bad_header"),
        ("cut off", truncated, "bad_length"),
        ("with something behind", trailing, "bad_length"),
        ("longer than it is", with(3, 200, true), "bad_length"),
        ("changed on the way", with(15, 9, false), "bad_checksum"),
        ("as large as the wire", long(1444), "delivered"),
        ("larger than the wire", long(1445), "delivered"),
        ("as large as can be", long(65_000), "delivered"),
    ];
    for (what, datagram, reason) in table {
        let arrived = arrives(&overlay, (&sender, &listening), &datagram, reason);
        assert_eq!(arrived.unwrap(), reason == "delivered", "{what}");
    }
    let page = metrics(&overlay).unwrap();
    for (reason, packets) in [("short", 4), ("bad_header", 2), ("bad_length", 3), ("bad_checksum", 1)] {
        let line = format!(r#"ovl_packets_total{{program="to_tun",reason="{reason}"}} {packets}"#);
        assert!(page.lines().any(|text| text == line), "{line} in {page}");
    }
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}

#[test]
fn senders_who_are_not_who_they_say_are_dropped_as_asked() {
    for (check, lies_pass, foreign_pass) in
        [("off", true, true), ("loose", false, true), ("strict", false, false)]
    {
        let args = format!("{KERNEL} --source-check {check}");
        let overlay = start(Topology::builder("udp-sources").nodes(3).switch(), ONLY_IPV4, &args);
        let listening =
            sockets::udp(overlay.pods[0].netns(), (overlay.pods[0].address(), 7000).into()).unwrap();
        let to = listening.local_addr().unwrap();
        let [own, peers, others] = [0, 1, 2].map(|pod| overlay.pods[pod].address());
        let peer = overlay.node(1);
        let node = sockets::udp(peer.netns(), (peer.address(), 0).into()).unwrap();
        let stranger = overlay.topology.switch().unwrap();
        let stranger = sockets::udp(stranger, ([192, 0, 2, 1], 0).into()).unwrap();
        let foreign: IpAddr = [203, 0, 113, 7].into();
        let beside_own = own_neighbour(own);
        for (sender, source, reason, passes) in [
            (&node, peers, "delivered", true),
            (&node, others, "wrong_node", lies_pass),
            (&node, beside_own, "wrong_node", lies_pass),
            (&node, foreign, "foreign_source", foreign_pass),
            (&stranger, peers, "unknown_node", lies_pass),
            (&stranger, foreign, "unknown_node", lies_pass),
        ] {
            let IpAddr::V4(source) = source else { panic!("an IPv4 pod") };
            // The kernel has the last word: a packet from the node's own pods does not come from outside.
            let may_arrive = passes && source != beside_own;
            listening.set_read_timeout(Some(if may_arrive { SOON } else { PATIENCE })).unwrap();
            let reason = if passes { "delivered" } else { reason };
            let datagram = packet(source, to, b"it is me");
            let arrived = arrives(&overlay, (sender, &listening), &datagram, reason).unwrap();
            assert!(
                arrived == may_arrive || source == beside_own,
                "--source-check {check}: {reason} from {source}"
            );
        }
        traffic::ping_all_pairs(&overlay.pods).unwrap();
    }
}

/// Another address of the same subnet.
fn own_neighbour(pod: IpAddr) -> IpAddr {
    let IpAddr::V4(pod) = pod else { panic!("an IPv4 pod") };
    Ipv4Addr::from_bits(pod.to_bits() + 40).into()
}

/// Random bytes, and sound packets with a few bytes changed, beside a stream that must not mind.
#[test]
fn a_hail_of_garbage_does_no_harm() {
    let overlay = start(Topology::builder("udp-hail").ipv6(), DUAL, KERNEL);
    let pid = overlay.agents[0].pid();
    let peer = overlay.node(1);
    let sender = sockets::udp(peer.netns(), (peer.address(), 0).into()).unwrap();
    let IpAddr::V4(source) = overlay.pods[1].address() else { panic!("an IPv4 pod") };
    let to = (overlay.pods[0].address(), 7000).into();
    let mut random = StdRng::seed_from_u64(8285);
    for round in 0..30_000 {
        let mut datagram = packet(source, to, &vec![0x5a; random.random_range(0..1400)]);
        if round % 2 == 0 {
            random.fill(datagram.as_mut_slice());
        } else {
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..datagram.len());
                datagram[at] = random.random();
            }
            if round % 3 == 0 {
                resum(&mut datagram);
            }
            datagram.truncate(random.random_range(1..=datagram.len()));
        }
        sender.send_to(&datagram, agents_port(&overlay)).unwrap();
    }
    traffic::tcp_intact(&overlay.pods[1], &overlay.pods[0], 10 << 20, overlay.topology.dir()).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    assert_eq!(overlay.agents[0].pid(), pid);
    assert!(overlay.agents[0].counter("to_tun", "bad_header").unwrap() > 1000);
    assert!(carried(&overlay.agents[0]).1 > 5000);
}

#[test]
fn a_port_that_somebody_has_is_named() {
    let overlay = Overlay::bare(Topology::builder("udp-port"), &config(&[ONLY_IPV4], UDP)).unwrap();
    let taken = sockets::udp(overlay.node(0).netns(), agents_port(&overlay)).unwrap();
    let mut agent = overlay.start_agent(0, KERNEL).unwrap();
    Overlay::wait_for_log(&agent, "cannot listen on UDP 192.0.2.11:8285").unwrap();
    drop(taken);
    agent.wait_ready().unwrap();
}
