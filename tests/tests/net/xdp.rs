//! Tunnels stripped by XDP. That everything else is as without it, the other tests see, which have a set of arguments
//! with it.

use std::fs::File;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use nix::sched::{CloneFlags, setns};
use ovl_tests::artifacts;
use ovl_tests::links::ip_json;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, Destination, PingInBackground, StreamInBackground};
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::overlay::{DUAL, Overlay, SOON, VERIFIED, XDP, config, wait_until_seen};

/// What runs on a node's underlay device, as `ip` says it: the mode and the program's name.
fn program(node: &Node) -> Option<(&'static str, String)> {
    let links = ip_json(node.netns(), "-d link show dev eth0").unwrap();
    let xdp = &links[0]["xdp"];
    let mode = match xdp["mode"].as_u64()? {
        1 => "native",
        2 => "skb",
        other => panic!("mode {other}"),
    };
    Some((mode, xdp["prog"]["name"].as_str().unwrap().to_owned()))
}

fn ours(mode: &'static str) -> (&'static str, String) {
    (mode, "from_wire_xdp".to_owned())
}

/// What an agent says of it: the mode and the reason.
fn said(status: &Value) -> (String, String) {
    let text = |name: &str| status["ebpf"][name].as_str().unwrap().to_owned();
    (text("xdp"), text("xdp_reason"))
}

