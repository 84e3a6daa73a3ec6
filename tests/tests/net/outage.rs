//! A store that is gone for a minute, longer than a claim on a public IP lasts and than most restarts take: an etcd, and
//! beside it, in the same minute, the API server of a Kubernetes cluster.

use std::time::{Duration, Instant};

use ovl_tests::agent::Agent;
use ovl_tests::etcd::Etcd;
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground, StreamInBackground};
use ovl_tests::wait::wait_for;

use crate::etcd_life::{etcd, leases, revisions, start_agents, terms};
use crate::kubernetes::Cluster;
use crate::listing::{Rows, rows, wait_for_rows};
use crate::overlay::{DUAL, EBPF, Overlay, SOON, config};

const OUTAGE: Duration = Duration::from_mins(1);
/// The longest pause between two questions to an API server that is gone, and some.
const NEXT_QUESTION: Duration = Duration::from_secs(40);

#[test]
fn a_minute_without_a_store_is_not_noticed_by_pods() {
    let kubernetes = OnKubernetes::start();
    let mut pings = pings(&kubernetes.pods);
    kubernetes.cluster.server.hang_up(true);
    let kubernetes_back = Instant::now() + OUTAGE;
    kubernetes.change_nodes();
    kubernetes.assert_repairs();
    let mut etcd = OnEtcd::start();
    pings.extend(self::pings(&etcd.pods));
    etcd.etcd.kill().unwrap();
    let etcd_back = Instant::now() + OUTAGE;

    // Over the end of each.
    answered_until(kubernetes_back, &pings);
    kubernetes.assert_as_before();
    let stream = StreamInBackground::start(&kubernetes.pods[1], &kubernetes.pods[0], 5).unwrap();
    kubernetes.cluster.server.hang_up(false);
    none_silent(stream);
    answered_until(etcd_back, &pings);
    let stream = StreamInBackground::start(&etcd.pods[1], &etcd.pods[0], 5).unwrap();
    etcd.etcd.start_again().unwrap();
    etcd.assert_undisturbed();
    none_silent(stream);
    kubernetes.assert_caught_up();
    for ping in pings {
        let ping = ping.stop().unwrap();
        assert_eq!(ping.lost(), 0, "{ping:?}");
    }
}

fn answered_until(end: Instant, pings: &[PingInBackground]) {
    while Instant::now() < end {
        for ping in pings {
            ping.wait_for_more(50, SOON).unwrap();
        }
    }
}

fn none_silent(stream: StreamInBackground) {
    let stream = stream.finish().unwrap();
    assert!(stream.silent_intervals < 10, "{stream:?}");
}

fn pings(pods: &[Pod]) -> Vec<PingInBackground> {
    let to = pods[1].addresses();
    to.map(|address| PingInBackground::start(pods[0].netns(), address).unwrap()).collect()
}

/// Two nodes, their leases in etcd. Fields are dropped in order.
struct OnEtcd {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    etcd: Etcd,
    /// All leases, before it was gone.
    before: String,
    _topology: Topology,
}

