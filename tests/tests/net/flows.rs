//! `ovl-agent flows`: what a running agent's programs carry, without a question to its loop but where.

use std::process::Output;

use ovl_tests::agent::Agent;
use ovl_tests::artifacts;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{PingInBackground, StreamInBackground};
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::overlay::{EBPF, KERNEL, Overlay, SOON, VERIFIED};

/// Runs the command in the agent's node, where the pins are.
fn run(node: &Node, agent: &Agent, words: &str) -> Output {
    let binary = artifacts::agent_binary().unwrap();
    node.command(binary).arg("flows").arg("--socket").arg(agent.socket()).words(words).output().unwrap()
}

/// What it prints.
fn printed(node: &Node, agent: &Agent, words: &str) -> String {
    let output = run(node, agent, words);
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The flows that fit `filter`, of a protocol.
fn listed(node: &Node, agent: &Agent, filter: &str, protocol: &str) -> Vec<Value> {
    let document: Value = serde_json::from_str(&printed(node, agent, &format!("--json {filter}"))).unwrap();
    let flows = document["flows"].as_array().unwrap();
    flows.iter().filter(|flow| flow["protocol"] == protocol).cloned().collect()
}

fn sum(flows: &[Value], member: &str) -> u64 {
    flows.iter().map(|flow| flow[member].as_u64().unwrap()).sum()
}

#[test]
fn a_ping_and_a_stream_are_listed_with_growing_counts() {
    let mut overlay = Overlay::start(Topology::builder("flows").nodes(2), "vxlan", VERIFIED).unwrap();
    let (client, server) = (&overlay.pods[0], &overlay.pods[1]);
    let ping = PingInBackground::start(client.netns(), server.address()).unwrap();
    let stream = StreamInBackground::start(client, server, 6).unwrap();
    for (index, agent) in overlay.agents.iter().enumerate() {
        let node = overlay.node(index);
        let (local, remote) = (overlay.pods[index].address(), overlay.pods[1 - index].address());
        for (protocol, port) in [("icmp", None), ("tcp", Some(5201))] {
            let look = || listed(node, agent, protocol, protocol);
            let fast = |flows: &[Value]| {
                sum(flows, "packets_out") > 10
                    && sum(flows, "packets_in") > 10
                    && flows.iter().any(|flow| flow["state_out"] == "fast" && flow["state_in"] == "fast")
            };
            wait_for(&format!("fast {protocol}"), SOON, || Ok(fast(&look()))).unwrap();
            let before = look();
            for flow in &before {
                assert_eq!(
                    (&flow["local"], &flow["remote"]),
                    (&local.to_string().into(), &remote.to_string().into())
                );
                // The server's port is at the server's end; of echoes, the identifier is at the client's.
                let (asking, asked) = if index == 0 { ("local", "remote") } else { ("remote", "local") };
                assert_eq!(flow[format!("{asked}_port")].as_u64(), port, "{flow}");
                assert!(flow[format!("{asking}_port")].as_u64().is_some(), "{flow}");
            }
            let more = || {
                let now = look();
                let members = ["packets_out", "packets_in", "bytes_out", "bytes_in"];
                Ok(members.iter().all(|member| sum(&now, member) > sum(&before, member)))
            };
            wait_for(&format!("more {protocol}"), SOON, more).unwrap();
        }

        let page = printed(node, agent, "");
        assert!(page.starts_with("LOCAL ") && page.contains(" tcp ") && page.contains(" icmp "), "{page}");
        assert!(page.contains(":5201 ") && page.contains(" asks, id "), "{page}");
        let last = page.lines().last().unwrap();
        assert!(last.ends_with(" flows shown; the map has room for 262144"), "{page}");
        // The stream has more bytes than the ping.
        assert!(page.lines().nth(1).unwrap().contains(" tcp "), "{page}");
        for (filter, tcp, icmp) in [
            ("tcp", true, false),
            ("udp", false, false),
            ("5201", true, false),
            ("icmp --all", false, true),
            (&format!("{remote} icmp"), false, true),
            ("10.42.255.1", false, false),
        ] {
            let page = printed(node, agent, filter);
            assert_eq!((page.contains(" tcp "), page.contains(" icmp ")), (tcp, icmp), "{filter}: {page}");
        }
        let wrong = run(node, agent, "nonsense");
        assert_eq!(wrong.status.code(), Some(1));
        let status = agent.status().unwrap();
        assert_eq!(status["ebpf"]["max_flows"], 262_144);
        assert!(
            status["ebpf"]["pinned_in"].as_str().unwrap().starts_with("/sys/fs/bpf/ovl/10_42_0_0_16-"),
            "{status}"
        );
    }
    assert_eq!(ping.stop().unwrap().lost(), 0);
    assert!(stream.finish().unwrap().bytes > 0);

    // Where no flows are kept, or none that can be read, it says why.
    for (args, why) in [(EBPF, "runs with --fast-path always"), (KERNEL, "no fast path")] {
        overlay.agents[1].terminate().unwrap();
        overlay.agents[1] = overlay.start_ready(1, args).unwrap();
        let output = run(overlay.node(1), &overlay.agents[1], "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args}: {said}");
        assert!(said.starts_with("error: ") && said.contains(why), "{args}: {said}");
    }
    // The map is of that node alone: from elsewhere it cannot be read, which is no silence either.
    let binary = artifacts::agent_binary().unwrap();
    let elsewhere =
        ovl_tests::command::Cmd::host(binary).arg("flows").arg("--socket").arg(overlay.agents[0].socket());
    let said = String::from_utf8(elsewhere.output().unwrap().stderr).unwrap();
    assert!(
        said.contains("cannot read the flows in /sys/fs/bpf/ovl/") && said.contains("where the agent runs"),
        "{said}"
    );
}
