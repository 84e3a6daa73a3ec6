//! Nodes of a Kubernetes cluster: agents with `--kube-subnet-mgr` and a double of the API server on the underlay.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ovl_tests::agent::{Agent, AgentOptions, Store};
use ovl_tests::artifacts;
use ovl_tests::kernel_vtep::{KernelVtep, Peer};
use ovl_tests::kube::ApiServer;
use ovl_tests::links;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::overlay::{DUAL, EBPF, KERNEL, ONLY_IPV4, SOON, carried_at_tc, config};

const TUNNEL: &str = r#"{"Type":"vxlan"}"#;
/// What is broken for ten seconds is told.
const BROKEN: Duration = Duration::from_secs(30);
/// Longer than the pause between two questions to a server that is gone.
const OUTAGE: Duration = Duration::from_secs(40);

/// A cluster without agents yet. Fields are dropped in order.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) config: PathBuf,
    pub(crate) topology: Topology,
}

impl Cluster {
    /// Nodes with a podCIDR of each family, 10.42.1.0/24 and fd42:0:0:1::/64 on.
    pub(crate) fn new(label: &str, nodes: usize, config: &str) -> Self {
        let topology = Topology::builder(label).nodes(nodes).ipv6().switch().build().unwrap();
        let server = ApiServer::on_underlay(&topology).unwrap();
        for (number, node) in (1..).zip(topology.nodes()) {
            let subnets = [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number}::/64")];
            server.add_node(node.name(), &[&subnets[0], &subnets[1]]);
        }
        let file = topology.dir().join("net-conf.json");
        fs::write(&file, config).unwrap();
        Self { server, config: file, topology }
    }

    pub(crate) fn node(&self, index: usize) -> &Node {
        self.topology.node(index).unwrap()
    }

    pub(crate) fn start(&self, node: usize, args: &str) -> Agent {
        let store = Store::Kubernetes(self.server.url(), self.config.clone());
        let options = AgentOptions::new(artifacts::agent_binary().unwrap(), store).args(args);
        // As on a machine without certificate authorities, which a server without TLS does not need.
        let options = options.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
        let mut agent = Agent::start(self.node(node), &options).unwrap();
        agent.wait_ready().unwrap();
        agent
    }

    pub(crate) fn start_with_pod(&self, node: usize, args: &str) -> (Agent, Pod) {
        let agent = self.start(node, args);
        let pod = self.node(node).add_pod("a", &agent.subnet().unwrap()).unwrap();
        (agent, pod)
    }

