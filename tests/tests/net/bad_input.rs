//! Bad input gets one clear line and a non-zero exit, or, at run time, a rejected item by name.

use ovl_tests::agent::{Agent, AgentOptions, Store};
use ovl_tests::artifacts;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::overlay::{KERNEL, Overlay, SOON};

/// Starts an agent that must not run, and returns what it said last.
pub(crate) fn refused(overlay: &Overlay, options: &AgentOptions) -> String {
    let mut agent = Agent::start(overlay.node(0), options).unwrap();
    let status = agent.wait_exit().unwrap();
    let log = agent.log();
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}: {log}");
    let errors: Vec<&str> = log.lines().filter(|line| line.starts_with("error")).collect();
    let [error] = errors[..] else { panic!("one line that starts with 'error', not {errors:#?} in {log}") };
    error.to_owned()
}

pub(crate) fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
}

#[test]
fn flags_that_make_no_sense_are_named() {
    let overlay = Overlay::without_agents(Topology::builder("flags").nodes(2), "vxlan").unwrap();
    let table: [(&str, &[&str]); 5] = [
        ("--nonsense", &["--nonsense"]),
        ("--mode fast", &["fast", "--mode"]),
        ("--fast-path sometimes", &["sometimes", "--fast-path"]),
        ("--iface-regex (", &["--iface-regex '('"]),
        ("--etcd-endpoints http://127.0.0.1:1", &["--store", "--etcd-endpoints"]),
    ];
    for (args, parts) in table {
        assert_says(&refused(&overlay, &overlay.options(args)), parts);
    }
}

#[test]
fn interfaces_that_are_not_there_are_named() {
    let overlay = Overlay::without_agents(Topology::builder("iface").nodes(2), "vxlan").unwrap();
    let store = format!("--mode kernel --store dir:{}", overlay.store.path().display());
    let table: [(&str, &[&str]); 3] = [
        ("--iface eth7", &["--iface eth7", "this node has eth0 ("]),
        ("--iface 10.9.9.9", &["--iface 10.9.9.9", "no interface"]),
        ("--public-ip 203.0.113.9", &["--public-ip 203.0.113.9", "--iface"]),
    ];
    for (args, parts) in table {
        let agent = overlay.node(0).command(artifacts::agent_binary().unwrap()).words(&store).words(args);
        let output = agent.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args}: {said}");
        assert_says(said.lines().last().unwrap_or_default(), parts);
    }
}

