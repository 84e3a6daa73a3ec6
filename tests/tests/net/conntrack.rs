//! Whatever becomes of conntrack's entries, connections that are allowed go on: without a reset, without a stall, with
//! every byte as it was sent.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use ovl_tests::echo::{Caller, Echo};
use ovl_tests::firewall::{Rules, Tool};
use ovl_tests::flow::{BULK, Flow};
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::sockets::{self, Pair};
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::overlay::{DUAL, Overlay, SOON, config, filtered_at_tc, is_fast, is_verified};

/// A stream with a longer gap has stalled.
const STALL: Duration = Duration::from_secs(1);
const PORT: u16 = 7777;

fn start(label: &str, args: &str) -> Overlay {
    let topology = Topology::builder(label).nodes(2).ipv6();
    let overlay = Overlay::start_with(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#), args).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    overlay
}

fn echos(pod: &Pod) -> Vec<Echo> {
    pod.addresses().map(|address| Echo::start(pod.netns(), (address, PORT).into(), 1).unwrap()).collect()
}

/// Both nodes drop what their conntrack cannot place.
fn drop_invalid(overlay: &Overlay) -> [Rules<'_>; 2] {
    [0, 1].map(|node| Rules::drop_invalid(overlay.node(node)).unwrap())
}

/// Deletes the entry of a stream, which conntrack may have picked up at either end's packet.
fn forget(node: &Node, family: &str) {
    let delete =
        |end| node.command("conntrack").words(&format!("-D -f {family} -p tcp --orig-port-{end} {PORT}"));
    wait_for(&format!("an {family} entry to delete"), SOON, || {
        let tried = ["dst", "src"].map(|end| delete(end).output());
        Ok(tried.into_iter().any(|output| output.is_ok_and(|output| output.status.success())))
    })
    .unwrap();
}

#[test]
fn streams_outlive_their_entries_and_their_verification() {
    for args in filtered_at_tc() {
        // Verified six times and more in the course of the transfer.
        let args = args.replace("--verify-interval 2", "--verify-interval 1");
        let overlay = start("entries", &args);
        let _rules = drop_invalid(&overlay);
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let echos = echos(server);
        let stream = |echo: &Echo| Flow::tcp(client.netns(), echo.address(), BULK).unwrap();
        let flows: Vec<_> = echos.iter().map(stream).collect();
        let before = overlay.fast(0).unwrap();
        for _ in 0..2 {
            flows[0].wait_for_more(100, SOON).unwrap();
            for node in overlay.topology.nodes() {
                forget(node, "ipv4");
                forget(node, "ipv6");
            }
            flows[0].wait_for_more(100, SOON).unwrap();
            for node in overlay.topology.nodes() {
                node.command("conntrack").arg("-F").run().unwrap();
            }
            flows[0].wait_for_more(100, SOON).unwrap();
        }
        for flow in flows {
            let outcome = flow.stop().unwrap();
            assert!(outcome.longest_gap < STALL, "{args}: {outcome:?}");
        }
        let after = overlay.fast(0).unwrap();
        if is_fast(&args) {
            assert!(after.0 > before.0 + 1000 && after.1 > before.1 + 1000, "{args}: {before:?} {after:?}");
        }
        assert!(echos.iter().all(|echo| echo.resets() == 0));
    }
}

#[test]
fn more_connections_than_are_remembered_go_on() {
    const CONNECTIONS: usize = 200;
    for args in filtered_at_tc() {
        let args = if is_verified(args) { format!("{args} --max-flows 16") } else { (*args).to_owned() };
        let overlay = start("many", &args);
        let _rules = drop_invalid(&overlay);
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let echos = echos(server);
        let connect = |index: usize| {
            let echo = &echos[index % echos.len()];
            Caller::connect(client.netns(), echo.address(), SOON).unwrap()
        };
        let mut callers: Vec<_> = (0..CONNECTIONS).map(connect).collect();
        for length in [100, 20_000, 100, 20_000, 1] {
            for caller in &mut callers {
                caller.ask(length).unwrap();
            }
        }
        assert!(echos.iter().all(|echo| echo.resets() == 0), "{args}");
    }
}

/// A UDP flow and a TCP connection, opened by the client, in which only the server speaks from then on.
struct ServerSpeaks {
    datagrams: [UdpSocket; 2],
    stream: Pair,
}

impl ServerSpeaks {
    fn open(client: &Pod, server: &Pod, address: IpAddr) -> Self {
        let mut stream = Pair::connect(client.netns(), server.netns(), address).unwrap();
        let listening = sockets::udp(server.netns(), (address, PORT).into()).unwrap();
        let calling = sockets::udp_to(client.netns(), listening.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 100];
        for socket in [&listening, &calling] {
            socket.set_read_timeout(Some(STALL)).unwrap();
        }
        // So much of it that the flows are known for established.
        for round in 0..50 {
            calling.send(&[round]).unwrap();
            let (length, peer) = listening.recv_from(&mut buffer).unwrap();
            listening.connect(peer).unwrap();
            listening.send(&buffer[..length]).unwrap();
            calling.recv(&mut buffer).unwrap();
            stream.client.write_all(&buffer).unwrap();
            stream.server.read_exact(&mut buffer).unwrap();
            stream.server.write_all(&buffer).unwrap();
            stream.client.read_exact(&mut buffer).unwrap();
        }
        stream.client.set_read_timeout(Some(STALL)).unwrap();
        Self { datagrams: [listening, calling], stream }
    }

    fn say_by_udp(&self, word: u8) {
        self.datagrams[0].send(&[word]).unwrap();
    }

    fn hear_by_udp(&self) -> u8 {
        let mut buffer = [0];
        self.datagrams[1].recv(&mut buffer).unwrap();
        buffer[0]
    }

    fn say_and_hear_by_tcp(&mut self) {
        let mut buffer = [0; 5];
        self.stream.server.write_all(b"hello").unwrap();
        self.stream.client.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");
    }
}

/// Entries that see no packet for four seconds run out, and so do those that last saw data and no acknowledgement; and
/// nobody but the client may open. Then the server speaks, now and then by UDP, and by TCP after eight seconds.
#[test]
fn what_a_client_opened_stays_open() {
    const LIFETIMES: [&str; 3] = ["udp_timeout", "udp_timeout_stream", "tcp_timeout_unacknowledged"];
    const BETWEEN_DATAGRAMS: Duration = Duration::from_secs(1);
    const DATAGRAMS: u8 = 8;
    for args in filtered_at_tc() {
        let overlay = start("idle", args);
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let pairs: Vec<_> = client.addresses().zip(server.addresses()).collect();
        let rules = [0, 1].map(|node| {
            let node = overlay.node(node);
            let rules = Rules::allow_to_open(node, Tool::Iptables, &pairs).unwrap();
            for name in LIFETIMES {
                node.netns().sysctl(&[&format!("net.netfilter.nf_conntrack_{name}=4")]).unwrap();
            }
            rules
        });
        let mut talks: Vec<_> =
            server.addresses().map(|address| ServerSpeaks::open(client, server, address)).collect();
        for word in 0..DATAGRAMS {
            for talk in &talks {
                talk.say_by_udp(word);
                assert_eq!(talk.hear_by_udp(), word, "{args}");
            }
            be_idle(&talks[0].datagrams[1], BETWEEN_DATAGRAMS);
        }
        for talk in &mut talks {
            talk.say_and_hear_by_tcp();
        }
        drop(rules);
    }
}

/// Nothing is sent for so long, and nothing comes.
fn be_idle(socket: &UdpSocket, period: Duration) {
    socket.set_read_timeout(Some(period)).unwrap();
    let silence = socket.recv(&mut [0]).unwrap_err();
    assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock, "{silence}");
}
