//! The agent ends, however it ends, and traffic goes on.

use std::time::Duration;

use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground, StreamInBackground};

use crate::overlay::{EBPF, Overlay};

/// Ends the agent of node 1 under a 10 ms ping and a stream, and starts it again.
fn end_under_traffic(label: &str, args: &str, kill: bool) {
    let mut overlay = Overlay::start(Topology::builder(label).nodes(2), "vxlan", args).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let subnet = overlay.agents[1].subnet().unwrap();
    let (client, server) = (&overlay.pods[0], &overlay.pods[1]);
    let ping = PingInBackground::start(client.netns(), server.address()).unwrap();
    let mut stream = StreamInBackground::start(client, server, 12).unwrap();
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

#[test]
fn terminated() {
    end_under_traffic("sigterm", EBPF, false);
}

#[test]
fn killed() {
    end_under_traffic("sigkill", EBPF, true);
}

#[test]
fn killed_with_filters_that_outlive_it() {
    end_under_traffic("sigkill-cls", &format!("{EBPF} --tc-attach clsact"), true);
}
