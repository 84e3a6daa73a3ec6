//! The underlay changes below a running agent: it follows, its peers follow, traffic flows again.

use std::fs;

use ovl_tests::agent::{Agent, AgentOptions};
use ovl_tests::links;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::listing::{replaced, rows, wait_for_rows};
use crate::overlay::{DUAL, KERNEL, Overlay, SOON, config};

/// Two nodes whose agents find their addresses by themselves.
fn two_nodes(label: &str, backend: &str) -> Overlay {
    let topology = Topology::builder(label).nodes(2).switch().ipv6();
    let mut overlay = Overlay::bare(topology, &config(&[DUAL], backend)).unwrap();
    let options: AgentOptions = overlay.options(KERNEL).place("--iface eth0");
    for index in 0..2 {
        let mut agent = Agent::start(overlay.node(index), &options).unwrap();
        agent.wait_ready().unwrap();
        overlay.agents.push(agent);
    }
    for index in 0..2 {
        overlay.agents[index].wait_for_peers(1).unwrap();
        let env = overlay.agents[index].subnet().unwrap();
        let pod = overlay.node(index).add_pod("a", &env).unwrap();
        overlay.pods.push(pod);
    }
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    overlay
}

#[test]
fn a_new_mtu_is_followed_by_devices_and_subnet_env() {
    for (backend, device_mtus, pods) in [("vxlan", [1350, 1330], 1330), ("host-gw", [0, 0], 1400)] {
        let overlay = two_nodes("underlay-mtu", &format!(r#"{{"Type":"{backend}"}}"#));
        let (netns, agent) = (overlay.node(0).netns(), &overlay.agents[0]);
        netns.ip("link set eth0 mtu 1400").unwrap();
        wait_for("devices and subnet.env to follow the MTU", SOON, || {
            let mtu = |device| {
                links::exists(netns, device)
                    .map(|there| if there { links::mtu(netns, device) } else { Ok(0) })
            };
            Ok([mtu("flannel.1")??, mtu("flannel-v6.1")??] == device_mtus && agent.subnet()?.mtu == pods)
        })
        .unwrap();
        let env = fs::read_to_string(agent.subnet_file()).unwrap();
        assert!(env.ends_with(&format!("FLANNEL_MTU={pods}\nFLANNEL_IPMASQ=false\n")), "{env}");
        traffic::ping_all_pairs(&overlay.pods).unwrap();
    }
}

#[test]
fn a_new_address_is_followed_by_device_lease_and_peers() {
    for backend in
        [r#"{"Type":"vxlan"}"#, r#"{"Type":"host-gw"}"#, r#"{"Type":"vxlan","DirectRouting":true}"#]
    {
        let overlay = two_nodes("underlay-ip", backend);
        let (one, two) = (overlay.node(0), overlay.node(1));
        let mut wanted = [rows(one).unwrap(), rows(two).unwrap()];
        let env = overlay.agents[0].subnet().unwrap();
        let families = [
            ("PublicIP", "192.0.2.11", "192.0.2.31", 24, "192.0.2.1"),
            ("PublicIPv6", "2001:db8:c0::11", "2001:db8:c0::31", 64, "2001:db8:c0::1"),
        ];
        for (_, old, new, length, gateway) in families {
            // The kernel takes the routes along with the address.
            one.netns().ip(&format!("address del {old}/{length} dev eth0")).unwrap();
            one.netns().ip(&format!("address add {new}/{length} dev eth0")).unwrap();
            one.netns().ip(&format!("route replace default via {gateway} dev eth0")).unwrap();
            wanted = wanted.map(|rows| replaced(&rows, old, new));
        }
        // The agent may see one after the other, and tells its peers news every five seconds at most.
        wait_for("the lease to have the new addresses", 3 * SOON, || {
            let lease: Value = serde_json::from_str(&overlay.store.get(&env.lease_key())?)?;
            Ok(families.iter().all(|(member, _, new, ..)| lease[member] == *new))
        })
        .unwrap();
        wait_for_rows(one, &wanted[0], "the node's own rows to have them, with the same MACs");
        wait_for_rows(two, &wanted[1], "the peer's rows to have them, and nothing of the old ones");
        assert_eq!(overlay.agents[0].subnet().unwrap(), env, "the same subnets");
        assert_eq!(overlay.store.leases().unwrap().len(), 2);
        traffic::ping_all_pairs(&overlay.pods).unwrap();
    }
}

#[test]
fn an_interface_that_is_made_anew_gets_everything_again() {
    for backend in [r#"{"Type":"vxlan"}"#, r#"{"Type":"host-gw"}"#] {
        let overlay = two_nodes("replug", backend);
        let nodes = [overlay.node(0), overlay.node(1)];
        let wanted = nodes.map(|node| rows(node).unwrap());
        let (leases, env) = (overlay.store.leases().unwrap(), overlay.agents[0].subnet().unwrap());
        overlay.topology.unplug(nodes[0]).unwrap();
        Overlay::wait_for_log(&overlay.agents[0], "eth0 is gone").unwrap();
        overlay.topology.plug_in(nodes[0]).unwrap();
        for (node, wanted) in nodes.iter().zip(&wanted) {
            wait_for_rows(node, wanted, "the rows to be as before");
        }
        assert_eq!(overlay.store.leases().unwrap(), leases);
        assert_eq!(overlay.agents[0].subnet().unwrap(), env);
        traffic::ping_all_pairs(&overlay.pods).unwrap();
    }
}
