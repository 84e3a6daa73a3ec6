//! Errors find their way back to the sender's socket, on whatever path what they are about went.

use ovl_tests::bulk::transfer;
use ovl_tests::echo::Echo;
use ovl_tests::pod::Pod;
use ovl_tests::probe::Probe;
use ovl_tests::sockets::Pair;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use super::send::warm_up;
use crate::overlay::{DUAL, ONLY_IPV4, Overlay, SOON, carried_at_tc, config};

#[test]
fn a_port_that_is_closed_refuses() {
    for backend in ["vxlan", "host-gw"] {
        for args in carried_at_tc() {
            let topology = Topology::builder("refused").nodes(2).ipv6();
            let config = config(&[DUAL], &format!(r#"{{"Type":"{backend}"}}"#));
            let overlay = Overlay::start_with(topology, &config, args).unwrap();
            traffic::ping_all_pairs(&overlay.pods).unwrap();
            let [client, server]: [&Pod; 2] = [&overlay.pods[0], &overlay.pods[1]];
            for to in server.addresses() {
                let echo = Echo::start(server.netns(), (to, 7777).into(), 1).unwrap();
                let probe = Probe::open(client.netns(), (to, 7777).into()).unwrap();
                warm_up(&overlay, &probe, args).unwrap();
                drop(echo);
                wait_for(&format!("{args}: {to} to refuse"), SOON, || probe.is_refused(64)).unwrap();
            }
        }
    }
}

/// The way between two nodes gets narrower while flows use it. Over IPv4 routers take tunnel packets apart; over IPv6
/// they tell the node, which has to tell the pod.
#[test]
fn a_narrower_way_is_found() {
    let each = |args: &'static str| {
        let of_tunnels = format!("{args} --underlay-family ipv6");
        [
            (args.to_owned(), DUAL, ""),
            // As on nodes that heed router advertisements.
            (args.to_owned(), DUAL, "net.ipv6.conf.eth0.forwarding=0"),
            // What the kernel asks for where IPv4 travels over IPv6.
            (of_tunnels, ONLY_IPV4, "net.ipv4.ip_forward_use_pmtu=1"),
        ]
    };
    for (args, families, setting) in carried_at_tc().iter().flat_map(|args| each(args)) {
        let args = args.as_str();
        let topology = Topology::builder("narrow").nodes(2).ipv6().behind_router(1).plain_packets();
        let config = config(&[families], r#"{"Type":"vxlan"}"#);
        let mut overlay = Overlay::bare(topology, &config).unwrap();
        for node in overlay.topology.nodes().iter().filter(|_| !setting.is_empty()) {
            node.netns().sysctl(&[setting]).unwrap();
        }
        overlay.start_agents(args).unwrap();
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
        let flows: Vec<_> = server
            .addresses()
            .map(|to| {
                let echo = Echo::start(server.netns(), (to, 7777).into(), 1).unwrap();
                let probe = Probe::open(client.netns(), echo.address()).unwrap();
                warm_up(&overlay, &probe, args).unwrap();
                let pair = Pair::connect(client.netns(), server.netns(), to).unwrap();
                transfer(&pair.client, &pair.server, 1 << 20).unwrap();
                (echo, probe, pair)
            })
            .collect();
        overlay.topology.switch().unwrap().ip("link set far mtu 1400").unwrap();
        for (echo, probe, pair) in &flows {
            // As large as fits the pods' devices, and no longer the way.
            let what = format!("{args} {setting}: a large datagram to come back from {}", echo.address());
            wait_for(&what, SOON * 2, || probe.is_answered(1370)).unwrap();
            transfer(&pair.client, &pair.server, 1 << 20).unwrap();
        }
    }
}
