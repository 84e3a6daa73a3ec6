//! Firewall rules of other tools hold whatever path packets take: before a connection, in the midst of one, and in one
//! direction only.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ovl_tests::echo::{Caller, Echo, ask_once};
use ovl_tests::firewall::{Rules, Tool};
use ovl_tests::flow::{Flow, SMALL};
use ovl_tests::netns::Netns;
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground};
use ovl_tests::wait::wait_for;

use crate::overlay::{DUAL, Overlay, SOON, config, filtered_at_tc, is_fast, is_verified};

/// How long it is listened whether something comes in spite of a rule.
const PATIENCE: Duration = Duration::from_millis(250);
/// A flow of a message every 10 ms that is silent for so long has stopped.
const SILENCE: Duration = Duration::from_millis(500);

/// Two nodes, a pod on each, and a server at every address of both.
fn start(label: &str, args: &str) -> (Overlay, Vec<Echo>) {
    let topology = Topology::builder(label).nodes(2).ipv6();
    let overlay = Overlay::start_with(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#), args).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let echo = |pod: &Pod, address| Echo::start(pod.netns(), (address, 7777).into(), 1).unwrap();
    let echos =
        overlay.pods.iter().flat_map(|pod| pod.addresses().map(move |address| echo(pod, address))).collect();
    (overlay, echos)
}

/// The addresses of one pod with those of another, family by family.
fn pairs(from: &Pod, to: &Pod) -> Vec<(IpAddr, IpAddr)> {
    from.addresses().zip(to.addresses()).collect()
}

/// Which protocols get an answer from `to`, all tried at once.
fn reach(from: &Netns, to: IpAddr) -> [(&'static str, bool); 3] {
    let socket: SocketAddr = (to, 7777).into();
    let wait = PATIENCE.as_secs_f64().to_string();
    std::thread::scope(|scope| {
        let tcp =
            scope.spawn(|| Caller::connect(from, socket, PATIENCE).is_ok_and(|mut call| call.ask(9).is_ok()));
        let udp = scope.spawn(|| ask_once(from, socket, PATIENCE).is_ok());
        let ping = from.command("ping").words("-n -c 1 -W").arg(wait).arg(to.to_string());
        let ping = ping.output().unwrap().status.success();
        [("TCP", tcp.join().unwrap()), ("UDP", udp.join().unwrap()), ("ping", ping)]
    })
}

const NOTHING: [(&str, bool); 3] = [("TCP", false), ("UDP", false), ("ping", false)];
const EVERYTHING: [(&str, bool); 3] = [("TCP", true), ("UDP", true), ("ping", true)];

#[test]
fn a_rule_in_force_before_a_connection_blocks_it() {
    for args in filtered_at_tc() {
        let (overlay, _echos) = start("block", args);
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        for (there, back) in pairs(client, server) {
            assert_eq!(reach(client.netns(), back), EVERYTHING, "{args}");
            for tool in [Tool::Iptables, Tool::Legacy, Tool::Nft] {
                for (node, pair) in
                    [(0, (there, back)), (0, (back, there)), (1, (there, back)), (1, (back, there))]
                {
                    let rules = Rules::drop_forwarded(overlay.node(node), tool, &[pair]).unwrap();
                    let reached = reach(client.netns(), back);
                    assert_eq!(reached, NOTHING, "{args}: {tool:?} on node {node} drops {pair:?}");
                    rules.lift().unwrap();
                }
            }
            wait_for("everything to arrive again", SOON, || Ok(reach(client.netns(), back) == EVERYTHING))
                .unwrap();
        }
    }
}

/// Everything that goes on between two pods, in every family.
struct Traffic {
    flows: Vec<Flow>,
    pings: Vec<PingInBackground>,
}

impl Traffic {
    fn start(client: &Pod, server: &Pod) -> Self {
        let netns = client.netns();
        let flows = server.addresses().flat_map(|address| {
            let to = (address, 7777).into();
            [Flow::tcp(netns, to, SMALL).unwrap(), Flow::udp(netns, to, SMALL).unwrap()]
        });
        let pings = server.addresses().map(|address| PingInBackground::start(netns, address).unwrap());
        Self { flows: flows.collect(), pings: pings.collect() }
    }

    fn answers(&self) -> Vec<u64> {
        let pings = self.pings.iter().map(|ping| ping.received() as u64);
        self.flows.iter().map(Flow::answered).chain(pings).collect()
    }

    /// All of it goes on.
    fn wait_for_more(&self) {
        let before = self.answers();
        wait_for("more answers to everything", SOON * 2, || {
            for flow in &self.flows {
                flow.check()?;
            }
            Ok(self.answers().iter().zip(&before).all(|(now, before)| now - before >= 30))
        })
        .unwrap();
    }

    /// How long after `begin` the last answer of any came, once there are no more.
    fn wait_for_silence(&self, what: &str, begin: Instant) -> Duration {
        let (mut answers, mut changed) = (self.answers(), begin);
        wait_for(&format!("no more answers with {what}"), SOON * 2, || {
            let now = self.answers();
            if now != answers {
                (answers, changed) = (now, Instant::now());
            }
            Ok(changed.elapsed() > SILENCE)
        })
        .unwrap();
        changed - begin
    }
}

/// When a rule must be in force for flows that were there before it. The kernel tells of changes that are made through
/// nftables; others are found when flows are verified, every two seconds.
fn takes_effect_within(args: &str, tool: Tool) -> Duration {
    Duration::from_secs(if is_verified(args) && tool == Tool::Legacy { 3 } else { 1 })
}

#[test]
fn a_rule_stops_what_is_established_and_lets_it_go_on_once_lifted() {
    for args in filtered_at_tc() {
        let (overlay, _echos) = start("stop", args);
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let traffic = Traffic::start(client, server);
        for (tool, node, (from, to)) in [
            (Tool::Iptables, 0, (client, server)),
            (Tool::Iptables, 1, (server, client)),
            (Tool::Legacy, 0, (server, client)),
            (Tool::Legacy, 1, (client, server)),
            (Tool::Nft, 0, (client, server)),
            (Tool::Nft, 1, (server, client)),
        ] {
            let before = [0, 1].map(|node| overlay.fast(node).unwrap());
            traffic.wait_for_more();
            if is_fast(args) {
                let after = [0, 1].map(|node| overlay.fast(node).unwrap());
                let carried = |node: usize| after[node].0 - before[node].0 + after[node].1 - before[node].1;
                assert!(
                    carried(0) > 60 && carried(1) > 60,
                    "{args}: not the fast path: {before:?} {after:?}"
                );
            }
            let what = format!("{args}: {tool:?} on node {node} drops {} to {}", from.label(), to.label());
            let begin = Instant::now();
            let rules = Rules::drop_forwarded(overlay.node(node), tool, &pairs(from, to)).unwrap();
            let stopped = traffic.wait_for_silence(&what, begin);
            assert!(stopped < takes_effect_within(args, tool), "{what}: only after {stopped:?}");
            rules.lift().unwrap();
        }
        traffic.wait_for_more();
        for flow in traffic.flows {
            flow.stop().unwrap();
        }
    }
}

#[test]
fn who_may_only_answer_never_opens() {
    for args in filtered_at_tc() {
        let (overlay, _echos) = start("one-way", args);
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        for (tool, node) in [(Tool::Iptables, 0), (Tool::Legacy, 1), (Tool::Nft, 1)] {
            let pairs = pairs(client, server);
            let _rules = Rules::allow_to_open(overlay.node(node), tool, &pairs).unwrap();
            let traffic = Traffic::start(client, server);
            let nothing_opens = |when: &str| {
                for address in client.addresses() {
                    let reached = reach(server.netns(), address);
                    assert_eq!(reached, NOTHING, "{args}: {tool:?} on node {node}, {when}");
                }
            };
            nothing_opens("at first");
            traffic.wait_for_more();
            nothing_opens("while all goes fast");
            for flow in traffic.flows {
                assert_eq!(flow.stop().unwrap().lost(), 0);
            }
            nothing_opens("once it is quiet");
        }
    }
}
