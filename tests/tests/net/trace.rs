//! `ovl-agent trace` beside a running agent.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use ovl_tests::artifacts;
use ovl_tests::background::Background;
use ovl_tests::command::Cmd;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground, StreamInBackground};
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::overlay::{EBPF, KERNEL, Overlay, SOON};

/// `ovl-agent trace` in the first node.
fn trace(overlay: &Overlay, words: &str) -> Cmd {
    let binary = artifacts::agent_binary().unwrap();
    overlay.node(0).command(binary).arg("trace").words(words)
}

/// What went wrong with it, in one line or more.
fn refusal(overlay: &Overlay, words: &str) -> String {
    let output = trace(overlay, words).output().unwrap();
    assert!(!output.status.success(), "{words}");
    String::from_utf8(output.stderr).unwrap()
}

/// The bytes of the row that says what to show, of the first node.
fn row(overlay: &Overlay) -> Result<Vec<String>> {
    let folder = overlay.node(0).command("sh").arg("-c").arg("ls -d /sys/fs/bpf/ovl/*/abi-*").run()?;
    let pin = format!("{}/OVL_TRACE", folder.trim());
    let dump = overlay.node(0).command("bpftool").words("-j map dump pinned").arg(pin).run()?;
    let rows: Value = serde_json::from_str(&dump)?;
    let bytes = rows[0]["value"].as_array().into_iter().flatten();
    Ok(bytes.filter_map(|byte| byte.as_str().map(str::to_owned)).collect())
}

fn is_zero(row: &[String]) -> bool {
    row.len() == 24 && row.iter().all(|byte| byte == "0x00")
}

#[test]
fn verdicts_are_shown_while_somebody_looks() {
    let overlay = Overlay::start(Topology::builder("trace").nodes(2), "vxlan", EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let (here, there) = (overlay.pods[0].address().to_string(), overlay.pods[1].address().to_string());
    let ping = PingInBackground::start(overlay.pods[0].netns(), overlay.pods[1].address()).unwrap();
    ping.wait_for_more(20, SOON).unwrap();
    assert!(is_zero(&row(&overlay).unwrap()));

    let output = trace(&overlay, "--for 2").output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && said.contains("verdicts shown, 0 lost"), "{said}");
    let has = |parts: &[&str]| text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    let node = overlay.node(1).address().to_string();
    assert!(has(&["from_pod", "send", "forwarded", &format!("{here} > {there}"), "icmp", &node]), "{text}");
    assert!(has(&["from_wire", "deliver", "delivered", &format!("{there} > {here}"), "eth0"]), "{text}");
    assert!(is_zero(&row(&overlay).unwrap()));

    // A reason and an address: the one in the programs, the other here.
    let text = trace(&overlay, &format!("--for 1 --json --one-in 1 delivered {there}")).run().unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.len() > 20, "{text}");
    for event in &events {
        assert_eq!((&event["reason"], &event["source"]), (&"delivered".into(), &there.as_str().into()));
    }
    let nothing = trace(&overlay, "--for 1 no_flow").output().unwrap();
    assert!(nothing.stdout.is_empty() && nothing.status.success(), "{nothing:?}");

    let ping = ping.stop().unwrap();
    assert_eq!(ping.lost(), 0, "{ping:?}");
}

#[test]
fn of_many_packets_some_are_shown() {
    let overlay = Overlay::start(Topology::builder("trace-load").nodes(2), "vxlan", EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let mut stream = StreamInBackground::start(&overlay.pods[0], &overlay.pods[1], 8).unwrap();
    let sent = || overlay.agents[0].counter("from_pod", "forwarded").unwrap();
    wait_for("the stream to run", SOON, || Ok(sent() > 5000)).unwrap();
    let output = trace(&overlay, "--for 3 from_pod").output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(said.contains(" 0 lost (sampled, at the busiest 1 in "), "{said}");
    // About 100 a second, but the stream's pace changes.
    let shown = text.lines().count();
    assert!((30..900).contains(&shown), "{shown}: {said}");
    // Every one: more than the ring holds may come at once. Nobody is held up, and none is passed over in silence.
    let output = trace(&overlay, "--for 1 --one-in 1 from_pod").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("lost") && !said.contains("sampled"), "{said}");
    assert!(stream.is_running().unwrap());
    assert!(stream.finish().unwrap().silent_intervals < 10);
    assert!(is_zero(&row(&overlay).unwrap()));
}

#[test]
fn one_looks_at_a_time_and_leaves_nothing_behind() {
    let mut overlay = Overlay::start(Topology::builder("trace-end").nodes(2), "vxlan", EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let ping = PingInBackground::start(overlay.pods[0].netns(), overlay.pods[1].address()).unwrap();
    let start = || {
        let running = Background::start_unnamed(&trace(&overlay, "")).unwrap();
        wait_for("verdicts to be shown", SOON, || Ok(running.log().contains("forwarded"))).unwrap();
        running
    };
    let mut first = start();
    assert!(!is_zero(&row(&overlay).unwrap()));
    let text = refusal(&overlay, "");
    assert!(text.contains("another `ovl-agent trace` runs"), "{text}");

    // Ctrl-C.
    let status = first.stop(Signal::SIGINT, SOON).unwrap();
    assert!(status.success() && first.log().contains("verdicts shown, 0 lost"), "{}", first.log());
    assert!(is_zero(&row(&overlay).unwrap()));

    // One that is killed cannot clean up; the programs stop by the clock, and the next one takes its place.
    let mut killed = start();
    killed.stop(Signal::SIGKILL, SOON).unwrap();
    assert!(!is_zero(&row(&overlay).unwrap()));
    let mut last = start();

    // It goes on past a restart of the agent, whose programs are others then.
    overlay.agents[0].terminate().unwrap();
    overlay.agents[0] = overlay.start_ready(0, EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let lines = last.log().lines().count();
    wait_for("more verdicts after the restart", SOON, || Ok(last.log().lines().count() > lines + 20))
        .unwrap();
    assert!(last.stop(Signal::SIGTERM, SOON).unwrap().success());
    assert!(is_zero(&row(&overlay).unwrap()));
    ping.wait_for_more(1, Duration::from_secs(5)).unwrap();
}

#[test]
fn what_cannot_be_shown_is_said() {
    let overlay = Overlay::start(Topology::builder("trace-not").nodes(1), "vxlan", KERNEL).unwrap();
    let text = refusal(&overlay, "");
    assert!(text.contains("no programs of an ovl-agent"), "{text}");
    let text = refusal(&overlay, "forwardet");
    assert!(text.contains("did you mean forwarded?") && text.contains("from_wire"), "{text}");
}
