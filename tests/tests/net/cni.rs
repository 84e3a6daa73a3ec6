//! Pods made by the real CNI plugins with the configuration that agents write (`--cni-conf`).

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;

use ovl_tests::agent::Agent;
use ovl_tests::cni::Runtime;
use ovl_tests::echo::{Echo, ask_once};
use ovl_tests::links;
use ovl_tests::node::{Node, POD_BRIDGE};
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::attachments::attached;
use crate::kubernetes::Cluster;
use crate::overlay::{
    DUAL, ONLY_IPV4, Overlay, SOON, VERIFIED, carried_at_tc, config, filtered_at_tc, is_fast, wait_until_seen,
};
use crate::pins::pinned;

const TUNNEL: &str = r#"{"Type":"vxlan"}"#;
/// How many pods come and go.
const CHURN: usize = 500;
/// How many at a time, on each node.
const AT_ONCE: usize = 25;

/// Where a node's runtime looks for its configuration.
pub(crate) fn conflist(node: &Node) -> PathBuf {
    node.dir().join("net.d/10-flannel.conflist")
}

/// Writes kube-flannel's own.
pub(crate) fn write_flannels(conflist: &Path, subnet_file: &Path) {
    fs::create_dir_all(conflist.parent().unwrap()).unwrap();
    let list = format!(
        r#"{{"name":"cbr0","cniVersion":"0.3.1","plugins":[{{"type":"flannel","subnetFile":"{}",
            "delegate":{{"hairpinMode":true,"isDefaultGateway":true}}}},
            {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#,
        subnet_file.display()
    );
    fs::write(conflist, list).unwrap();
}

/// The flags of a node that writes it.
pub(crate) fn flags(node: &Node, args: &str) -> String {
    format!("{args} --ip-masq --cni-conf {}", conflist(node).display())
}

/// Agents on the cluster's nodes, which know each other.
fn start<const NODES: usize>(cluster: &Cluster, args: &str) -> [Agent; NODES] {
    let agents = std::array::from_fn(|node| cluster.start(node, &flags(cluster.node(node), args)));
    for agent in &agents {
        Agent::wait_for_peers(agent, NODES - 1).unwrap();
    }
    agents
}

/// Three nodes of a Kubernetes cluster with both families.
#[test]
fn pods_of_the_plugins_reach_each_other_on_the_fast_path() {
    for args in carried_at_tc() {
        let cluster = Cluster::new("cni", 3, &config(&[DUAL], TUNNEL));
        let agents = start::<3>(&cluster, args);
        let runtimes =
            [0, 1, 2].map(|node| Runtime::new(cluster.node(node), &conflist(cluster.node(node))).unwrap());
        let pods = runtimes.each_ref().map(|runtime| runtime.add("a", &[]).unwrap());
        for (number, pod) in (1..).zip(&pods) {
            let expected: [IpAddr; 2] =
                [[10, 42, number, 2].into(), format!("fd42:0:0:{number}::2").parse().unwrap()];
            assert_eq!(pod.addresses().collect::<Vec<_>>(), expected, "{args}");
            assert_eq!(links::mtu(pod.netns(), "eth0").unwrap(), 1430);
            let routes = pod.netns().ip("route show").unwrap() + &pod.netns().ip("-6 route show").unwrap();
            for to in ["default", "10.42.0.0/16", "fd42::/48"] {
                assert!(routes.contains(&format!("{to} via ")), "{to}: {routes}");
            }
        }
        traffic::ping_all_pairs(&pods).unwrap();
        if is_fast(args) {
            wait_until_seen(&agents, || traffic::ping_all_pairs(&pods)).unwrap();
        }
        let counted = |node: usize| {
            let agent: &Agent = &agents[node];
            (
                agent.counter("from_pod", "forwarded").unwrap(),
                agent.counter("from_wire", "delivered").unwrap(),
            )
        };
        for address in pods[1].addresses() {
            let before = [counted(0), counted(1)];
            traffic::ping_burst(pods[0].netns(), address, 50).unwrap();
            for (node, before) in [0, 1].into_iter().zip(before) {
                let (out, into) = counted(node);
                let is_all = out >= before.0 + 40 && into >= before.1 + 40;
                assert_eq!(is_all, is_fast(args), "{args}, {address}: {before:?} to {:?}", (out, into));
            }
        }
        for (runtime, pod) in runtimes.iter().zip(&pods) {
            runtime.delete(pod, &[]).unwrap();
            assert_eq!(runtime.addresses_in_use().unwrap(), 0);
        }
    }
}

