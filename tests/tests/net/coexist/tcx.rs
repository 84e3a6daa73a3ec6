//! tcx programs, which see packets before or after ours by `--tcx-order`.

use ovl_tests::agent::Agent;
use ovl_tests::command::Cmd;
use ovl_tests::echo::Echo;
use ovl_tests::flow::{Flow, SMALL};
use ovl_tests::topology::Topology;
use ovl_tests::traffic::PingInBackground;
use ovl_tests::wait::wait_for;

use super::foreign::{self, Foreign, Verdict};
use super::wait_for_silence;
use crate::attachments::{attached, links_of, order};
use crate::overlay::{EBPF, Overlay, SOON};

/// Programs that others had there before us: by `--tcx-order` they see all packets, or what we leave to the kernel.
#[test]
fn tcx_programs_of_others_stand_where_the_order_says() {
    let from_wire = "from_wire".to_owned();
    for (position, expected) in [
        ("last", [foreign::NAME.to_owned(), from_wire.clone()]),
        ("first", [from_wire, foreign::NAME.to_owned()]),
    ] {
        let topology = Topology::builder("order").nodes(2);
        let mut overlay = Overlay::without_agents(topology, "vxlan").unwrap();
        let [next, drop] = [Verdict::Next, Verdict::Drop].map(|verdict| Foreign::load(verdict).unwrap());
        let stranger = next.attach(overlay.node(0).netns(), "eth0").unwrap();
        overlay.start_agents(&format!("{EBPF} --tcx-order {position}")).unwrap();
        let node = overlay.node(0);
        assert_eq!(order(node, "eth0").unwrap(), expected);
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let echo = Echo::start(server.netns(), (server.address(), 7777).into(), 1).unwrap();
        let flow = Flow::tcp(client.netns(), echo.address(), SMALL).unwrap();
        let fast = || overlay.fast(0).unwrap().1;
        let before = fast();
        wait_for("the flow to be fast", SOON, || Ok(fast() > before + 50)).unwrap();

        stranger.replace_by(&drop).unwrap();
        if position == "last" {
            wait_for_silence(&flow);
        } else {
            flow.wait_for_more(100, SOON).unwrap();
        }
        stranger.replace_by(&next).unwrap();
        flow.wait_for_more(50, SOON).unwrap();

        let ours = attached(node).unwrap();
        let ours = ours.iter().find(|attached| attached.program == "from_wire").unwrap();
        for link in links_of(|program| program == u64::from(ours.id)).unwrap() {
            Cmd::host("bpftool").words(&format!("link detach id {link}")).run().unwrap();
        }
        assert_eq!(order(node, "eth0").unwrap(), [foreign::NAME]);
        wait_for("ours to be back in its place", SOON, || Ok(order(node, "eth0")? == expected)).unwrap();
        Overlay::wait_for_log(&overlay.agents[0], "attached again that somebody had taken off").unwrap();
        flow.wait_for_more(50, SOON).unwrap();
        let outcome = flow.stop().unwrap();
        assert_eq!(outcome.lost(), 0, "{outcome:?}");
    }
}

/// What is redirected into a pod does not pass the egress of the pod's interface.
#[test]
fn a_program_in_front_of_a_pod_sees_all_that_goes_in() {
    let overlay = Overlay::start(Topology::builder("front").nodes(2), "vxlan", EBPF).unwrap();
    a_stranger_sees_all_that_goes_in(&overlay);
}

/// The kernel says whose a program is to CAP_SYS_ADMIN alone. An agent without it knows its own, which an earlier agent
/// left, from others'.
#[test]
fn a_program_in_front_of_a_pod_is_noticed_without_the_right_to_look_at_it() {
    let mut overlay = Overlay::start(Topology::builder("unseen").nodes(2), "vxlan", EBPF).unwrap();
    overlay.agents[0].kill().unwrap();
    let options = overlay.options(EBPF).without_capabilities(&["sys_admin"]);
    overlay.agents[0] = Agent::start(overlay.node(0), &options).unwrap();
    overlay.agents[0].wait_ready().unwrap();
    overlay.agents[0].wait_for_peers(1).unwrap();
    let ping = PingInBackground::start(overlay.pods[0].netns(), overlay.pods[1].address()).unwrap();
    let (_, delivered) = overlay.fast(0).unwrap();
    wait_for("packets to be redirected into the pod", SOON, || Ok(overlay.fast(0)?.1 >= delivered + 100))
        .unwrap();
    assert_eq!(ping.stop().unwrap().lost(), 0);
    a_stranger_sees_all_that_goes_in(&overlay);
}

fn a_stranger_sees_all_that_goes_in(overlay: &Overlay) {
    let _counting = foreign::count_runs().unwrap();
    let (node, pod) = (overlay.node(0), &overlay.pods[0]);
    let stranger = Foreign::load(Verdict::Next).unwrap();
    let _attached = stranger.attach_at_egress(node.netns(), pod.host_interface()).unwrap();
    // The kernel makes no event of it.
    node.netns().ip("link set eth0 alias looked-at").unwrap();
    let notice = format!("{} has qdiscs, filters or programs of tc", pod.host_interface());
    Overlay::wait_for_log(&overlay.agents[0], &notice).unwrap();
    let ping = PingInBackground::start(pod.netns(), overlay.pods[1].address()).unwrap();
    ping.wait_for_more(20, SOON).unwrap();
    let (fast, runs) = (overlay.fast(0).unwrap(), stranger.runs().unwrap());
    ping.wait_for_more(50, SOON).unwrap();
    assert_eq!(overlay.fast(0).unwrap(), fast);
    assert!(stranger.runs().unwrap() >= runs + 50);
    assert_eq!(ping.stop().unwrap().lost(), 0);
}
