//! The agent ends and begins, peers come and go, somebody deletes things, the backend is another.

use ovl_tests::command::Cmd;
use ovl_tests::echo::Echo;
use ovl_tests::flow::{Flow, SMALL};
use ovl_tests::links;
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground};
use ovl_tests::wait::wait_for;

use super::{UDP, start};
use crate::overlay::{DUAL, KERNEL, ONLY_IPV4, Overlay, SOON, config};

/// A process cannot carry packets while there is none; the device, its addresses and routes stay.
#[test]
fn a_restart_is_a_short_gap() {
    let mut overlay = start(Topology::builder("udp-restart").ipv6(), DUAL, KERNEL);
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let index = |overlay: &Overlay| {
        let link = links::ip_json(overlay.node(1).netns(), "link show dev flannel0").unwrap();
        link[0]["ifindex"].as_u64().unwrap()
    };
    let before = index(&overlay);
    let [client, server] = [&overlay.pods[0], &overlay.pods[1]].map(Pod::netns);
    for kill in [false, true] {
        for address in overlay.pods[1].addresses() {
            let echo = Echo::start(server, (address, 0).into(), 1).unwrap();
            let stream = Flow::tcp(client, echo.address(), SMALL).unwrap();
            let ping = PingInBackground::start(client, address).unwrap();
            ping.wait_for_more(20, SOON).unwrap();
            let agent = &mut overlay.agents[1];
            let _ended = if kill { agent.kill() } else { agent.terminate() }.unwrap();
            overlay.agents[1] = overlay.start_ready(1, KERNEL).unwrap();
            ping.wait_for_more(20, SOON).unwrap();
            stream.wait_for_more(20, SOON).unwrap();
            let (ping, stream) = (ping.stop().unwrap(), stream.stop().unwrap());
            assert_eq!(stream.lost(), 0, "the connection goes on: {stream:?}");
            assert!(ping.gaps <= 1, "nothing is lost but in one gap: {ping:?}");
            assert_eq!(index(&overlay), before, "it is the same device");
            println!("killed: {kill}, {address}: a gap of {:?}", ping.longest_gap);
        }
    }
}

#[test]
fn peers_come_and_go() {
    let overlay = start(Topology::builder("udp-peers").nodes(3).ipv6(), DUAL, KERNEL);
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let env = overlay.agents[2].subnet().unwrap();
    let lease = overlay.store.get(&env.lease_key()).unwrap();
    let status = || overlay.agents[0].status().unwrap();
    let peers = || {
        let tables = status()["tables"].as_array().unwrap().clone();
        tables.iter().find(|table| table["name"] == "udp peer").and_then(|table| table["rows"].as_u64())
    };
    assert_eq!(peers(), Some(4));
    // Not the agent of that node, which would want it back.
    let gone = "subnets/10.42.250.0-24";
    overlay.store.put(gone, &lease.replace("192.0.2.13", "192.0.2.99")).unwrap();
    wait_for("a peer more", SOON, || Ok(peers() == Some(5))).unwrap();
    overlay.store.delete(gone).unwrap();
    wait_for("a peer less", SOON, || Ok(peers() == Some(4))).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}

#[test]
fn what_is_deleted_by_hand_comes_back() {
    let overlay = start(Topology::builder("udp-repair").ipv6(), DUAL, KERNEL);
    let netns = overlay.node(0).netns();
    for line in [
        "link del flannel0",
        "link set flannel0 down",
        "link set flannel0 mtu 1300",
        "route del 10.42.0.0/16 dev flannel0",
        "-6 route del fd42::/48 dev flannel0",
    ] {
        netns.ip(line).unwrap();
        wait_for(&format!("the overlay to be whole after {line}"), SOON, || {
            Ok(links::exists(netns, "flannel0")? && links::mtu(netns, "flannel0")? == 1452)
        })
        .unwrap();
        traffic::ping_all_pairs(&overlay.pods).unwrap();
    }
}

#[test]
fn another_backend_leaves_nothing_and_cleanup_removes_the_device() {
    let mut overlay = start(Topology::builder("udp-change"), ONLY_IPV4, KERNEL);
    for (backend, has, lacks) in
        [(r#"{"Type":"vxlan"}"#, "flannel.1", "flannel0"), (UDP, "flannel0", "flannel.1")]
    {
        overlay.store.put("config", &config(&[ONLY_IPV4], backend)).unwrap();
        for node in 0..2 {
            Overlay::wait_for_log(&overlay.agents[node], "Backend.Type changed").unwrap();
            overlay.agents[node].terminate().unwrap();
            overlay.agents[node] = overlay.start_ready(node, KERNEL).unwrap();
            let netns = overlay.node(node).netns();
            wait_for(&format!("{lacks} to be gone"), SOON, || Ok(!links::exists(netns, lacks)?)).unwrap();
            assert!(links::exists(netns, has).unwrap());
        }
        traffic::ping_all_pairs(&overlay.pods).unwrap();
    }
    overlay.agents[0].terminate().unwrap();
    let node = overlay.node(0);
    let binary = ovl_tests::artifacts::agent_binary().unwrap();
    let cleanup: Cmd =
        node.command(binary).words("cleanup --subnet-file").arg(overlay.agents[0].subnet_file());
    let said = cleanup.run().unwrap();
    assert!(said.contains("removed device flannel0"), "{said}");
    assert!(!links::exists(node.netns(), "flannel0").unwrap());
    let routes = links::ip_json(node.netns(), "route show 10.42.0.0/16").unwrap();
    assert_eq!(routes.as_array().map(Vec::len), Some(0), "{routes}");
}
