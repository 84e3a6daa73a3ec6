//! The DaemonSet's container without a container engine: the image's files as `deploy/rootfs.sh` lays them out, the
//! arguments, capabilities and mounts of the manifest, a root and a `/proc/sys` that are read-only.

mod access;
mod container;

use std::fs;

use ovl_tests::agent::Agent;
use ovl_tests::artifacts;
use ovl_tests::background::Background;
use ovl_tests::cni::Runtime;
use ovl_tests::pod::Pod;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use self::access::{Access, TOKEN};
use self::container::Container;
use crate::cni::{conflist, flags};
use crate::kubernetes::Cluster;
use crate::overlay::{DUAL, ONLY_IPV4, SOON, VERIFIED, config};

fn manifest(name: &str) -> Value {
    let path = artifacts::workspace().join("deploy").join(name);
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

fn wait_ready(agent: &Background) {
    let is_ready = || Ok(agent.log().contains("ready:"));
    wait_for("the container's agent to be ready", SOON * 4, is_ready)
        .unwrap_or_else(|error| panic!("{error:#}: {}", agent.log()));
}

/// An agent on the second node.
fn start_peer(cluster: &Cluster, args: &str) -> Agent {
    let kubeconfig = cluster.server.kubeconfig(cluster.topology.dir(), TOKEN).unwrap();
    let flags = flags(cluster.node(1), args);
    cluster.start(1, &format!("{flags} --kubeconfig-file {}", kubeconfig.display()))
}

/// One on each node, by the configurations that the agents wrote.
fn pods_that_reach_each_other(cluster: &Cluster, container: &Container<'_>) -> [Pod; 2] {
    let written = [container.on_node("/etc/cni/net.d/10-flannel.conflist"), conflist(cluster.node(1))];
    let pods = [0, 1].map(|index: usize| {
        let runtime = Runtime::new(cluster.node(index), &written[index]).unwrap();
        runtime.add("a", &[]).unwrap()
    });
    traffic::ping_all_pairs(&pods).unwrap();
    pods
}

#[test]
fn the_manifests_capabilities_and_mounts_suffice() {
    let rules =
        [(true, "nft list ruleset"), (false, "iptables-nft -t nat -S"), (false, "iptables-legacy -t nat -S")];
    for (nftables, rules) in rules {
        let network = format!(r#"{ONLY_IPV4},"EnableNFTables":{nftables}"#);
        let cluster = Cluster::new("daemonset", 2, &config(&[&network], r#"{"Type":"vxlan"}"#));
        let here = cluster.node(0);
        let access = Access::to(&cluster);
        let peer = start_peer(&cluster, VERIFIED);
        let container = Container::new(here, &access);
        if rules.starts_with("iptables-legacy") {
            // As the kubelet does, for tools in containers to write rules where the host has its own.
            here.command("iptables-legacy").words("-t mangle -N KUBE-IPTABLES-HINT").run().unwrap();
        }
        container.configure(&cluster);
        let more = "--mode ebpf --strict --verify-interval 2 --iface eth0";
        let mut agent = container.start(more);
        wait_ready(&agent);
        peer.wait_for_peers(1).unwrap();

        let pods = pods_that_reach_each_other(&cluster, &container);
        wait_for("the fast path", SOON, || {
            traffic::ping_burst(pods[0].netns(), pods[1].address(), 20)?;
            Ok(container.forwarded() > 10)
        })
        .unwrap();
        // TCP may use it, too.
        let liberal = here
            .netns()
            .command("sysctl")
            .words("-n net.netfilter.nf_conntrack_tcp_be_liberal")
            .run()
            .unwrap();
        assert_eq!(liberal.trim(), "1");
        assert!(container.has_pins(), "programs outlive the agent");
        let rules = here.command("sh").arg("-c").arg(rules).run().unwrap();
        assert!(rules.to_lowercase().contains("masquerade"), "{rules}");
        let health = |path: &str| {
            let url = format!("http://{}:9472{path}", here.address());
            let get = format!(
                "exec 3<>/dev/tcp/{}/9472; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3",
                here.address()
            );
            let said = here.command("bash").arg("-c").arg(get).run().unwrap();
            assert!(said.contains("200"), "{url}: {said}");
        };
        for probe in ["livenessProbe", "readinessProbe"] {
            health(container.spec()[probe]["httpGet"]["path"].as_str().unwrap());
        }
        health("/metrics");
        let log = agent.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");

        // A rolling update.
        let ping = traffic::PingInBackground::start(pods[0].netns(), pods[1].address()).unwrap();
        agent.stop(nix::sys::signal::Signal::SIGTERM, SOON).unwrap();
        let agent = container.start(more);
        wait_ready(&agent);
        ping.wait_for_more(20, SOON).unwrap();
        assert_eq!(ping.stop().unwrap().lost(), 0);
    }
}

/// The same for packets through a TUN device, which no other backend needs.
#[test]
fn the_udp_backend_has_its_device() {
    let cluster = Cluster::new("daemonset-udp", 2, &config(&[DUAL], r#"{"Type":"udp"}"#));
    let here = cluster.node(0);
    let access = Access::to(&cluster);
    let peer = start_peer(&cluster, "");
    let container = Container::new(here, &access);
    container.configure(&cluster);
    let mut agent = container.start("--iface eth0");
    wait_for("a word about the device", SOON, || Ok(agent.log().contains("cannot open /dev/net/tun")))
        .unwrap();
    agent.stop(nix::sys::signal::Signal::SIGTERM, SOON).unwrap();

    let container = container.with_udp();
    let agent = container.start("--iface eth0");
    wait_ready(&agent);
    peer.wait_for_peers(1).unwrap();
    pods_that_reach_each_other(&cluster, &container);
    let log = agent.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

/// What the manifest lets an agent do is what an agent asks for.
#[test]
fn the_manifests_role_suffices() {
    let roles = fs::read_to_string(artifacts::workspace().join("deploy/kubernetes/rbac.yaml")).unwrap();
    let roles: Vec<Value> = serde_saphyr::from_multiple(&roles).unwrap();
    let role = roles.iter().find(|object| object["kind"] == "ClusterRole").unwrap();
    let allowed: Vec<String> = role["rules"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| {
            let resources = words(&rule["resources"]);
            words(&rule["verbs"]).into_iter().flat_map(move |verb| {
                resources.clone().into_iter().map(move |resource| format!("{verb} {resource}"))
            })
        })
        .collect();
    let cluster = Cluster::new("role", 1, &config(&[ONLY_IPV4], r#"{"Type":"vxlan"}"#));
    let _agent = cluster.start(0, "--mode kernel");
    cluster.wait_for_condition("node1", "False", SOON);
    let asked = cluster.server.asked();
    for question in &asked {
        assert!(allowed.contains(question), "{question} is not among {allowed:?}");
    }
    for right in &allowed {
        assert!(asked.contains(right), "nobody asks to {right}: {asked:?}");
    }
}
