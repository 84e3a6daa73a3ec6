//! Agents and their etcd over a longer time: who gets what at the start, and what is lost and comes back.

use std::collections::BTreeSet;

use ovl_tests::agent::{Agent, AgentOptions, Store};
use ovl_tests::artifacts;
use ovl_tests::background::Lifetime;
use ovl_tests::etcd::Etcd;
use ovl_tests::links;
use ovl_tests::topology::Topology;
use ovl_tests::wait::wait_for;

use crate::overlay::{KERNEL, Overlay, SOON};

const PREFIX: &str = "/coreos.com/network";

/// An etcd on the underlay, and how to start agents on it.
pub(crate) fn etcd(topology: &Topology, config: &str) -> Etcd {
    let etcd = Etcd::on_underlay(topology, Lifetime::WithHarness).unwrap();
    etcd.put(&format!("{PREFIX}/config"), config).unwrap();
    etcd
}

pub(crate) fn start_agents(topology: &Topology, etcd: &Etcd, args: &str) -> Vec<Agent> {
    let store = Store::Etcd(etcd.url().to_owned());
    let options = AgentOptions::new(artifacts::agent_binary().unwrap(), store).args(args);
    topology.nodes().iter().map(|node| Agent::start(node, &options).unwrap()).collect()
}

/// All leases, values, revisions and etcd leases included.
pub(crate) fn leases(etcd: &Etcd) -> String {
    etcd.etcdctl().args(["get", "--prefix", "-w", "json", &format!("{PREFIX}/subnets/")]).run().unwrap()
}

/// How many etcd leases there are for leases and for claims on public IPs. None may have no key, or two.
pub(crate) fn terms(etcd: &Etcd) -> (usize, usize) {
    let mut counts = (0, 0);
    wait_for("each etcd lease to have one key", SOON, || {
        let terms = etcd.etcdctl().words("lease list").run()?;
        let mut states = Vec::new();
        for term in terms.lines().skip(1).filter(|line| !line.is_empty()) {
            states.push(etcd.etcdctl().words("lease timetolive --keys").arg(term).run()?);
        }
        let with = |part| states.iter().filter(|state| state.contains(part)).count();
        counts = (with("/subnets/"), with("/ovl/agents/"));
        Ok(states.iter().all(|state| state.matches(PREFIX).count() == 1))
    })
    .unwrap();
    counts
}

#[test]
fn twenty_agents_that_start_at_once_share_twenty_subnets() {
    let topology = Topology::builder("race").nodes(20).switch().build().unwrap();
    let etcd = etcd(
        &topology,
        r#"{"Network":"10.42.0.0/16","SubnetMin":"10.42.1.0","SubnetMax":"10.42.20.0","Backend":{"Type":"vxlan"}}"#,
    );
    let mut agents = start_agents(&topology, &etcd, KERNEL);
    let mut subnets = BTreeSet::new();
    for agent in &mut agents {
        agent.wait_ready().unwrap();
        subnets.insert(agent.subnet().unwrap().cidr());
    }
    assert_eq!(subnets.len(), 20, "{subnets:?}");
    for agent in &agents {
        agent.wait_for_peers(19).unwrap();
    }
    assert_eq!(etcd.keys(&format!("{PREFIX}/subnets/")).unwrap().len(), 20);
    assert_eq!(terms(&etcd), (20, 20), "one each");
}

/// A listing without its header, which tells of all writes anywhere.
pub(crate) fn revisions(listing: &str) -> &str {
    listing.split_once("\"kvs\"").map_or("", |(_, rest)| rest)
}