    pub(crate) fn wait_for_condition(&self, node: &str, status: &str, deadline: Duration) {
        let what = format!("the condition NetworkUnavailable of {node} to be {status}");
        let said = || self.server.condition(node, "NetworkUnavailable").map(|(status, _)| status);
        wait_for(&what, deadline, || Ok(said().as_deref() == Some(status))).unwrap();
    }
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_the_nodes_say_how() {
    for args in carried_at_tc() {
        let cluster = Cluster::new("kube", 2, &config(&[DUAL], TUNNEL));
        let (agents, pods): (Vec<_>, Vec<_>) = (0..2).map(|node| cluster.start_with_pod(node, args)).unzip();
        for agent in &agents {
            agent.wait_for_peers(1).unwrap();
        }
        traffic::ping_all_pairs(&pods).unwrap();
        for (number, node) in (1..).zip(cluster.topology.nodes()) {
            let subnet = agents[number - 1].subnet().unwrap();
            let gateway = subnet.subnets.ipv4().unwrap().gateway.to_string();
            assert_eq!(gateway, format!("10.42.{number}.1"), "{args}");
            let mac = links::mac(node.netns(), "flannel.1").unwrap();
            let said = |suffix: &str| cluster.server.annotation(node.name(), suffix).unwrap();
            assert_eq!(said("backend-data"), format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#));
            assert_eq!(said("public-ip"), node.address().to_string());
            assert_eq!(said("public-ipv6"), node.address6().unwrap().to_string());
            cluster.wait_for_condition(node.name(), "False", SOON);
        }
        let status = agents[0].status().unwrap();
        let store = status["store"].as_str().unwrap();
        assert!(store.starts_with(&format!("Kubernetes API {}", cluster.server.url())), "{store}");
        assert!(status["lease"]["expires"].is_null());
    }
}

#[test]
fn a_stock_node_with_flannels_annotations_is_a_peer() {
    for args in [KERNEL, EBPF] {
        let cluster = Cluster::new("kube-stock", 2, &config(&[ONLY_IPV4], TUNNEL));
        let stock = cluster.node(1);
        let env = SubnetEnv::by_hand("10.42.0.0/16", "10.42.2.0/24", 1450).unwrap();
        let vtep = KernelVtep::create(stock, &env).unwrap();
        let mac = &vtep.own().first().vtep_mac;
        cluster.server.annotate(
            stock.name(),
            &[
                ("backend-data", Some(&format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#))),
                ("backend-type", Some("vxlan")),
                ("kube-subnet-manager", Some("true")),
                ("public-ip", Some(&stock.address().to_string())),
            ],
        );
        let (agent, pod) = cluster.start_with_pod(0, args);
        agent.wait_for_peers(1).unwrap();
        let subnet = agent.subnet().unwrap();
        vtep.add_peer(&Peer::of(cluster.node(0), subnet.subnets.first()).unwrap()).unwrap();
        let theirs = stock.add_pod("a", &env).unwrap();
        traffic::ping_all_pairs(&[pod, theirs]).unwrap();
    }
}

/// Annotations taken away, a node deleted while the agent is down, a machine restarted.
#[test]
fn a_nodes_life_in_a_cluster() {
    let cluster = Cluster::new("kube-life", 2, &config(&[ONLY_IPV4], TUNNEL));
    let (first, pod) = cluster.start_with_pod(0, KERNEL);
    let (mut second, other) = cluster.start_with_pod(1, KERNEL);
    first.wait_for_peers(1).unwrap();
    let pods = [pod, other];
    traffic::ping_all_pairs(&pods).unwrap();
    let name = cluster.node(0).name().to_owned();

    // Somebody takes our annotations away, and they come back.
    cluster.server.annotate(&name, &[("public-ip", None), ("kube-subnet-manager", None)]);
    let is_said = || Ok(cluster.server.annotation(&name, "public-ip").is_some());
    wait_for("our annotations", OUTAGE, is_said).unwrap();

    // A node that is deleted while the agent is down leaves nothing behind; the machine that is started anew keeps its
    // MAC, which peers have in their tables.
    let netns = cluster.node(1).netns();
    let mac = links::mac(netns, "flannel.1").unwrap();
    second.terminate().unwrap();
    drop((first, pods));
    cluster.server.delete_node(&name);
    let second = cluster.start(1, KERNEL);
    let is_gone = || Ok(!netns.ip("route show")?.contains("10.42.1.0/24"));
    wait_for("the deleted node's route to be gone", SOON, is_gone).unwrap();
    second.wait_for_peers(0).unwrap();
    drop(second);
    netns.ip("link del flannel.1").unwrap();
    let _second = cluster.start(1, KERNEL);
    assert_eq!(links::mac(netns, "flannel.1").unwrap(), mac);
}

/// The tunnel's device cannot be made: another one has its VNI and port.
#[test]
fn a_broken_data_plane_is_told() {
    let cluster = Cluster::new("kube-broken", 1, &config(&[ONLY_IPV4], TUNNEL));
    let name = cluster.node(0).name().to_owned();
    let _agent = cluster.start(0, KERNEL);
    cluster.wait_for_condition(&name, "False", SOON);
    let netns = cluster.node(0).netns();
    netns.ip("link set dev flannel.1 name stolen alias other").unwrap();
    cluster.wait_for_condition(&name, "True", BROKEN);
    netns.ip("link del stolen").unwrap();
    cluster.wait_for_condition(&name, "False", BROKEN);
}

/// A ConfigMap that changes: what can be applied is.
#[test]
fn a_changed_config_is_applied() {
    let cluster = Cluster::new("kube-config", 1, &config(&[ONLY_IPV4], TUNNEL));
    let agent = cluster.start(0, KERNEL);
    fs::write(&cluster.config, config(&[ONLY_IPV4], r#"{"Type":"vxlan","MTU":1400}"#)).unwrap();
    wait_for("the new MTU", SOON, || Ok(agent.subnet()?.mtu == 1350)).unwrap();
}
