//! The verified fast path at its simplest, for every kernel: both families, with a tunnel and without, both ways.

use ovl_tests::netns::Netns;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, Destination, PingInBackground};
use ovl_tests::wait::wait_for;

use crate::overlay::{DUAL, Overlay, SOON, VERIFIED, config};

/// Pings at every address until they go fast, and a transfer that does.
fn goes_fast(backend: &str, args: &str) {
    let config = config(&[DUAL], &format!(r#"{{"Type":"{backend}"}}"#));
    let overlay = Overlay::start_with(Topology::builder("verified").ipv6(), &config, args).unwrap();
    for (from, to) in [(0, 1), (1, 0)] {
        let (client, server) = (&overlay.pods[from], &overlay.pods[to]);
        for server in Destination::all(server) {
            let before = overlay.fast(from).unwrap();
            // One flow: each ping of its own is a new one, whose first packet is netfilter's.
            let ping = PingInBackground::start(client.netns(), server.address).unwrap();
            wait_for(
                &format!("pings from {} to {} to go fast", client.label(), server.address),
                SOON,
                || {
                    let now = overlay.fast(from)?;
                    Ok(now.0 > before.0 && now.1 > before.1)
                },
            )
            .unwrap();
            assert_eq!(ping.stop().unwrap().lost(), 0);
            traffic::tcp_intact(client, server, 4 << 20, overlay.topology.dir()).unwrap();
        }
    }
    for agent in &overlay.agents {
        assert!(agent.counter("to_overlay", "verified").unwrap() > 0);
        assert!(agent.counter("to_pod", "verified").unwrap() > 0);
        // Between our own nodes checksums are no reason to go slow.
        assert_eq!(agent.counter("from_pod", "outer_checksum").unwrap(), 0);
        assert_eq!(agent.counter("from_pod", "mangled").unwrap(), 0);
        assert_eq!(agent.counter("from_wire", "mangled").unwrap(), 0);
    }
}

/// The programs come after the first look at the firewall's rules, and the next one is an hour away.
#[test]
fn a_node_that_did_not_wait_for_its_programs_goes_fast() {
    goes_fast("vxlan", "--mode ebpf --verify-interval 2 --iptables-resync 3600");
}

/// A pod behind a veth of its own, as the ptp plugin makes it.
#[test]
fn a_pod_without_a_bridge_goes_fast() {
    let topology = Topology::builder("ptp");
    let args = format!("{VERIFIED} --pod-interface-regex ^ptp");
    let overlay = Overlay::start(topology, "vxlan", &args).unwrap();
    let (node, env) = (overlay.node(0), overlay.agents[0].subnet().unwrap());
    let subnet = env.subnets.ipv4().unwrap();
    // The bridge of the other pods has the gateway's address.
    let (gateway, address) = ("169.254.1.1", subnet.pod_address(200));
    let pod = Netns::create(&format!("{}-ptp", node.netns().name())).unwrap();
    node.netns().ip(&format!("link add ptp0 type veth peer name eth0 netns {}", pod.name())).unwrap();
    node.netns().ip("link set ptp0 up").unwrap();
    node.netns().ip(&format!("address add {gateway}/32 dev ptp0")).unwrap();
    node.netns().ip(&format!("route add {address} dev ptp0")).unwrap();
    pod.ip("link set eth0 up").unwrap();
    pod.ip(&format!("address add {address}/32 dev eth0")).unwrap();
    pod.ip(&format!("route add {gateway} dev eth0")).unwrap();
    pod.ip(&format!("route add default via {gateway} dev eth0")).unwrap();
    let before = overlay.fast(0).unwrap();
    let ping = PingInBackground::start(&pod, overlay.pods[1].address()).unwrap();
    wait_for("its pings to go fast", SOON, || {
        let now = overlay.fast(0)?;
        Ok(now.0 > before.0 && now.1 > before.1)
    })
    .unwrap();
    assert_eq!(ping.stop().unwrap().lost(), 0);
}

/// As the CNI bandwidth plugin does it: what leaves by another way would not be held up.
#[test]
fn a_pod_whose_traffic_is_shaped_stays_on_the_kernel_path() {
    let overlay = Overlay::start(Topology::builder("shaped"), "vxlan", VERIFIED).unwrap();
    let (node, agent) = (overlay.node(0), &overlay.agents[0]);
    let pods = [overlay.pods[0].host_interface(), "veth1"];
    let other = node.add_pod("b", &agent.subnet().unwrap()).unwrap();
    let shape = format!("qdisc add dev {} root tbf rate 1gbit burst 100000 latency 25ms", pods[0]);
    node.command("tc").words(&shape).run().unwrap();
    let qdiscs = || node.command("tc").words(&format!("qdisc show dev {}", pods[1])).run().unwrap();
    // Where there is no tcx, the agent may have been there first with a qdisc that takes others' filters, too.
    if let Err(error) = node.command("tc").words(&format!("qdisc add dev {} ingress", pods[1])).run() {
        assert!(qdiscs().contains("clsact"), "{error:#}");
    }
    let filter = format!("filter add dev {} ingress prio 1 bpf bytecode", pods[1]);
    node.command("tc").words(&filter).arg("1,6 0 0 4294967295").run().unwrap();
    // The kernel makes no event of it.
    node.netns().ip("link set eth0 alias looked-at").unwrap();
    for interface in pods {
        Overlay::wait_for_log(agent, &format!("{interface} has qdiscs, filters or programs of tc")).unwrap();
    }
    for pod in [&overlay.pods[0], &other] {
        let ping = PingInBackground::start(pod.netns(), overlay.pods[1].address()).unwrap();
        // A packet may have been on its way while the programs were taken off.
        ping.wait_for_more(20, SOON).unwrap();
        let before = overlay.fast(0).unwrap();
        ping.wait_for_more(20, SOON).unwrap();
        assert_eq!(overlay.fast(0).unwrap(), before, "{}", pod.label());
        assert_eq!(ping.stop().unwrap().lost(), 0);
    }
}

/// Where nodes are joined by IPsec, what programs redirect would leave in clear.
#[test]
fn ipsec_policies_make_every_packet_the_kernels() {
    let overlay = Overlay::start(Topology::builder("ipsec"), "vxlan", VERIFIED).unwrap();
    let (node, agent) = (overlay.node(0), &overlay.agents[0]);
    let ping = PingInBackground::start(overlay.pods[0].netns(), overlay.pods[1].address()).unwrap();
    let goes_fast = || {
        let before = overlay.fast(0)?;
        ping.wait_for_more(20, SOON)?;
        Ok(overlay.fast(0)? > before)
    };
    wait_for("pings to go fast", SOON, goes_fast).unwrap();
    // Of others' traffic: any policy will do.
    let policy = "src 203.0.113.0/24 dst 203.0.113.0/24 dir out";
    node.netns().ip(&format!("xfrm policy add {policy} tmpl proto esp mode transport")).unwrap();
    Overlay::wait_for_log(agent, "the node has IPsec policies").unwrap();
    wait_for("pings to take the kernel path", SOON, || Ok(!goes_fast()?)).unwrap();
    node.netns().ip(&format!("xfrm policy delete {policy}")).unwrap();
    wait_for("pings to go fast again", 2 * SOON, goes_fast).unwrap();
    assert_eq!(ping.stop().unwrap().lost(), 0);
}

#[test]
fn flows_go_fast_through_the_tunnel() {
    goes_fast("vxlan", VERIFIED);
}

#[test]
fn flows_go_fast_without_a_tunnel() {
    goes_fast("host-gw", VERIFIED);
}
