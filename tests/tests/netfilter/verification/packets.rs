//! Which packets get the bit, as a chain sees that comes after ours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ovl_agent::firewall::Verification;
use ovl_tests::dialogue::Dialogue;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use super::path::{CLIENT, OUTSIDE, SERVER, Way, in_url};
use super::{BIT, ensure_well, marking};
use crate::SOON;

/// A router whose forwarded packets are marked, and counted by their mark.
struct Router {
    way: Way,
    _verification: Verification,
}

/// How many packets had which mark.
type Marks = BTreeMap<u64, u64>;

impl Router {
    fn new() -> Self {
        let way = Way::new();
        let verification = way.inside(|| {
            let mut verification = Verification::new("flannel.1");
            ensure_well(&mut verification, &marking());
            verification
        });
        let router = Self { way, _verification: verification };
        router.with("");
        router
    }

    /// What else there is in the router's rules: chains of an `inet` table.
    fn with(&self, chains: &str) {
        self.way.sh(&format!(
            "nft -f - <<'END'
             table inet probe
             delete table inet probe
             table inet probe {{
                 set marks {{ typeof meta mark; flags dynamic; size 99; }}
                 chain after {{
                     type filter hook forward priority 2000000001;
                     add @marks {{ meta mark counter }}
                 }}
                 {chains}
             }}
END"
        ));
    }

    /// What passed since it was last forgotten.
    fn marks(&self) -> Marks {
        let json: Value = serde_json::from_str(&self.way.sh("nft -j list set inet probe marks")).unwrap();
        let Some(elements) = json["nftables"][1]["set"]["elem"].as_array() else { return Marks::new() };
        let count = |element: &Value| {
            let element = &element["elem"];
            (element["val"].as_u64().unwrap(), element["counter"]["packets"].as_u64().unwrap())
        };
        elements.iter().map(count).collect()
    }

    fn forget(&self) {
        self.way.sh("conntrack -F 2>&1; nft flush set inet probe marks");
    }

    /// The marks of three pings and their answers.
    fn ping(&self, to: &str) -> Marks {
        // Who looks for a neighbour's MAC sends more than one before the first answer.
        traffic::ping(&self.way.client, to.parse::<IpAddr>().unwrap()).unwrap();
        self.forget();
        self.way.client.command("ping").words(&format!("-n -c 3 -i 0.01 -W 5 {to}")).run().unwrap();
        self.marks()
    }
}

/// So many packets without any mark, and with the bit.
fn plain_and_marked(plain: u64, marked: u64) -> Marks {
    [(0, plain), (BIT.into(), marked)].into_iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn packets_are_marked_from_the_first_answer_on() {
    let router = Router::new();
    let _server = router.way.serve(80);
    for server in SERVER {
        assert_eq!(router.ping(server), plain_and_marked(1, 5), "{server}");

        // Nobody listens: one packet, and the error is no answer.
        router.forget();
        let datagram = format!("echo | socat -u - UDP:{}:9", in_url(server));
        router.way.client.command("sh").args(["-c", &datagram]).run().unwrap();
        let both = || Ok(router.marks() == plain_and_marked(2, 0));
        wait_for("the datagram and the error", SOON, both).unwrap();

        router.forget();
        router.way.connect(server, 80, 40_000).finish().unwrap();
        let marks = router.marks();
        assert_eq!(marks[&0], 1, "{server}: the SYN and no other");
        assert!(marks[&BIT.into()] >= 5 && marks.len() == 2, "{server}: {marks:?}");
    }
    for outside in OUTSIDE {
        assert_eq!(router.ping(outside), plain_and_marked(6, 0), "{outside}");
    }
}

#[test]
fn what_is_translated_or_not_tracked_is_not_marked() {
    let router = Router::new();
    for (to, chain) in [
        (
            "10.42.3.3",
            "chain c { type nat hook prerouting priority dstnat; ip daddr 10.42.3.3 dnat to 10.42.2.2; }",
        ),
        (SERVER[0], "chain c { type nat hook postrouting priority srcnat; ip saddr 10.42.1.2 masquerade; }"),
        (SERVER[0], "chain c { type filter hook prerouting priority raw; notrack; }"),
        (SERVER[1], "chain c { type filter hook prerouting priority raw; notrack; }"),
    ] {
        router.with(chain);
        assert_eq!(router.ping(to), plain_and_marked(6, 0), "{chain}");
    }
    // Rules for a translation that are not for this connection change nothing.
    router.with("chain c { type nat hook postrouting priority srcnat; ip saddr 10.99.0.1 masquerade; }");
    assert_eq!(router.ping(SERVER[0]), plain_and_marked(1, 5));
}

#[test]
fn no_other_bit_and_no_other_packet_changes() {
    let router = Router::new();
    let marked_as = |mark: u32| {
        format!("chain c {{ type filter hook prerouting priority raw; meta mark set {mark:#x}; }}")
    };
    let (all, others) = (u64::from(u32::MAX), u64::from(!BIT));
    for (server, outside) in SERVER.into_iter().zip(OUTSIDE) {
        router.with(&marked_as(u32::MAX));
        assert_eq!(router.ping(server), [(others, 1), (all, 5)].into(), "{server}");
        assert_eq!(router.ping(outside), [(all, 6)].into(), "{outside}");
        router.with(&marked_as(!BIT));
        assert_eq!(router.ping(server), [(others, 1), (all, 5)].into(), "{server}");
        assert_eq!(router.ping(outside), [(others, 6)].into(), "{outside}");
    }
    // Restored from the mark of a connection that is not tracked any more.
    router.with("chain c { type filter hook prerouting priority raw; notrack meta mark set 0xffffffff; }");
    assert_eq!(router.ping(SERVER[0]), [(others, 6)].into());
}

#[test]
fn what_a_helper_reads_is_not_marked_nor_what_it_announced() {
    let router = Router::new();
    router.with(
        "ct helper ftp { type \"ftp\" protocol tcp; }
         chain c { type filter hook prerouting priority 0; tcp dport 21 ct helper set \"ftp\"; }",
    );
    let _servers = [router.way.serve(21), router.way.serve(80)];
    router.forget();
    let mut control = router.way.connect(SERVER[0], 21, 40_000);
    // "Connect to my port 200 * 256 + 1."
    control.say("PORT 10,42,1,2,200,1\r\n").unwrap();
    control.hear("PORT").unwrap();
    let marks = router.marks();
    assert!(marks[&0] >= 6 && marks.len() == 1, "the connection that is read: {marks:?}");

    let listen = router.way.client.command("socat").args(["TCP-LISTEN:51201", "PIPE"]);
    let _listener = Dialogue::start(&listen).unwrap();
    super::path::wait_for_listener(&router.way.client, 51201);
    let announced = router.way.server.command("socat").arg("-").arg(format!("TCP:{}:51201", CLIENT[0]));
    let mut data = Dialogue::start(&announced).unwrap();
    data.say("hello\n").unwrap();
    data.hear("hello").unwrap();
    let announced = router.way.sh("conntrack -L -u EXPECTED -p tcp --orig-port-dst 51201 2>&1");
    assert!(announced.contains("ESTABLISHED"), "{announced}");
    let marks = router.marks();
    assert!(marks[&0] >= 10 && marks.len() == 1, "the one that it announced: {marks:?}");
    // The same without having been announced.
    router.forget();
    router.way.connect(SERVER[0], 80, 40_001).finish().unwrap();
    assert_eq!(router.marks()[&0], 1);
}