impl OnEtcd {
    fn start() -> Self {
        let topology = Topology::builder("outage").nodes(2).switch().build().unwrap();
        let etcd = etcd(&topology, r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#);
        let mut agents = start_agents(&topology, &etcd, EBPF);
        let mut pods = Vec::new();
        for (node, agent) in topology.nodes().iter().zip(&mut agents) {
            agent.wait_ready().unwrap();
            agent.wait_for_peers(1).unwrap();
            pods.push(node.add_pod("a", &agent.subnet().unwrap()).unwrap());
        }
        traffic::ping_all_pairs(&pods).unwrap();
        let before = leases(&etcd);
        Self { pods, agents, etcd, before, _topology: topology }
    }

    fn assert_undisturbed(&self) {
        for agent in &self.agents {
            Overlay::wait_for_log(agent, "answers again").unwrap();
        }
        assert_eq!(revisions(&leases(&self.etcd)), revisions(&self.before), "nobody had to write anything");
        assert_eq!(terms(&self.etcd), (2, 2));
        for agent in &self.agents {
            assert!(!agent.log().contains("ERROR"), "{}", agent.log_tail());
            agent.wait_for_peers(1).unwrap();
        }
    }
}

/// Two nodes with an agent, beside nodes of a stock flannel as their annotations tell of them. Fields are dropped in order.
struct OnKubernetes {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    /// The rows of both, and how often Nodes had been listed, before it was gone.
    before: [Rows; 2],
    lists: usize,
    cluster: Cluster,
}

/// Stock nodes by the last digit of their subnets: one is deleted in that minute, one gets another IPv6 address, and one
/// comes.
const GONE: u8 = 7;
const MOVED: u8 = 8;
const FRESH: u8 = 9;

impl OnKubernetes {
    fn start() -> Self {
        let cluster = Cluster::new("outage-kube", 2, &config(&[DUAL], r#"{"Type":"vxlan"}"#));
        add_stock_node(&cluster, GONE);
        add_stock_node(&cluster, MOVED);
        let (agents, pods): (Vec<_>, Vec<_>) = (0..2).map(|node| cluster.start_with_pod(node, EBPF)).unzip();
        for agent in &agents {
            agent.wait_for_peers(3).unwrap();
        }
        traffic::ping_all_pairs(&pods).unwrap();
        let before = [0, 1].map(|node| rows(cluster.node(node)).unwrap());
        assert!(before.iter().all(|rows| has_subnets(rows, GONE) && leads_to(rows, MOVED, ["48", "48"])));
        let lists = cluster.server.count("list nodes");
        Self { pods, agents, before, lists, cluster }
    }

    /// What becomes of Nodes while nobody can hear of it.
    fn change_nodes(&self) {
        let server = &self.cluster.server;
        server.delete_node(&stock_name(GONE));
        server.annotate(&stock_name(MOVED), &[("public-ipv6", Some("2001:db8:c0::58"))]);
        add_stock_node(&self.cluster, FRESH);
    }

    /// What somebody takes away comes back without asking.
    fn assert_repairs(&self) {
        let (node, before) = (self.cluster.node(0), &self.before[0]);
        node.netns().ip(&format!("route del 10.42.{MOVED}.0/24")).unwrap();
        wait_for_rows(node, before, "the route to be back");
    }

    /// Nothing was removed, and a server that is gone was not asked more often than a pause that doubles allows.
    fn assert_as_before(&self) {
        for (node, before) in self.cluster.topology.nodes().iter().zip(&self.before) {
            assert_eq!(&rows(node).unwrap(), before);
        }
        for agent in &self.agents {
            let status = agent.status().unwrap();
            assert_eq!((&status["ready"], &status["store_health"]["up"]), (&true.into(), &false.into()));
        }
        let tries = self.cluster.server.turned_away();
        assert!((2 * 5..=2 * 10).contains(&tries), "{tries} connections of two agents in {OUTAGE:?}");
    }

    fn assert_caught_up(&self) {
        for node in self.cluster.topology.nodes() {
            wait_for(&format!("{} to know what it missed", node.name()), NEXT_QUESTION, || {
                let rows = rows(node)?;
                let is_moved = leads_to(&rows, MOVED, ["48", "58"]);
                Ok(is_moved && has_subnets(&rows, FRESH) && !is_named(&rows, GONE))
            })
            .unwrap();
        }
        for agent in &self.agents {
            agent.wait_for_peers(3).unwrap();
            let log = agent.log();
            let (told, over) = (log.matches(" WARN ").count(), log.matches("answers again").count());
            assert!(told <= 1 && over == 1 && !log.contains("ERROR"), "said once: {log}");
        }
        assert_eq!(self.cluster.server.count("list nodes"), self.lists, "watches went on where they were");
    }
}

fn stock_name(digit: u8) -> String {
    format!("stock{digit}")
}

fn stock_mac(digit: u8) -> String {
    format!("02:00:00:00:5a:0{digit}")
}

/// A Node as its flanneld annotates it.
fn add_stock_node(cluster: &Cluster, digit: u8) {
    let name = stock_name(digit);
    let subnets = [format!("10.42.{digit}.0/24"), format!("fd42:0:0:{digit}::/64")];
    cluster.server.add_node(&name, &[&subnets[0], &subnets[1]]);
    let data = format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, stock_mac(digit));
    let said = [
        ("backend-data", data.as_str()),
        ("backend-type", "vxlan"),
        ("backend-v6-data", &data),
        ("kube-subnet-manager", "true"),
        ("public-ip", &format!("192.0.2.4{digit}")),
        ("public-ipv6", &format!("2001:db8:c0::4{digit}")),
    ];
    cluster.server.annotate(&name, &said.map(|(suffix, value)| (suffix, Some(value))));
}

/// Whether there are routes to both of a stock node's subnets.
fn has_subnets(rows: &Rows, digit: u8) -> bool {
    let subnets = [format!("route 10.42.{digit}.0/24 "), format!("route fd42:0:0:{digit}::/64 ")];
    subnets.iter().all(|subnet| rows.iter().any(|row| row.starts_with(subnet)))
}

/// Whether tunnels to a stock node end at these of its network's addresses, of each family.
fn leads_to(rows: &Rows, digit: u8, hosts: [&str; 2]) -> bool {
    let ends = [format!("192.0.2.{}", hosts[0]), format!("2001:db8:c0::{}", hosts[1])];
    let entries = ends.map(|end| format!("fdb {} {end} ", stock_mac(digit)));
    entries.iter().all(|entry| rows.iter().any(|row| row.starts_with(entry)))
        && rows.iter().filter(|row| row.starts_with(&format!("fdb {}", stock_mac(digit)))).count() == 2
}

/// Whether any row has to do with a stock node.
fn is_named(rows: &Rows, digit: u8) -> bool {
    let names = [format!("10.42.{digit}."), format!("fd42:0:0:{digit}::"), stock_mac(digit)];
    rows.iter().any(|row| names.iter().any(|name| row.contains(name)))
}
