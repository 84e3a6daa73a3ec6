//! Pins of a version whose maps are other ones: named, left alone, and removed by `cleanup --only-pins`.

use ovl_common::ABI;
use ovl_tests::artifacts;
use ovl_tests::links;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use super::pinned::{folder, names_in};
use crate::attachments::attached;
use crate::overlay::{EBPF, Overlay, wait_until_seen};

/// What `ovl-agent cleanup --only-pins` and `more` says, line by line.
fn cleanup(node: &Node, more: &str) -> Vec<String> {
    let cleanup = node.command(artifacts::agent_binary().unwrap()).words("cleanup --only-pins").words(more);
    cleanup.run().unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn pins_of_another_abi_are_named_and_go_when_told() {
    let mut overlay = Overlay::start(Topology::builder("abi").nodes(2), "vxlan", EBPF).unwrap();
    wait_until_seen(&overlay.agents, || traffic::ping_all_pairs(&overlay.pods)).unwrap();
    let node = overlay.topology.node(0).unwrap();
    overlay.agents[0].kill().unwrap();
    let folder = folder(node).unwrap();
    // Living programs, as an earlier version would leave them.
    node.command("mv").arg(format!("{folder}/abi-{ABI}")).arg(format!("{folder}/abi-1")).run().unwrap();
    let others = names_in(node, &format!("{folder}/abi-1")).unwrap();
    let programs = attached(node).unwrap();
    assert!(others.contains("OVL_FLOWS") && programs.len() == 4, "{others:?} {programs:?}");

    let mut strict = overlay.start_agent(0, EBPF).unwrap();
    assert_eq!(strict.wait_exit().unwrap().code(), Some(1));
    let log = strict.log();
    let last = log.lines().last().unwrap_or_default();
    for part in ["abi-1 is of another version of ovl-agent", "cleanup --only-pins"] {
        assert!(last.starts_with("error: ") && last.contains(part), "'{part}' is not in: {last}");
    }

    let mut agent = overlay.start_ready(0, "--mode ebpf --fast-path always").unwrap();
    agent.wait_for_peers(1).unwrap();
    assert_eq!(agent.status().unwrap()["mode"], "kernel");
    let log = agent.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.iter().any(|line| line.contains("abi-1") && line.contains("--only-pins")), "{log}");
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    assert_eq!(attached(node).unwrap(), programs, "what the other version runs is its own");
    agent.terminate().unwrap();

    let routes = || node.netns().ip("route show").unwrap();
    let before = (routes(), links::mac(node.netns(), "flannel.1").unwrap());
    assert!(before.0.contains("flannel.1"), "{}", before.0);
    let planned = format!("would remove programs and maps in {folder}");
    assert_eq!(cleanup(node, "--dry-run"), [planned.as_str()]);
    assert_eq!(names_in(node, &format!("{folder}/abi-1")).unwrap(), others, "a dry run changes nothing");
    assert_eq!(attached(node).unwrap(), programs);
    assert_eq!(cleanup(node, "")[0], planned.replace("would remove", "removed"));
    assert!(attached(node).unwrap().is_empty());
    assert_eq!((routes(), links::mac(node.netns(), "flannel.1").unwrap()), before, "the kernel path stands");
    traffic::ping_all_pairs(&overlay.pods).unwrap();

    overlay.agents[0] = overlay.start_ready(0, EBPF).unwrap();
    overlay.agents[0].wait_for_peers(1).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    traffic::tcp_transfer(&overlay.pods[0], &overlay.pods[1], 20 << 20).unwrap();
    let (out, into) = overlay.fast(0).unwrap();
    assert!(out > 100 && into > 100, "{out} {into}");
}
