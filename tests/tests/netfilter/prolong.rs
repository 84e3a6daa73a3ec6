//! Connections that fell idle after the fast path, judged with `conntrack`.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use ovl_agent::conntrack::{Conntrack, Prolonged, Timeouts, Tuple};

use crate::verification::path::{CLIENT, SERVER, Way, in_url};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn tuple(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Tuple {
    let address = |(ip, port)| format!("{}:{port}", in_url(ip)).parse().unwrap();
    Tuple { protocol, source: address(source), destination: address(destination) }
}

fn prolong(way: &Way, flows: &[Tuple]) -> Prolonged {
    way.inside(|| Conntrack::open().unwrap().prolong(flows)).unwrap()
}

/// State and timeout of the connection from this port, as `conntrack` prints them.
fn entry(way: &Way, family: &str, port: u16) -> (String, u64) {
    let line = way.sh(&format!("conntrack -L -f {family} -p tcp --orig-port-src {port} 2>/dev/null"));
    let words: Vec<&str> = line.split_whitespace().collect();
    (words[3].to_owned(), words[2].parse().unwrap())
}

/// Connection tracking only wakes where rules ask for it.
const TRACK: &str = "nft 'add table inet t; add chain inet t c { type filter hook forward priority 0; };
                     add rule inet t c ct state invalid counter'";

#[test]
fn idle_connections_get_their_time_back() {
    let way = Way::new();
    way.sh(TRACK);
    way.router.sysctl(&["net.netfilter.nf_conntrack_tcp_timeout_unacknowledged=20"]).unwrap();
    let _server = way.serve(80);
    for (index, family) in ["ipv4", "ipv6"].into_iter().enumerate() {
        let (client, server) = ((CLIENT[index], 40_000), (SERVER[index], 80));
        let connection = way.connect(server.0, 80, 40_000);
        let one = Prolonged { prolonged: 1, ..Prolonged::default() };
        let left = Prolonged { left: 1, ..Prolonged::default() };
        // Known by either direction, of which only one is the original.
        for flow in [tuple(TCP, client, server), tuple(TCP, server, client)] {
            way.sh(&format!("conntrack -U -f {family} -p tcp --orig-port-src 40000 --timeout 5 2>/dev/null"));
            let (state, seconds) = entry(&way, family, 40_000);
            assert!(state == "ESTABLISHED" && seconds <= 5, "{state} {seconds}");
            assert_eq!(prolong(&way, &[flow]), one, "{flow:?}");
            let (state, seconds) = entry(&way, family, 40_000);
            assert!(state == "ESTABLISHED" && (431_900..=432_000).contains(&seconds), "{state} {seconds}");
        }
        assert_eq!(entry(&way, family, 40_000).0, "ESTABLISHED", "it goes on");

        // What is being closed ends as it would have.
        connection.finish().unwrap();
        let (state, seconds) = entry(&way, family, 40_000);
        assert!(state != "ESTABLISHED" && seconds <= 120, "{state} {seconds}");
        assert_eq!(prolong(&way, &[tuple(TCP, client, server)]), left);
        assert!(entry(&way, family, 40_000).1 <= 120);

        let unknown = [tuple(TCP, client, (server.0, 81)), tuple(UDP, client, server)];
        assert_eq!(prolong(&way, &unknown), Prolonged { unknown: 1, left: 1, prolonged: 0 });
    }
    assert_eq!(prolong(&way, &[]), Prolonged::default());
}

#[test]
fn the_timeouts_are_those_of_this_network() {
    let way = Way::new();
    way.sh(TRACK);
    let shortest = || way.inside(Timeouts::read).shortest.map(|shortest| shortest.as_secs());
    for (name, seconds) in [
        ("udp_timeout", 29),
        ("udp_timeout_stream", 28),
        ("icmp_timeout", 27),
        ("icmpv6_timeout", 26),
        ("tcp_timeout_established", 25),
        ("tcp_timeout_unacknowledged", 24),
        ("tcp_timeout_max_retrans", 23),
    ] {
        way.router.sysctl(&[&format!("net.netfilter.nf_conntrack_{name}={seconds}")]).unwrap();
        assert_eq!(shortest(), Some(seconds), "{name}");
    }
}

#[test]
fn many_connections_take_little_time() {
    const CONNECTIONS: u16 = 20_000;
    let way = Way::new();
    way.sh(TRACK);
    let mut lines = String::new();
    let mut flows = Vec::new();
    for port in 1..=CONNECTIONS {
        // Every second one would be forgotten soon.
        let seconds = if port % 2 == 0 { 300 } else { 432_000 };
        let (source, destination) = (CLIENT[0], SERVER[0]);
        writeln!(
            lines,
            "-I -p tcp -s {source} -d {destination} --sport {port} --dport 80 --state ESTABLISHED -t {seconds}"
        )
        .unwrap();
        flows.push(tuple(TCP, (source, port), (destination, 80)));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("connections");
    fs::write(&file, lines).unwrap();
    way.sh(&format!("conntrack -R {}", file.display()));
    flows.extend((1..=CONNECTIONS).map(|port| tuple(TCP, (CLIENT[0], port), (SERVER[0], 443))));

    let start = Instant::now();
    let done = prolong(&way, &flows);
    println!("{} flows in {:?}", flows.len(), start.elapsed());
    assert_eq!(done.unknown, usize::from(CONNECTIONS));
    assert_eq!(done.prolonged + done.left, usize::from(CONNECTIONS));
    assert!(done.prolonged >= usize::from(CONNECTIONS) / 2, "{done:?}");
    let short = way.sh("conntrack -L -p tcp 2>/dev/null | awk '$3 < 400000' | wc -l");
    assert_eq!(short.trim(), "0");
}
