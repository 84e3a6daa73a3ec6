//! What an agent pins, its successor goes on with. Judged by `bpftool` in the node, which has a BPF file system of its
//! own.

mod abi;
mod filters;
pub(crate) mod pinned;

use std::collections::{BTreeMap, BTreeSet};

use ovl_common::ABI;
use ovl_tests::agent::Agent;
use ovl_tests::artifacts;
use ovl_tests::echo::Echo;
use ovl_tests::flow::{Flow, SMALL};
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use self::pinned::{Pinned, flows, folder, names_in, running, shown};
use crate::overlay::{KERNEL, Overlay, SOON, VERIFIED};

/// Two nodes on the fast path, a flow between their pods, and a server at its end.
fn start(label: &str) -> (Overlay, Echo, Flow) {
    let overlay = Overlay::start(Topology::builder(label).nodes(2), "vxlan", VERIFIED).unwrap();
    let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
    let echo = Echo::start(server.netns(), (server.address(), 7777).into(), 1).unwrap();
    let flow = Flow::tcp(client.netns(), echo.address(), SMALL).unwrap();
    is_fast(&overlay, &overlay.agents[0]);
    (overlay, echo, flow)
}

/// The flow takes the fast path through the first node.
fn is_fast(overlay: &Overlay, agent: &Agent) {
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let carried = || {
        Ok::<_, anyhow::Error>((
            agent.counter("from_pod", "forwarded")?,
            agent.counter("from_wire", "delivered")?,
        ))
    };
    let before = carried().unwrap();
    wait_for("a hundred packets each way on the fast path", SOON, || {
        let now = carried()?;
        Ok(now.0 > before.0 + 100 && now.1 > before.1 + 100)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", agent.status()));
}

#[test]
fn the_next_agent_goes_on_with_links_maps_and_flows() {
    let (mut overlay, _echo, flow) = start("pins");
    let node = overlay.topology.node(0).unwrap();
    let before = Pinned::read(node).unwrap();
    let names = |pinned: &Pinned| {
        pinned.links.keys().map(|name| name.rsplit('-').next().unwrap().to_owned()).collect()
    };
    let programs: BTreeSet<String> =
        ["from_pod", "from_wire", "to_overlay", "to_pod"].map(str::to_owned).into();
    assert_eq!((before.links.len(), names(&before)), (4, programs), "{before:#?}");
    assert_eq!((before.programs.len(), before.maps.len()), (4, 11), "{before:#?}");
    assert_eq!(running(node).unwrap(), before.running());

    let learned = flows(node).unwrap();
    assert!(!learned.is_empty());
    overlay.agents[0].kill().unwrap();
    assert_eq!(Pinned::read(node).unwrap(), before, "all of it outlives the agent");
    assert_eq!(running(node).unwrap(), before.running(), "and goes on");

    let name = format!("{}/abi-{ABI}/prog-from_wire", folder(node).unwrap());
    node.command("rm").arg(name).run().unwrap();
    let mut agent = overlay.start_ready(0, VERIFIED).unwrap();
    agent.wait_for_peers(1).unwrap();
    assert_eq!(
        Pinned::read(node).unwrap(),
        before,
        "the same object is not verified again, and what went comes back"
    );
    assert_eq!(running(node).unwrap(), before.running());
    is_fast(&overlay, &agent);
    agent.terminate().unwrap();

    // What follows the sections of an ELF file is nobody's.
    let mut object = std::fs::read(artifacts::bpf_object().unwrap()).unwrap();
    object.push(0);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object).unwrap();
    let agent =
        overlay.start_ready(0, &format!("{VERIFIED} --bpf-object {}", file.path().display())).unwrap();
    agent.wait_for_peers(1).unwrap();
    wait_for("the new programs to be in the old places", SOON, || {
        let programs: BTreeSet<u64> = Pinned::read(node)?.programs.into_values().collect();
        Ok(running(node)? == programs)
    })
    .unwrap();
    let after = Pinned::read(node).unwrap();
    assert_eq!(after.link_ids(), before.link_ids(), "no link was made anew");
    assert_eq!(after.maps, before.maps, "and no map");
    assert!(after.running().is_disjoint(&before.running()), "only programs: {after:?}");
    assert_eq!(
        after.identified,
        after.programs.values().copied().collect(),
        "what was pinned before is gone"
    );
    assert!(flows(node).unwrap().is_superset(&learned), "what was learned is still known");
    is_fast(&overlay, &agent);
    let outcome = flow.stop().unwrap();
    assert_eq!(outcome.lost(), 0, "{outcome:?}");
}

/// With more or less room for flows their map is another one, and nothing else is.
#[test]
fn another_number_of_flows_is_another_map() {
    let (mut overlay, _echo, flow) = start("pins-flows");
    let node = overlay.topology.node(0).unwrap();
    let before = Pinned::read(node).unwrap();
    overlay.agents[0].terminate().unwrap();
    let agent = overlay.start_ready(0, &format!("{VERIFIED} --max-flows 1000")).unwrap();
    agent.wait_for_peers(1).unwrap();
    Overlay::wait_for_log(&agent, "OVL_FLOWS is made anew").unwrap();
    let smaller = Pinned::read(node).unwrap();
    let others = |pinned: &Pinned| {
        let others = pinned.maps.iter().filter(|(name, _)| *name != "OVL_FLOWS");
        others.map(|(name, id)| (name.clone(), *id)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(others(&smaller), others(&before));
    assert_ne!(smaller.maps["OVL_FLOWS"], before.maps["OVL_FLOWS"]);
    assert_eq!(shown(node, "map show", "OVL_FLOWS").unwrap()["max_entries"], 1000);
    is_fast(&overlay, &agent);
    let outcome = flow.stop().unwrap();
    assert_eq!(outcome.lost(), 0, "{outcome:?}");
}

#[test]
fn an_agent_without_a_fast_path_leaves_none_running() {
    let (mut overlay, _echo, flow) = start("pins-kernel");
    let node = overlay.topology.node(0).unwrap();
    overlay.agents[0].kill().unwrap();
    let agent = overlay.start_ready(0, KERNEL).unwrap();
    agent.wait_for_peers(1).unwrap();
    assert_eq!(running(node).unwrap(), BTreeSet::new());
    assert_eq!(names_in(node, &folder(node).unwrap()).unwrap(), BTreeSet::new());
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let outcome = flow.stop().unwrap();
    assert_eq!(outcome.lost(), 0, "{outcome:?}");
}

/// Without a BPF file system and the right to mount one there is a fast path that ends with its agent.
#[test]
fn without_a_place_to_pin_the_fast_path_ends_with_the_agent() {
    let mut overlay = Overlay::without_agents(Topology::builder("unpinned").nodes(2), "vxlan").unwrap();
    for index in 0..2 {
        overlay.node(index).command("umount").arg("/sys/fs/bpf").run().unwrap();
        let options = overlay.options(VERIFIED).without_capabilities(&["sys_admin"]);
        let mut agent = Agent::start(overlay.node(index), &options).unwrap();
        agent.wait_ready().unwrap();
        overlay.agents.push(agent);
    }
    for (node, agent) in overlay.topology.nodes().iter().zip(&overlay.agents) {
        agent.wait_for_peers(1).unwrap();
        overlay.pods.push(node.add_pod("a", &agent.subnet().unwrap()).unwrap());
    }
    let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let echo = Echo::start(server.netns(), (server.address(), 7777).into(), 1).unwrap();
    let flow = Flow::tcp(client.netns(), echo.address(), SMALL).unwrap();
    is_fast(&overlay, &overlay.agents[0]);
    let node = overlay.topology.node(0).unwrap();
    assert_eq!(running(node).unwrap().len(), 4);

    let agent = &mut overlay.agents[0];
    let log = agent.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = &warnings[..] else { panic!("one warning, not {warnings:#?}") };
    for part in ["ends with this process", "no BPF file system on /sys/fs/bpf", "mount -t bpf"] {
        assert!(warning.contains(part), "'{part}' is not in: {warning}");
    }
    agent.kill().unwrap();
    wait_for("the programs to go with their agent", SOON, || Ok(running(node)?.is_empty())).unwrap();
    flow.wait_for_more(50, SOON).unwrap();
    let outcome = flow.stop().unwrap();
    assert_eq!(outcome.lost(), 0, "{outcome:?}");
}