/// Readers find a whole file or none, and none before packets can travel.
#[test]
fn the_configuration_comes_when_the_node_is_ready_and_comes_back() {
    let mut overlay = Overlay::bare(Topology::builder("cni-conf").nodes(1), "").unwrap();
    let node = overlay.node(0);
    let path = conflist(node);
    let agent = overlay.start_agent(0, &flags(node, "--mode kernel")).unwrap();
    Overlay::wait_for_log(&agent, "network config").unwrap();
    assert!(!path.exists(), "there is no network yet");
    overlay.store.put("config", &config(&[ONLY_IPV4], TUNNEL)).unwrap();
    overlay.agents.push(agent);
    overlay.agents[0].wait_ready().unwrap();
    let mtu = || {
        let list: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        list["plugins"][0]["mtu"].as_u64().unwrap()
    };
    assert_eq!(mtu(), 1450);
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "nothing else in the runtime's folder"
    );

    overlay.store.put("config", &config(&[ONLY_IPV4], r#"{"Type":"vxlan","MTU":1400}"#)).unwrap();
    wait_for("the new MTU", SOON, || Ok(mtu() == 1350)).unwrap();
    fs::remove_file(&path).unwrap();
    // Any change of the kernel's has the agent look.
    overlay.node(0).netns().ip("link add br9 type bridge").unwrap();
    wait_for("the file to be back", SOON, || Ok(path.exists())).unwrap();
    assert!(overlay.agents[0].log().contains("was changed or removed"));

    overlay.agents[0].terminate().unwrap();
    assert!(path.exists(), "pods can be made while the agent is restarted");
    let binary = ovl_tests::artifacts::agent_binary().unwrap();
    let cleanup = overlay.node(0).command(binary).arg("cleanup").arg("--cni-conf").arg(&path);
    let (subnet, socket) =
        (overlay.agents[0].subnet_file().to_owned(), overlay.agents[0].socket().to_owned());
    let said = cleanup.arg("--subnet-file").arg(subnet).arg("--socket").arg(socket).run().unwrap();
    assert!(said.contains("10-flannel.conflist") && !path.exists(), "{said}");
}

/// The file of flannel's own is replaced by one under which its pods keep their addresses.
#[test]
fn a_pod_of_flannels_configuration_keeps_its_address() {
    let mut overlay =
        Overlay::start(Topology::builder("cni-move").nodes(1), "vxlan", "--mode kernel").unwrap();
    let mut former = overlay.agents.remove(0);
    let node = overlay.node(0);
    let path = conflist(node);
    write_flannels(&path, former.subnet_file());
    let runtime = Runtime::new(node, &path).unwrap();
    let old = runtime.add("old", &[]).unwrap();
    former.terminate().unwrap();
    let _agent = overlay.start_ready(0, &flags(node, "--mode kernel")).unwrap();
    let new = runtime.add("new", &[]).unwrap();
    assert_ne!(old.address(), new.address());
    traffic::ping(new.netns(), old.address()).unwrap();
    runtime.delete(&old, &[]).unwrap();
    assert_eq!(runtime.addresses_in_use().unwrap(), 1, "the old pod's address is free");
}

/// Pods come and go, each talks to one on the other node, and nothing of them is left.
#[test]
fn pods_that_come_and_go_leave_nothing() {
    let cluster = Cluster::new("cni-churn", 2, &config(&[ONLY_IPV4], TUNNEL));
    let agents = start::<2>(&cluster, VERIFIED);
    let nodes = [0, 1].map(|node| cluster.node(node));
    let runtimes = nodes.map(|node| Runtime::new(node, &conflist(node)).unwrap());
    // One that stays, so that the bridge does.
    let stay = runtimes.each_ref().map(|runtime| runtime.add("stay", &[]).unwrap());
    traffic::ping_all_pairs(&stay).unwrap();
    let count =
        |node: &Node, map: &str| pinned::shown(node, "map dump", map).unwrap().as_array().unwrap().len();
    let rows = |node: &Node| {
        let veths = links::ip_json(node.netns(), "link show type veth").unwrap().as_array().unwrap().len();
        (count(node, "OVL_PORTS"), attached(node).unwrap().len(), veths)
    };
    let is_settled =
        || Ok(nodes.iter().all(|node| count(node, "OVL_PORTS") == 1 && attached(node).unwrap().len() == 4));
    wait_for("the pods that stay to have programs", SOON, is_settled).unwrap();
    let before = nodes.map(rows);
    let rounds = CHURN / AT_ONCE / 2;
    for round in 0..rounds {
        // Both nodes at the same time, as two runtimes do.
        let made: Vec<Vec<Pod>> = thread::scope(|scope| {
            let make = |runtime| {
                move || {
                    (0..AT_ONCE)
                        .map(|pod| Runtime::add(runtime, &format!("{round}-{pod}"), &[]).unwrap())
                        .collect()
                }
            };
            let making: Vec<_> = runtimes.iter().map(|runtime| scope.spawn(make(runtime))).collect();
            making.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (one, other) in made[0].iter().zip(&made[1]) {
            traffic::ping(one.netns(), other.address()).unwrap();
        }
        let [one, other] = [&made[0][0], &made[1][0]];
        let forwarded = || agents[0].counter("from_pod", "forwarded");
        let before = forwarded().unwrap();
        wait_for("a new pod's packets on the fast path", SOON, || {
            traffic::ping_burst(one.netns(), other.address(), 5)?;
            Ok(forwarded()? > before)
        })
        .unwrap();
        thread::scope(|scope| {
            for (runtime, pods) in runtimes.iter().zip(made) {
                scope.spawn(move || pods.iter().for_each(|pod| runtime.delete(pod, &[]).unwrap()));
            }
        });
    }
    let logs: String = agents.iter().map(Agent::log).collect();
    assert!(!logs.contains("WARN"), "pods that come and go are nothing to warn of");
    for (node, before) in nodes.iter().zip(before) {
        // Of the pod that stays, which may have been learned or not.
        let learned = || ["OVL_ENDPOINTS", "OVL_POD_MACS"].map(|map| count(node, map));
        let is_as_before = || Ok(rows(node) == before && learned().iter().all(|count| *count <= 1));
        wait_for("the pods' rows and interfaces to be gone", SOON * 6, is_as_before)
            .unwrap_or_else(|error| panic!("{error:#}: {:?}, before {before:?}", rows(node)));
        // Those of the pods that stay may be there.
        let stays: Vec<IpAddr> = stay.iter().map(Pod::address).collect();
        let strangers = || -> usize {
            let flows = pinned::flow_addresses(node).unwrap();
            flows.iter().filter(|(local, _)| !stays.contains(local)).count()
        };
        wait_for("the flows of pods that are gone to be gone", SOON * 6, || Ok(strangers() == 0)).unwrap();
    }
    for runtime in &runtimes {
        assert_eq!(runtime.addresses_in_use().unwrap(), 1);
    }
}

/// `hostPort`s are the plugin's own DNAT; the pod behind one answers whoever asks, on whichever path.
#[test]
fn a_host_port_leads_to_its_pod() {
    for args in filtered_at_tc() {
        let cluster = Cluster::new("cni-port", 2, &config(&[ONLY_IPV4], TUNNEL));
        let _agents = start::<2>(&cluster, args);
        let runtimes =
            [0, 1].map(|node| Runtime::new(cluster.node(node), &conflist(cluster.node(node))).unwrap());
        let server = runtimes[0].add("server", &[(8080, 80)]).unwrap();
        let client = runtimes[1].add("client", &[]).unwrap();
        let echo = Echo::start(server.netns(), SocketAddr::new(server.address(), 80), 7).unwrap();
        let port = SocketAddr::new(cluster.node(0).address(), 8080);
        let mut caller = ovl_tests::echo::Caller::connect(client.netns(), port, SOON).unwrap();
        caller.ask(3000).unwrap();
        assert_eq!((caller.mark(), echo.resets()), (7, 0), "{args}");
        assert_eq!(ask_once(client.netns(), echo.address(), SOON).unwrap(), 7);
        runtimes[0].delete(&server, &[(8080, 80)]).unwrap();
        let rules = cluster.node(0).command("iptables").words("-t nat -S").run().unwrap();
        assert!(!rules.contains("8080"), "{rules}");
    }
}

/// The bridge that the plugin makes is the one whose ports the agent takes for pods.
#[test]
fn the_bridge_has_the_name_that_the_agent_looks_for() {
    let overlay =
        Overlay::bare(Topology::builder("cni-name").nodes(1), &config(&[ONLY_IPV4], TUNNEL)).unwrap();
    let node = overlay.node(0);
    let _agent = overlay.start_ready(0, &flags(node, "--mode kernel --pod-bridge pods0")).unwrap();
    let runtime = Runtime::new(node, &conflist(node)).unwrap();
    let pod = runtime.add("a", &[]).unwrap();
    let port = links::ip_json(node.netns(), &format!("link show dev {}", pod.host_interface())).unwrap();
    assert_eq!(port[0]["master"], "pods0");
    assert!(!links::exists(node.netns(), POD_BRIDGE).unwrap());
}
