//! clsact filters outlive their agent, and the next one replaces them where they stand. `tc monitor` tells of every
//! change, however short.

use std::collections::BTreeSet;

use ovl_tests::background::Background;
use ovl_tests::echo::Echo;
use ovl_tests::flow::{Flow, SMALL};
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground};
use ovl_tests::wait::wait_for;

use crate::attachments::attached;
use crate::overlay::{Overlay, SOON, VERIFIED};

/// Our filters in a node: place, priority, handle and program.
fn filters(node: &Node) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for place in ["eth0 ingress", "flannel.1 egress", "veth0 ingress", "veth0 egress"] {
        let shown = node.command("tc").words(&format!("filter show dev {place}")).run().unwrap();
        let ours = shown.lines().filter(|line| line.contains("handle"));
        found.extend(ours.map(|line| {
            let known: Vec<&str> =
                line.split_whitespace().take_while(|word| *word != "direct-action").collect();
            (place.to_owned(), known.join(" "))
        }));
    }
    found
}

#[test]
fn filters_are_replaced_where_they_stand() {
    let args = format!("{VERIFIED} --tc-attach clsact");
    let mut overlay = Overlay::start(Topology::builder("filters").nodes(2), "vxlan", &args).unwrap();
    let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let echo = Echo::start(server.netns(), (server.address(), 7777).into(), 1).unwrap();
    let flow = Flow::tcp(client.netns(), echo.address(), SMALL).unwrap();
    let ping = PingInBackground::start(client.netns(), server.address()).unwrap();
    let node = overlay.topology.node(0).unwrap();
    wait_for("a filter in each place", SOON, || Ok(filters(node).len() == 4)).unwrap();
    let before = filters(node);
    assert!(before.iter().all(|(_, filter)| filter.contains("pref 111 bpf")), "{before:?}");
    let changes = Background::start_unnamed(&node.command("tc").arg("monitor")).unwrap();
    // The monitor listens once it tells of something.
    wait_for("the monitor to listen", SOON, || {
        for change in ["add", "del"] {
            let foreign = format!("qdisc {change} dev lo clsact");
            node.command("tc").words(&foreign).output()?;
        }
        Ok(changes.log().contains("dev lo"))
    })
    .unwrap();

    for kill in [true, false] {
        let agent = &mut overlay.agents[0];
        if kill { agent.kill() } else { agent.terminate() }.unwrap();
        assert_eq!(filters(node), before, "they outlive the agent");
        ping.wait_for_more(50, SOON).unwrap();
        overlay.agents[0] = overlay.start_ready(0, &args).unwrap();
        let agent = &overlay.agents[0];
        agent.wait_for_peers(1).unwrap();
        let carried = agent.counter("from_pod", "forwarded").unwrap();
        wait_for("the flow to be fast again", SOON, || {
            Ok(agent.counter("from_pod", "forwarded")? > carried + 100)
        })
        .unwrap();
        assert_eq!(filters(node), before, "never two of ours, and where they were");
    }
    let told = changes.log();
    let of_filters = |line: &&str| line.contains("filter ");
    let gone: Vec<&str> = told.lines().filter(of_filters).filter(|line| line.contains("deleted")).collect();
    assert!(gone.is_empty(), "{gone:#?}");
    let replaced = told.lines().filter(of_filters).filter(|line| line.contains("pref 111 ")).count();
    assert!(replaced >= 8, "{replaced} filters replaced: {told}");
    let [ping, flow] = [ping.stop().unwrap().lost(), flow.stop().unwrap().lost()];
    assert_eq!((ping, flow), (0, 0), "lost pings and messages");
}

/// A pod's interface leaves the bridge while no agent runs, and the next agent attaches otherwise.
#[test]
fn filters_of_a_killed_agent_go_where_the_next_has_none() {
    let args = format!("{VERIFIED} --tc-attach clsact");
    let mut overlay = Overlay::start(Topology::builder("filtered").nodes(2), "vxlan", &args).unwrap();
    let node = overlay.topology.node(0).unwrap();
    wait_for("a filter in each place", SOON, || Ok(filters(node).len() == 4)).unwrap();
    overlay.agents[0].kill().unwrap();
    let pod = overlay.pods[0].host_interface();
    node.command("ip").words(&format!("link set dev {pod} nomaster")).run().unwrap();
    assert_eq!(filters(node).len(), 4, "they outlive the agent");
    overlay.agents[0] = overlay.start_ready(0, VERIFIED).unwrap();
    wait_for("the filters to go", SOON, || Ok(filters(node).is_empty())).unwrap();
    let programs: Vec<String> = attached(node).unwrap().into_iter().map(|each| each.program).collect();
    assert_eq!(programs, ["from_wire", "to_overlay"], "once each");
}
