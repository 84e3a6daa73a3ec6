//! The agent ends, however it ends and for however long, and traffic goes on.

use std::time::Duration;

use ovl_tests::bulk::transfer;
use ovl_tests::echo::Echo;
use ovl_tests::flow::{BULK, Flow};
use ovl_tests::links;
use ovl_tests::sockets::Pair;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground, StreamInBackground};
use ovl_tests::wait::wait_for;

use crate::overlay::{CARRIED, EBPF, Overlay, SOON, is_fast};

/// Programs that outlive their agent act for so long.
const DEAD_MANS_LIMIT: Duration = Duration::from_secs(5);

/// Ends the agent of node 1 under a 10 ms ping and a stream, and starts it again.
fn end_under_traffic(label: &str, args: &str, kill: bool) {
    let mut overlay = Overlay::start(Topology::builder(label).nodes(2), "vxlan", args).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let subnet = overlay.agents[1].subnet().unwrap();
    let (client, server) = (&overlay.pods[0], &overlay.pods[1]);
    let ping = PingInBackground::start(client.netns(), server.address()).unwrap();
    let mut stream = StreamInBackground::paced(client, server, 12).unwrap();
    let enough = Duration::from_secs(10);
    ping.wait_for_more(50, enough).unwrap();

    let agent = &mut overlay.agents[1];
    if kill {
        agent.kill().unwrap();
    } else {
        let status = agent.terminate().unwrap();
        assert!(status.success(), "{status:?}: {}", agent.log_tail());
    }
    ping.wait_for_more(200, enough).unwrap();
    let mut agent = overlay.start_agent(1, args).unwrap();
    agent.wait_ready().unwrap();
    ping.wait_for_more(200, enough).unwrap();
    assert_eq!(agent.subnet().unwrap().cidr(), subnet.cidr(), "the same subnet as before");

    assert!(stream.is_running().unwrap(), "the stream outlived the restart");
    let stream = stream.finish().unwrap();
    // Of a tenth of a second each: no stall, whatever else the machine is doing.
    assert!(stream.silent_intervals < 10, "{stream:?}");
    let ping = ping.stop().unwrap();
    assert_eq!(ping.lost(), 0, "{ping:?}");
    let before = agent.counter("from_wire", "delivered").unwrap();
    overlay.agents[1] = agent;
    traffic::tcp_transfer(&overlay.pods[0], &overlay.pods[1], 20 << 20).unwrap();
    assert!(overlay.fast(1).unwrap().1 > before + 100, "the fast path is back");
}

fn fast() -> impl Iterator<Item = &'static &'static str> {
    CARRIED.iter().filter(|args| is_fast(args))
}

#[test]
fn terminated() {
    for args in fast() {
        end_under_traffic("sigterm", args, false);
    }
}

#[test]
fn killed() {
    for args in fast() {
        end_under_traffic("sigkill", args, true);
    }
}

#[test]
fn killed_with_filters_that_outlive_it() {
    end_under_traffic("sigkill-cls", &format!("{EBPF} --tc-attach clsact"), true);
}

/// Nobody looks after the nodes any more, one of which has filters that stay: in the end the kernel carries everything,
/// as it counts itself on its tunnel device, and nothing breaks on the way there.
#[test]
fn dead_for_longer_than_programs_may_act() {
    for args in CARRIED {
        let mut overlay = Overlay::without_agents(Topology::builder("dead").nodes(2), "vxlan").unwrap();
        let filters = if is_fast(args) { " --tc-attach clsact" } else { "" };
        for (index, attach) in ["", filters].into_iter().enumerate() {
            let agent = overlay.start_ready(index, &format!("{args}{attach}")).unwrap();
            overlay.agents.push(agent);
        }
        for (node, agent) in overlay.topology.nodes().iter().zip(&overlay.agents) {
            agent.wait_for_peers(1).unwrap();
            overlay.pods.push(node.add_pod("a", &agent.subnet().unwrap()).unwrap());
        }
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let echo = Echo::start(server.netns(), (server.address(), 7777).into(), 1).unwrap();
        let stream = Flow::tcp(client.netns(), echo.address(), BULK).unwrap();
        let ping = PingInBackground::start(client.netns(), server.address()).unwrap();
        stream.wait_for_more(50, SOON).unwrap();
        for node in [0, 1] {
            let (out, into) = overlay.fast(node).unwrap();
            assert_eq!(is_fast(args), out > 50 && into > 50, "{args}: {out} {into}");
        }
        for agent in &mut overlay.agents {
            agent.kill().unwrap();
        }
        let devices = || [0, 1].map(|node| links::packets(overlay.node(node).netns(), "flannel.1").unwrap());
        wait_for("the kernel to carry everything", DEAD_MANS_LIMIT + SOON, || {
            let before = (devices(), stream.answered());
            stream.wait_for_more(10, SOON)?;
            let (after, messages) = (devices(), stream.answered() - before.1);
            let carries = |node: usize| {
                let (before, after) = (before.0[node], after[node]);
                (after.received - before.received).min(after.sent - before.sent) >= messages
            };
            Ok(carries(0) && carries(1))
        })
        .unwrap();
        let before = devices();
        let pair = Pair::connect(client.netns(), server.netns(), server.address()).unwrap();
        transfer(&pair.client, &pair.server, 20 << 20).unwrap();
        transfer(&pair.server, &pair.client, 20 << 20).unwrap();
        for (before, after) in before.iter().zip(devices()) {
            let [received, sent] = [after.received - before.received, after.sent - before.sent];
            assert!(received > 300 && sent > 300, "{args}: {received} in, {sent} out");
        }
        let outcome = stream.stop().unwrap();
        assert!(outcome.longest_gap < Duration::from_secs(1), "{args}: {outcome:?}");
        let ping = ping.stop().unwrap();
        assert_eq!(ping.lost(), 0, "{args}: {ping:?}");
    }
}
