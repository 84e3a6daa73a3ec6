//! Filters, which see packets before or after ours by their priorities.

use anyhow::{Context as _, Result};
use ovl_tests::agent::Agent;
use ovl_tests::echo::Echo;
use ovl_tests::flow::{Flow, SMALL};
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use super::foreign::{self, Foreign, Verdict};
use super::wait_for_silence;
use crate::overlay::{KERNEL, Overlay, SOON, VERIFIED, wait_until_seen};

/// The interfaces of a node whose ingress both paths pass, and the program there.
const PLACES: [(&str, &str); 2] = [("veth0", "from_pod"), ("eth0", "from_wire")];

/// The packets that a program has seen, and those that it took out of the kernel's hands.
fn seen(agent: &Agent, program: &str) -> Result<(u64, u64)> {
    let status = agent.status()?;
    let rows = status["counters"].as_array().context("the status has no counters")?;
    let rows = rows.iter().filter(|row| row["program"] == program);
    Ok(rows.fold((0, 0), |(all, fast), row| {
        let packets = row["packets"].as_u64().unwrap_or(0);
        let is_fast = row["reason"] == "forwarded" || row["reason"] == "delivered";
        (all + packets, fast + if is_fast { packets } else { 0 })
    }))
}

/// The filters of others.
fn others(node: &Node) -> Vec<String> {
    let shown = PLACES.map(|(interface, _)| {
        node.command("tc").words(&format!("filter show dev {interface} ingress")).run().unwrap()
    });
    let lines = shown.iter().flat_map(|shown| shown.lines());
    lines.filter(|line| line.contains(foreign::NAME)).map(str::to_owned).collect()
}

/// Filters before and behind ours, which have priority 111: as tcx programs ours come before both.
#[test]
fn filters_see_what_the_fast_path_leaves_to_the_kernel() {
    let _counting = foreign::count_runs().unwrap();
    for attach in ["tcx", "clsact"] {
        let args = format!("{VERIFIED} --tc-attach {attach}");
        let topology = Topology::builder("coexist").nodes(2);
        let mut overlay = Overlay::start(topology, "vxlan", &args).unwrap();
        let node = overlay.topology.node(0).unwrap();
        // Filters that are there before ours would keep the fast path away from a pod.
        wait_until_seen(&overlay.agents, || traffic::ping_all_pairs(&overlay.pods)).unwrap();
        let strangers = PLACES.map(|(interface, _)| {
            // The agent may have made it.
            node.command("tc").words(&format!("qdisc add dev {interface} clsact")).output().unwrap();
            [50, 200].map(|preference| {
                let stranger = Foreign::load(Verdict::Next).unwrap();
                stranger.become_filter(node, interface, preference).unwrap();
                stranger
            })
        });
        let placed = others(node);
        assert_eq!(placed.len(), 4, "{placed:#?}");

        let counts = || {
            [0, 1].map(|place| {
                let (all, fast) = seen(&overlay.agents[0], PLACES[place].1).unwrap();
                let [early, late] = [0, 1].map(|index| strangers[place][index].runs().unwrap());
                [all, fast, early, late]
            })
        };
        let before = counts();
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let echo = Echo::start(server.netns(), (server.address(), 7777).into(), 1).unwrap();
        let flow = Flow::tcp(client.netns(), echo.address(), SMALL).unwrap();
        flow.wait_for_more(150, SOON).unwrap();
        assert_eq!(flow.stop().unwrap().lost(), 0);
        // The one question and the other are not asked at the same time.
        let mut told = Vec::new();
        wait_for("both to have counted the same", SOON, || {
            let after = counts();
            told = before
                .iter()
                .zip(&after)
                .map(|(b, a)| [0, 1, 2, 3].map(|count| a[count] - b[count]))
                .collect();
            Ok(told.iter().all(|[all, fast, early, late]| {
                let before_ours = if attach == "tcx" { all - fast } else { *all };
                *fast > 100 && *late > 0 && *early == before_ours && *late == all - fast
            }))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {attach}: seen, fast, before, behind: {told:?}"));

        if attach == "clsact" {
            // What is dropped before ours is not there for it, fast or not.
            let flow = Flow::tcp(client.netns(), echo.address(), SMALL).unwrap();
            flow.wait_for_more(100, SOON).unwrap();
            let drop = Foreign::load(Verdict::Drop).unwrap();
            drop.become_filter(node, "eth0", 49).unwrap();
            wait_for_silence(&flow);
            node.command("tc").words("filter del dev eth0 ingress pref 49").run().unwrap();
            flow.wait_for_more(10, SOON).unwrap();
        }
        for args in [args.as_str(), KERNEL] {
            overlay.agents[0].kill().unwrap();
            overlay.agents[0] = overlay.start_ready(0, args).unwrap();
            assert_eq!(others(node), placed, "{args}");
        }
    }
}