fn strips(mode: &'static str, underlay: &str) {
    let config = config(&[DUAL], r#"{"Type":"vxlan"}"#);
    let args = format!("{VERIFIED} --xdp {mode} --underlay-family {underlay}");
    let overlay = Overlay::start_with(Topology::builder("xdp").ipv6(), &config, &args).unwrap();
    for (node, agent) in overlay.topology.nodes().iter().zip(&overlay.agents) {
        assert_eq!(program(node), Some(ours(mode)));
        assert_eq!(said(&agent.status().unwrap()), (mode.to_owned(), format!("--xdp {mode}")));
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let (client, server) = (&overlay.pods[from], &overlay.pods[to]);
        for server in Destination::all(server) {
            let ping = PingInBackground::start(client.netns(), server.address).unwrap();
            let stripped = || overlay.agents[from].counter("from_wire_xdp", "stripped");
            let before = stripped().unwrap();
            wait_for(&format!("answers of {} to be stripped", server.address), 4 * SOON, || {
                Ok(stripped()? > before + 10)
            })
            .with_context(|| format!("{:#?}", overlay.agents[from].counters()))
            .unwrap();
            traffic::tcp_intact(client, server, 1 << 20, overlay.topology.dir()).unwrap();
            traffic::udp_intact(client, server, 1200, overlay.topology.dir()).unwrap();
            assert_eq!(ping.stop().unwrap().lost(), 0);
        }
    }
    for agent in &overlay.agents {
        let counters = agent.counters().unwrap();
        assert_eq!(counters.packets("from_wire_xdp", "mangled"), 0);
        assert_eq!(counters.packets("from_wire", "mangled"), 0);
        assert_eq!(counters.packets("from_wire_xdp", "metadata"), 0);
        assert!(counters.packets("from_wire", "delivered") > 0);
    }
}

#[test]
fn natively_over_ipv4() {
    strips("native", "ipv4");
}

#[test]
fn natively_over_ipv6() {
    strips("native", "ipv6");
}

/// The stack's own copies packets, and on kernels since 6.9 tc does not find their Ethernet headers any more.
#[test]
fn generically_or_not_at_all() {
    let args = format!("{VERIFIED} --xdp skb");
    let overlay = Overlay::start(Topology::builder("xdp-skb"), "vxlan", &args).unwrap();
    let (node, agent) = (overlay.node(1), &overlay.agents[1]);
    let symbols = node.command("cat").arg("/proc/kallsyms").run().unwrap();
    let is_refused = symbols.contains(" skb_cow_data_for_xdp\n");
    let (mode, reason) = said(&agent.status().unwrap());
    if is_refused {
        assert_eq!((mode.as_str(), program(node)), ("off", None));
        assert!(reason.contains("without their Ethernet header"), "{reason}");
    } else {
        assert_eq!((mode.as_str(), program(node)), ("skb", Some(ours("skb"))));
    }
    let ping = PingInBackground::start(overlay.pods[0].netns(), overlay.pods[1].address()).unwrap();
    wait_for("pings to go fast", SOON, || Ok(overlay.fast(1)?.1 > 10)).unwrap();
    traffic::tcp_intact(&overlay.pods[0], &overlay.pods[1], 4 << 20, overlay.topology.dir()).unwrap();
    assert_eq!(ping.stop().unwrap().lost(), 0);
    let stripped = agent.counter("from_wire_xdp", "stripped").unwrap();
    assert_eq!(stripped > 0, !is_refused, "{stripped}");
}

/// What it is for: the kernel aggregates what is inside.
#[test]
fn a_stream_is_aggregated_after_it_was_stripped() {
    let overlay = Overlay::start(Topology::builder("xdp-gro"), "vxlan", XDP).unwrap();
    wait_until_seen(&overlay.agents, || traffic::ping_all_pairs(&overlay.pods)).unwrap();
    traffic::tcp_transfer(&overlay.pods[0], &overlay.pods[1], 100 << 20).unwrap();
    let counters = overlay.agents[1].counters().unwrap();
    let stripped = counters.packets("from_wire_xdp", "stripped");
    let delivered = counters.packets("from_wire", "delivered");
    assert!(stripped > (100 << 20) / 1500 / 2, "{stripped}");
    assert!(delivered < stripped / 2, "{delivered} packets at tc of {stripped} at XDP");
}

/// Frames of several pages come in several buffers.
#[test]
fn jumbo_frames() {
    let overlay = Overlay::start(Topology::builder("xdp-jumbo").mtu(9000), "vxlan", XDP).unwrap();
    assert_eq!(program(overlay.node(0)), Some(ours("native")));
    wait_until_seen(&overlay.agents, || traffic::ping_all_pairs(&overlay.pods)).unwrap();
    let (client, server) = (&overlay.pods[0], &overlay.pods[1]);
    traffic::tcp_intact(client, server, 20 << 20, overlay.topology.dir()).unwrap();
    let counters = overlay.agents[1].counters().unwrap();
    assert!(counters.packets("from_wire_xdp", "stripped") > 1000);
    assert_eq!(counters.packets("from_wire_xdp", "short"), 0);
}

/// A veth is what `auto` knows to lose by it.
#[test]
fn auto_leaves_a_veth_alone_and_says_why() {
    let args = format!("{VERIFIED} --xdp auto");
    let overlay = Overlay::start(Topology::builder("xdp-auto"), "vxlan", &args).unwrap();
    let (mode, reason) = said(&overlay.agents[0].status().unwrap());
    assert_eq!(mode, "off");
    assert!(reason.starts_with("--xdp auto: eth0 is a veth"), "{reason}");
    assert_eq!(program(overlay.node(0)), None);
}

/// What is not to be had is said and left out; traffic goes on as without.
#[test]
fn refusals_are_named_and_cost_nothing() {
    let mut overlay = Overlay::start(Topology::builder("xdp-busy"), "vxlan", VERIFIED).unwrap();
    let netns = format!("/run/netns/{}", overlay.node(0).netns().name());
    // Ours without its agent, which leaves every packet alone: to the agent it is somebody else's.
    let others = thread::spawn(move || {
        setns(File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        let mut object = Ebpf::load_file(artifacts::bpf_object().unwrap()).unwrap();
        let program: &mut Xdp = object.program_mut("from_wire_xdp").unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach("eth0", XdpMode::Driver).unwrap();
        object
    });
    let others = others.join().unwrap();
    overlay.agents[0].terminate().unwrap();
    overlay.agents[0] = overlay.start_ready(0, XDP).unwrap();
    let (mode, reason) = said(&overlay.agents[0].status().unwrap());
    assert_eq!(mode, "off");
    assert!(reason.contains("another program of XDP is attached there"), "{reason}");
    let before = overlay.fast(0).unwrap();
    traffic::tcp_transfer(&overlay.pods[0], &overlay.pods[1], 20 << 20).unwrap();
    let after = overlay.fast(0).unwrap();
    assert!(after.0 > before.0 + 100 && after.1 > before.1, "the program at tc strips");
    assert_eq!(program(overlay.node(0)), Some(ours("native")), "the other's stays");
    drop(others);
}

/// From one mode to the others, by restarts, under traffic.
#[test]
fn modes_change_under_traffic() {
    let mut overlay = Overlay::start(Topology::builder("xdp-modes"), "vxlan", VERIFIED).unwrap();
    let (client, server) = (&overlay.pods[0], &overlay.pods[1]);
    let ping = PingInBackground::start(client.netns(), server.address()).unwrap();
    let mut stream = StreamInBackground::paced(client, server, 25).unwrap();
    ping.wait_for_more(20, SOON).unwrap();
    for mode in ["native", "off", "native"] {
        overlay.agents[1].terminate().unwrap();
        overlay.agents[1] = overlay.start_ready(1, &format!("{VERIFIED} --xdp {mode}")).unwrap();
        let expected = (mode != "off").then(|| ours(mode));
        let node = overlay.node(1);
        wait_for(&format!("eth0 to be in mode {mode}"), SOON, || Ok(program(node) == expected)).unwrap();
        ping.wait_for_more(100, Duration::from_secs(10)).unwrap();
    }
    assert!(stream.is_running().unwrap(), "the stream outlived the changes");
    let stream = stream.finish().unwrap();
    assert!(stream.silent_intervals < 10, "{stream:?}");
    assert_eq!(ping.stop().unwrap().lost(), 0);
}

/// An agent that was killed leaves its program attached, which the next one replaces or takes off, and `cleanup` removes.
#[test]
fn nothing_is_left_of_an_agent_that_was_killed() {
    let mut overlay = Overlay::start(Topology::builder("xdp-left"), "vxlan", XDP).unwrap();
    overlay.agents[0].kill().unwrap();
    assert_eq!(program(overlay.node(0)), Some(ours("native")), "its pin keeps it");
    overlay.agents[0] = overlay.start_ready(0, XDP).unwrap();
    assert_eq!(program(overlay.node(0)), Some(ours("native")));
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    overlay.agents[0].kill().unwrap();
    let agent = artifacts::agent_binary().unwrap();
    overlay.node(0).command(agent).words("cleanup --only-pins").run().unwrap();
    assert_eq!(program(overlay.node(0)), None);
    overlay.agents[0] = overlay.start_ready(0, XDP).unwrap();
    overlay.agents[0].kill().unwrap();
    overlay.agents[0] = overlay.start_ready(0, VERIFIED).unwrap();
    let node = overlay.node(0);
    wait_for("the program to be taken off", SOON, || Ok(program(node).is_none())).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}
