//! `DirectRouting`: peers on the link are routed to, those behind a router get the tunnel, and a peer that moves from
//! one to the other leaves nothing behind.

use ovl_tests::kernel_vtep::device;
use ovl_tests::links;
use ovl_tests::node::Node;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use crate::listing::{Rows, rows, wait_for_rows};
use crate::overlay::{DUAL, EBPF, KERNEL, Overlay, PINNED, config};

const DIRECT: &str = r#"{"Type":"vxlan","DirectRouting":true}"#;

/// The rows by which a node reaches another one's subnets.
fn rows_to(overlay: &Overlay, peer: usize, direct: bool) -> Rows {
    let (node, env) = (overlay.node(peer), overlay.agents[peer].subnet().unwrap());
    let mut wanted = Rows::new();
    for subnet in env.subnets.iter() {
        let (base, cidr) = (subnet.base(), subnet.cidr());
        let (places, device) = (node.addresses(), device(base));
        let place = if base.is_ipv4() { places.ipv4() } else { places.ipv6() };
        let address = place.unwrap().address;
        if direct {
            wanted.insert(format!("route {cidr} via {address} on eth0 by 111"));
            continue;
        }
        let mac = links::mac(node.netns(), device).unwrap();
        wanted.insert(format!("neighbour {base} {mac} permanent on {device}"));
        wanted.insert(format!("fdb {mac} {address} permanent self on {device}"));
        wanted.insert(format!("route {cidr} via {base} on {device} onlink by 111"));
    }
    wanted
}

/// A node's own rows and these.
fn with_own(node: &Node, peers: &[Rows]) -> Rows {
    let own = rows(node).unwrap().into_iter();
    let own = own.filter(|row| row.starts_with("device") || row.starts_with("address"));
    own.chain(peers.iter().flatten().cloned()).collect()
}

#[test]
fn peers_on_the_link_are_routed_to_and_others_tunnelled() {
    for args in [KERNEL, EBPF] {
        let topology = Topology::builder("direct").nodes(3).behind_router(1).ipv6();
        let overlay = Overlay::start_with(topology, &config(&[DUAL], DIRECT), args).unwrap();
        let (node, netns) = (overlay.node(0), overlay.node(0).netns());
        let [near, far] = [(1, true), (2, false)].map(|(peer, direct)| rows_to(&overlay, peer, direct));
        let whole = with_own(node, &[near, far.clone()]);
        wait_for_rows(node, &whole, "a route to the near node, the tunnel to the far one");
        assert_eq!(traffic::ping_all_pairs(&overlay.pods).unwrap(), 6);
        let near_pod = &overlay.pods[1..2];
        let before = links::packets(netns, "flannel.1").unwrap();
        traffic::tcp_intact(&overlay.pods[0], &near_pod[0], 1 << 20, overlay.topology.dir()).unwrap();
        assert_eq!(links::packets(netns, "flannel.1").unwrap(), before, "nothing of it in the tunnel");

        // The near node is suddenly behind the router, by the underlay's own routes, and comes back.
        let detour = ["192.0.2.12/32 via 192.0.2.1", "2001:db8:c0::12/128 via 2001:db8:c0::1"];
        let detours = |verb: &str| detour.map(|route| netns.ip(&format!("route {verb} {route}")).unwrap());
        detours("add");
        let tunnelled = with_own(node, &[rows_to(&overlay, 1, false), far]);
        wait_for_rows(node, &tunnelled, "the tunnel to the node that is now behind the router");
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        detours("del");
        wait_for_rows(node, &whole, "a route to the near node again, and nothing of the tunnel");
        traffic::ping_all_pairs(&overlay.pods).unwrap();
    }
}

#[test]
fn a_peer_that_moves_behind_the_router_takes_its_rows_along() {
    let topology = Topology::builder("direct-move").nodes(1).ipv6();
    let overlay = Overlay::bare(topology, &config(&[DUAL, PINNED], DIRECT)).unwrap();
    let node = overlay.node(0);
    let _agent = overlay.start_ready(0, KERNEL).unwrap();
    let own = with_own(node, &[]);
    let near = Rows::from([
        "route 10.42.7.0/24 via 192.0.2.77 on eth0 by 111".into(),
        "route fd42:0:0:7::/64 via 2001:db8:c0::77 on eth0 by 111".into(),
    ]);
    let far = Rows::from(
        [
            "neighbour 10.42.7.0 02:00:00:00:04:77 permanent on flannel.1",
            "fdb 02:00:00:00:04:77 198.51.100.77 permanent self on flannel.1",
            "route 10.42.7.0/24 via 10.42.7.0 on flannel.1 onlink by 111",
            "neighbour fd42:0:0:7:: 02:00:00:00:06:77 permanent on flannel-v6.1",
            "fdb 02:00:00:00:06:77 2001:db8:c1::77 permanent self on flannel-v6.1",
            "route fd42:0:0:7::/64 via fd42:0:0:7:: on flannel-v6.1 onlink by 111",
        ]
        .map(str::to_owned),
    );
    for (ipv4, ipv6, peer) in [
        ("192.0.2.77", "2001:db8:c0::77", &near),
        ("198.51.100.77", "2001:db8:c1::77", &far),
        ("192.0.2.77", "2001:db8:c0::77", &near),
    ] {
        let value = format!(
            r#"{{"PublicIP":"{ipv4}","PublicIPv6":"{ipv6}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:04:77"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"02:00:00:00:06:77"}}}}"#
        );
        overlay.store.put("subnets/10.42.7.0-24&fd42:0:0:7::-64", &value).unwrap();
        let wanted = own.union(peer).cloned().collect();
        wait_for_rows(node, &wanted, &format!("the rows of the peer at {ipv4} and nothing else"));
    }
}
