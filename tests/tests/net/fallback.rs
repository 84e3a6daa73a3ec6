//! Where eBPF does not work, the kernel path does.

use ovl_tests::agent::Agent;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use crate::overlay::{EBPF, Overlay};

/// Everything that lets a process load programs.
const BPF_RIGHTS: [&str; 3] = ["bpf", "sys_admin", "perfmon"];

#[test]
fn without_rights_pods_still_reach_each_other() {
    let mut overlay = Overlay::without_agents(Topology::builder("norights").nodes(2), "vxlan").unwrap();
    for index in 0..2 {
        let options = overlay.options("--mode ebpf --fast-path always").without_capabilities(&BPF_RIGHTS);
        let mut agent = Agent::start(overlay.node(index), &options).unwrap();
        agent.wait_ready().unwrap();
        Overlay::wait_for_log(&agent, "eBPF does not work here").unwrap();
        let warnings: Vec<String> =
            agent.log().lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect();
        let [warning] = &warnings[..] else { panic!("one warning, not {warnings:#?}") };
        for part in ["creating the BPF maps failed", "CAP_BPF", "kernel path"] {
            assert!(warning.contains(part), "'{part}' is not in: {warning}");
        }
        assert_eq!(agent.status().unwrap()["mode"], "kernel");
        overlay.agents.push(agent);
    }
    for (node, agent) in overlay.topology.nodes().iter().zip(&overlay.agents) {
        agent.wait_for_peers(1).unwrap();
        overlay.pods.push(node.add_pod("a", &agent.subnet().unwrap()).unwrap());
    }
    assert_eq!(traffic::ping_all_pairs(&overlay.pods).unwrap(), 2);
}

#[test]
fn strict_means_no_fallback() {
    let overlay = Overlay::without_agents(Topology::builder("strict").nodes(2), "vxlan").unwrap();
    let options = overlay.options(EBPF).without_capabilities(&BPF_RIGHTS);
    let mut agent = Agent::start(overlay.node(0), &options).unwrap();
    let status = agent.wait_exit().unwrap();
    assert_eq!(status.code(), Some(1), "{}", agent.log_tail());
    let log = agent.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains("creating the BPF maps failed"), "{log}");
}

#[test]
fn a_missing_object_is_named() {
    let overlay = Overlay::without_agents(Topology::builder("noobject").nodes(2), "vxlan").unwrap();
    let mut agent = overlay.start_agent(0, "--mode ebpf --bpf-object /nonexistent.o").unwrap();
    agent.wait_ready().unwrap();
    Overlay::wait_for_log(&agent, "reading BPF object /nonexistent.o failed").unwrap();
}