#[test]
fn a_lease_that_is_lost_is_taken_again_and_said_so() {
    let topology = Topology::builder("lost").nodes(2).switch().build().unwrap();
    let etcd = etcd(&topology, r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#);
    let mut agents = start_agents(&topology, &etcd, KERNEL);
    for agent in &mut agents {
        agent.wait_ready().unwrap();
    }
    let key_of = |agent: &Agent| {
        format!("{PREFIX}/subnets/{}", agent.subnet().unwrap().cidr().replace(".1/", ".0/").replace('/', "-"))
    };
    let key = key_of(&agents[0]);
    let value = etcd.get(&key).unwrap().unwrap();
    etcd.delete(&key).unwrap();
    Overlay::wait_for_log(&agents[0], "vanished").unwrap();
    wait_for("the lease to be back", SOON, || Ok(etcd.get(&key)?.as_ref() == Some(&value))).unwrap();

    // As flannel takes a subnet that is another's: with a lease of its own and without a look.
    let granted = etcd.etcdctl().words("lease grant 86400").run().unwrap();
    let term = granted.split_whitespace().nth(1).unwrap();
    let mac = links::mac(topology.node(0).unwrap().netns(), "flannel.1").unwrap();
    let theirs = value.replace("192.0.2.11", "192.0.2.99").replace(&mac, "02:00:00:00:00:99");
    etcd.etcdctl().args(["put", "--lease", term, &key, &theirs]).run().unwrap();
    Overlay::wait_for_log(&agents[0], "taken over by 192.0.2.99").unwrap();
    wait_for("another subnet", SOON, || Ok(key_of(&agents[0]) != key)).unwrap();
    assert_eq!(etcd.get(&key).unwrap(), Some(theirs), "the taker keeps it");
    agents[1].wait_for_peers(2).unwrap();
    assert_eq!(terms(&etcd), (3, 2));
}

#[test]
fn an_agent_outlives_one_that_may_have_died_in_another_container() {
    let topology = Topology::builder("outlive").nodes(1).switch().build().unwrap();
    let etcd = etcd(&topology, r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#);
    let granted = etcd.etcdctl().words("lease grant 4").run().unwrap();
    let term = granted.split_whitespace().nth(1).unwrap();
    let claim = format!("{PREFIX}/ovl/agents/192.0.2.11");
    let holder =
        r#"{"host":"container","machine_id":"","boot_id":"x","pid":1,"pid_ns":1,"start_time":1,"claim":1}"#;
    etcd.etcdctl().args(["put", "--lease", term, &claim, holder]).run().unwrap();
    let mut agents = start_agents(&topology, &etcd, KERNEL);
    let said = "192.0.2.11 is held by the ovl-agent with pid 1 on host container, who may be dead: waiting";
    Overlay::wait_for_log(&agents[0], said).unwrap();
    agents[0].wait_ready().unwrap();
    assert_eq!(agents[0].log().matches("who may be dead").count(), 1, "{}", agents[0].log_tail());
}

#[test]
fn a_password_opens_etcd_and_is_in_no_log() {
    const SECRET: &str = "open-sesame";
    let topology = Topology::builder("password").nodes(1).switch().build().unwrap();
    let mut etcd = etcd(&topology, r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#);
    etcd.add_user("flannel", SECRET, PREFIX).unwrap();
    etcd.enable_auth("root-password").unwrap();
    let options = |password: &str| {
        let store = Store::Etcd(etcd.url().to_owned());
        AgentOptions::new(artifacts::agent_binary().unwrap(), store)
            .args(&format!("{KERNEL} --etcd-username flannel"))
            .env("FLANNELD_ETCD_PASSWORD", password)
    };
    let node = topology.node(0).unwrap();
    let mut refused = Agent::start(node, &options("not-sesame")).unwrap();
    assert!(!refused.wait_exit().unwrap().success());
    let log = refused.log();
    assert!(log.contains("--etcd-password") && !log.contains("not-sesame"), "{log}");

    // With all that the libraries say.
    let (good, url) = (options(SECRET).env("RUST_LOG", "trace"), etcd.url().to_owned());
    etcd.kill().unwrap();
    let mut agent = Agent::start(node, &good).unwrap();
    Overlay::wait_for_log(&agent, &format!("cannot read the network config yet: {url}")).unwrap();
    etcd.start_again().unwrap();
    agent.wait_ready().unwrap();
    agent.terminate().unwrap();
    assert!(!agent.log().contains(SECRET), "a secret is in the log");
}