#[test]
fn configs_that_make_no_sense_are_named_and_waited_out() {
    let overlay = Overlay::without_agents(Topology::builder("config").nodes(2), "vxlan").unwrap();
    let good = overlay.store.get("config").unwrap();
    overlay.store.put("config", "{\"Network\": ").unwrap();
    let mut agent = Agent::start(overlay.node(0), &overlay.options(KERNEL)).unwrap();
    Overlay::wait_for_log(&agent, "not a JSON object").unwrap();
    for (config, complaint) in [
        (r#"{"Network":"10.42.0.0/33","Backend":{"Type":"vxlan"}}"#, "10.42.0.0/33"),
        (r#"{"Network":"10.42.0.0/16","Backend":{"Type":"gre"}}"#, "'gre' is not one of: vxlan, host-gw"),
        (r#"{"Network":"10.42.0.0/16","Backend":{}}"#, "Backend.Type is missing"),
    ] {
        overlay.store.put("config", config).unwrap();
        Overlay::wait_for_log(&agent, complaint).unwrap();
    }
    overlay.store.put("config", &good).unwrap();
    agent.wait_ready().unwrap();
}

#[test]
fn a_store_that_cannot_be_used_is_named() {
    let overlay = Overlay::without_agents(Topology::builder("nostore").nodes(2), "vxlan").unwrap();
    let binary = artifacts::agent_binary().unwrap();
    // A read-only file system: root writes through permissions, but not through this.
    for path in ["/nonexistent/store", "/proc/sys"] {
        let options = AgentOptions::new(binary.clone(), Store::Dir(path.into())).args(KERNEL);
        assert_says(&refused(&overlay, &options), &[path]);
    }
}

#[test]
fn two_agents_with_one_public_ip() {
    let mut overlay = Overlay::start(Topology::builder("twins").nodes(2), "vxlan", KERNEL).unwrap();
    overlay.agents[1].terminate().unwrap();
    let taken = overlay.node(0).address();
    let options = overlay.options(KERNEL).public_ip(taken);
    let mut second = Agent::start(overlay.node(1), &options).unwrap();
    let status = second.wait_exit().unwrap();
    assert_eq!(status.code(), Some(1));
    let pid = overlay.agents[0].pid().unwrap().to_string();
    assert_says(second.log().lines().last().unwrap_or_default(), &["error: ", &taken.to_string(), &pid]);
    assert!(
        overlay.agents[0].status().unwrap()["ready"].as_bool().unwrap(),
        "the first one is not disturbed"
    );
}

#[test]
fn two_agents_for_one_device() {
    let overlay = Overlay::start(Topology::builder("same-dev").nodes(2), "vxlan", KERNEL).unwrap();
    let error = refused(&overlay, &overlay.options(KERNEL));
    assert_says(&error, &["another ovl-agent answers on", "agent.sock"]);
    let other = overlay.topology.dir().join("other.sock");
    let error = refused(&overlay, &overlay.options(&format!("{KERNEL} --socket {}", other.display())));
    assert_says(&error, &["another ovl-agent already manages flannel.1"]);
}

#[test]
fn an_agent_that_waits_says_for_what() {
    let overlay = Overlay::bare(Topology::builder("waiting").nodes(2), "{}").unwrap();
    let agent = Agent::start(overlay.node(0), &overlay.options(KERNEL)).unwrap();
    wait_for("the status to say what is missing", SOON, || {
        // Its socket is not there at once.
        let Ok(status) = agent.status() else { return Ok(false) };
        let error = status["last_error"].as_str().unwrap_or_default();
        Ok(status["ready"] == false && error.contains("Network is missing"))
    })
    .unwrap();
}

#[test]
fn no_free_subnet() {
    let overlay = Overlay::without_agents(Topology::builder("full").nodes(2), "vxlan").unwrap();
    let config = r#"{"Network":"10.42.0.0/24","SubnetLen":26,"Backend":{"Type":"vxlan"}}"#;
    overlay.store.put("config", config).unwrap();
    for (number, base) in [64, 128, 192].into_iter().enumerate() {
        let lease = format!(r#"{{"PublicIP":"192.0.2.20{number}","PublicIPv6":null,"BackendType":"vxlan"}}"#);
        overlay.store.put(&format!("subnets/10.42.0.{base}-26"), &lease).unwrap();
    }
    assert_says(&refused(&overlay, &overlay.options(KERNEL)), &["no free", "/26", "10.42.0.0/24"]);
}

#[test]
fn a_lease_file_with_garbage_disturbs_nobody() {
    let overlay = Overlay::start(Topology::builder("garbage").nodes(2), "vxlan", KERNEL).unwrap();
    let agent = &overlay.agents[0];
    overlay.store.put("subnets/10.42.240.0-24", "{not json").unwrap();
    overlay.store.put("subnets/nonsense", "{}").unwrap();
    let alien = r#"{"PublicIP":"192.0.2.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"x"}}"#;
    overlay.store.put("subnets/10.42.241.0-24", alien).unwrap();
    for name in ["10.42.240.0-24", "nonsense", "10.42.241.0-24"] {
        Overlay::wait_for_log(agent, name).unwrap();
    }
    wait_for("status to list all three", SOON, || {
        Ok(agent.status()?["rejected"].as_array().is_some_and(|rejected| rejected.len() == 3))
    })
    .unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}
