//! Pods reach each other, by the path that is claimed.

use anyhow::Result;
use ovl_tests::links;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use crate::overlay::{EBPF, KERNEL, Overlay};

/// A transfer in segments and in aggregates, and what each path carried of it.
struct Carried {
    /// Packets out and in, as the programs of both nodes counted them.
    fast: u64,
    /// Packets over the tunnel devices of both nodes.
    tunnel_device: u64,
}

fn transfer(overlay: &Overlay) -> Result<Carried> {
    const BYTES: u64 = 50 << 20;
    let measure = || -> Result<Carried> {
        let mut carried = Carried { fast: 0, tunnel_device: 0 };
        for (index, node) in overlay.topology.nodes().iter().enumerate() {
            let (out, into) = overlay.fast(index)?;
            carried.fast += out + into;
            if links::exists(node.netns(), "flannel.1")? {
                carried.tunnel_device += links::packets(node.netns(), "flannel.1")?.total();
            }
        }
        Ok(carried)
    };
    let before = measure()?;
    traffic::tcp_intact(&overlay.pods[0], &overlay.pods[1], BYTES, overlay.topology.dir())?;
    let after = measure()?;
    Ok(Carried { fast: after.fast - before.fast, tunnel_device: after.tunnel_device - before.tunnel_device })
}

#[test]
fn three_nodes_over_vxlan_in_ebpf() {
    let overlay = Overlay::start(Topology::builder("vx-ebpf").nodes(3), "vxlan", EBPF).unwrap();
    assert_eq!(traffic::ping_all_pairs(&overlay.pods).unwrap(), 6);
    let carried = transfer(&overlay).unwrap();
    assert!(carried.fast > 1000, "{} packets on the fast path", carried.fast);
    // SYN, SYN-ACK, FIN and what comes before the pods are known, for iperf3's two connections.
    assert!(carried.tunnel_device < 100, "{} packets over flannel.1", carried.tunnel_device);
}

#[test]
fn three_nodes_over_host_gw_in_ebpf() {
    let overlay = Overlay::start(Topology::builder("gw-ebpf").nodes(3), "host-gw", EBPF).unwrap();
    assert_eq!(traffic::ping_all_pairs(&overlay.pods).unwrap(), 6);
    let fast = transfer(&overlay).unwrap().fast;
    assert!(fast > 1000, "{fast} packets on the fast path; {:#}", overlay.agents[1].status().unwrap());
    assert!(!links::exists(overlay.node(0).netns(), "flannel.1").unwrap());
}

#[test]
fn three_nodes_in_the_kernel() {
    for backend in ["vxlan", "host-gw"] {
        let overlay = Overlay::start(Topology::builder("kernel").nodes(3), backend, KERNEL).unwrap();
        assert_eq!(traffic::ping_all_pairs(&overlay.pods).unwrap(), 6);
        let carried = transfer(&overlay).unwrap();
        assert_eq!(carried.fast, 0);
        assert_eq!(carried.tunnel_device > 1000, backend == "vxlan", "{}", carried.tunnel_device);
    }
}

#[test]
fn attached_programs_with_the_fast_path_off_carry_nothing() {
    let overlay =
        Overlay::start(Topology::builder("off").nodes(2), "vxlan", "--mode ebpf --strict --fast-path off")
            .unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let carried = transfer(&overlay).unwrap();
    assert_eq!(carried.fast, 0);
    assert!(overlay.agents[0].counter("from_pod", "fast_path_off").unwrap() > 0, "the program is attached");
}

#[test]
fn clsact_filters_carry_what_tcx_links_carry() {
    let args = format!("{EBPF} --tc-attach clsact");
    let overlay = Overlay::start(Topology::builder("clsact").nodes(2), "vxlan", &args).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let fast = transfer(&overlay).unwrap().fast;
    assert!(fast > 1000, "{fast} packets on the fast path; {:#}", overlay.agents[1].status().unwrap());
    let filters = overlay.node(0).command("tc").words("filter show dev eth0 ingress").run().unwrap();
    assert!(filters.contains("from_wire") && filters.contains("pref 111"), "{filters}");
}

#[test]
fn one_ebpf_node_and_one_kernel_node() {
    let mut overlay = Overlay::start(Topology::builder("mixed").nodes(2), "vxlan", EBPF).unwrap();
    overlay.agents[1].terminate().unwrap();
    let mut agent = overlay.start_agent(1, KERNEL).unwrap();
    agent.wait_ready().unwrap();
    overlay.agents[1] = agent;
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let (out, into) = overlay.fast(0).unwrap();
    transfer(&overlay).unwrap();
    let (out_after, into_after) = overlay.fast(0).unwrap();
    assert!(out_after > out + 100 && into_after > into + 100, "{out} {into} {out_after} {into_after}");
}

#[test]
fn a_new_pod_with_an_old_address_gets_its_own_packets() {
    let mut overlay = Overlay::start(Topology::builder("reuse").nodes(2), "vxlan", EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    transfer(&overlay).unwrap();
    let subnet = overlay.agents[1].subnet().unwrap();
    for round in 1..4 {
        let old = overlay.pods.remove(1);
        let address = old.address();
        old.remove().unwrap();
        let pod = overlay.node(1).add_pod_at(&format!("b{round}"), &subnet, 0).unwrap();
        assert_eq!(pod.address(), address);
        overlay.pods.insert(1, pod);
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        let fast = transfer(&overlay).unwrap().fast;
        assert!(fast > 1000, "round {round}: {fast}; {:#}", overlay.agents[1].status().unwrap());
    }
}
