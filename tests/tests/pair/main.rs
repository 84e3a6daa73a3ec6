//! XDP of a network card's driver, virtio_net, between two machines with a node each: guests of `cargo xtask kernels --pair`,
//! which gives them the cards and runs these tests in both at the same time, in the same order.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod machine;
mod partner;

use std::time::Duration;

use ovl_tests::links::ip_json;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::machine::{Machine, Running};

const VERIFIED: &str = "--mode ebpf --strict --fast-path verified --verify-interval 2";
/// Emulated processors take long for everything.
const SOON: Duration = Duration::from_secs(30);

/// The mode in which a node's card runs a program, as `ip` says it, and the program's name.
fn program(machine: &Machine) -> Option<(&'static str, String)> {
    let links = ip_json(machine.node().netns(), "-d link show dev eth0").unwrap();
    let xdp = &links[0]["xdp"];
    let mode = if xdp["mode"].as_u64()? == 1 { "native" } else { "other" };
    Some((mode, xdp["prog"]["name"].as_str().unwrap().to_owned()))
}

/// What the agent says of XDP: the mode and the reason.
fn said(running: &Running) -> (String, String) {
    let status = running.agent.status().unwrap();
    let text = |name: &str| status["ebpf"][name].as_str().unwrap().to_owned();
    (text("xdp"), text("xdp_reason"))
}

/// What `ethtool -k` says of a feature of the card.
fn is_on(machine: &Machine, feature: &str) -> bool {
    let said = machine.node().command("ethtool").words("--json -k eth0").run().unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    said[0][feature]["active"] == true
}

/// Pings until a program has counted more of both families' answers.
fn wait_until_counted(running: &Running, program: &str, reason: &str) {
    for address in running.others() {
        let counted = || running.agent.counter(program, reason);
        let before = counted().unwrap();
        wait_for(&format!("answers of {address} to be counted as {reason} by {program}"), SOON, || {
            running.ping(address)?;
            Ok(counted()? > before + 10)
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:#?}", running.agent.counters()));
    }
}

/// Everything arrives, and what comes from the other machine was stripped by XDP.
fn is_stripped_by_xdp(machine: &Machine, running: &Running) {
    assert_eq!(program(machine), Some(("native", "from_wire_xdp".to_owned())));
    assert_eq!(said(running), ("native".to_owned(), "--xdp native".to_owned()));
    wait_until_counted(running, "from_wire_xdp", "stripped");
    let before = running.agent.counters().unwrap();
    running.exchange();
    let after = running.agent.counters().unwrap();
    let more = |program: &str, reason: &str| after.packets(program, reason) - before.packets(program, reason);
    let [stripped, delivered] = [more("from_wire_xdp", "stripped"), more("from_wire", "delivered")];
    assert!(stripped > machine::PACKETS, "{stripped} packets stripped: {after:#?}");
    // GRO makes few of many.
    assert!(delivered > 0 && delivered <= stripped, "{delivered} delivered of {stripped} stripped");
    for program in ["from_wire_xdp", "from_wire"] {
        assert_eq!(
            (after.packets(program, "mangled"), after.packets(program, "metadata")),
            (0, 0),
            "{program}"
        );
    }
}

/// Everything arrives, and tc strips it, since XDP is not to be had for this reason.
fn is_stripped_at_tc(machine: &Machine, running: &Running, reason: &str) {
    assert_eq!(program(machine), None);
    let (mode, why) = said(running);
    assert_eq!(mode, "off");
    assert!(why.contains(reason), "{why}");
    // Counters outlive agents.
    let stripped = || running.agent.counter("from_wire_xdp", "stripped").unwrap();
    let before = stripped();
    wait_until_counted(running, "from_wire", "delivered");
    running.exchange();
    assert_eq!(stripped(), before);
}

/// A card for which the host neither aggregates nor checks.
#[test]
fn a_card_without_offloads_strips() {
    let mut machine = Machine::open("plain");
    assert!(!is_on(&machine, "rx-gro-hw"));
    let running = machine.start(&format!("{VERIFIED} --xdp native"));
    is_stripped_by_xdp(&machine, &running);
    machine.stop(running);
    let running = machine.start(&format!("{VERIFIED} --xdp auto"));
    is_stripped_at_tc(&machine, &running, "--xdp auto: nobody knows yet whether XDP helps virtio_net");
    machine.stop(running);
}

/// The host aggregates and checks for the card, until its driver is told to run a program.
#[test]
fn a_card_with_offloads_gives_them_up_for_who_asks() {
    let mut machine = Machine::open("offloads");
    assert!(is_on(&machine, "rx-gro-hw"));
    let running = machine.start(&format!("{VERIFIED} --xdp auto"));
    is_stripped_at_tc(&machine, &running, "which would have the host stop to aggregate");
    assert!(is_on(&machine, "rx-gro-hw"), "auto costs nothing");
    machine.stop(running);
    let running = machine.start(&format!("{VERIFIED} --xdp native"));
    is_stripped_by_xdp(&machine, &running);
    machine.stop(running);
}

/// The host does not let the driver switch anything off, and the driver has no XDP then.
#[test]
fn a_card_with_fixed_offloads_leaves_it_to_tc() {
    let mut machine = Machine::open("fixed");
    let running = machine.start(&format!("{VERIFIED} --xdp native"));
    is_stripped_at_tc(&machine, &running, "guest offloads");
    machine.stop(running);
}
