//! Events of nftables.

use std::cell::Cell;
use std::time::Duration;

use ovl_agent::netlink::watch_rulesets;
use ovl_tests::command::Cmd;
use ovl_tests::netns::{self, Netns};

use crate::SOON;
use crate::firewall::host::block_on;

/// Watches in a namespace of its own while `work` is done, which is told how often something changed.
fn watching(work: impl AsyncFnOnce(&Cell<usize>) + Send) {
    netns::sweep_stale().unwrap();
    let netns = Netns::create(&netns::unique_prefix("rules")).unwrap();
    let watched = netns.inside(|| {
        block_on(async {
            let changes = Cell::new(0);
            tokio::select! {
                () = watch_rulesets(|| changes.set(changes.get() + 1)) => unreachable!("it watches for ever"),
                () = work(&changes) => {}
            }
        });
    });
    watched.unwrap();
}

/// Waits until something changed `times` times.
async fn reached(changes: &Cell<usize>, times: usize) {
    let poll = async {
        while changes.get() < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(SOON, poll).await;
    assert!(reached.is_ok(), "{} changes after {SOON:?}, not {times}", changes.get());
}

fn sh(script: &str) {
    Cmd::host("sh").args(["-e", "-c", script]).run().unwrap();
}

#[test]
fn every_transaction_is_told_and_a_look_is_not() {
    watching(async |changes| {
        reached(changes, 1).await;
        for (count, transaction) in (2..).zip([
            "nft add table inet t",
            "nft add chain inet t c",
            "nft 'add rule inet t c accept; add rule inet t c drop'",
            "nft 'add set inet t s { type ipv4_addr; }; add element inet t s { 10.0.0.1 }'",
            "nft flush ruleset",
        ]) {
            sh(transaction);
            reached(changes, count).await;
            sh("nft list ruleset; iptables-nft-save; nft list tables");
            assert_eq!(changes.get(), count, "{transaction}");
        }
        let before = changes.get();
        sh("iptables-nft -A FORWARD -j ACCEPT");
        reached(changes, before + 1).await;
    });
}

#[test]
fn what_is_too_much_to_be_told_counts_as_a_change() {
    watching(async |changes| {
        reached(changes, 1).await;
        // Nobody reads meanwhile: this thread waits for the script.
        sh("for set in $(seq 50); do
              { echo add table inet t$set; echo add chain inet t$set c
                for rule in $(seq 500); do echo add rule inet t$set c ip saddr 10.0.0.$((rule % 250)) accept; done; } | nft -f -
            done");
        let drops = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
        let lost =
            drops.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
        assert!(lost.sum::<u64>() > 0, "events were lost: {drops}");
        reached(changes, 2).await;
        let settled = changes.get();
        sh("nft add table inet after");
        reached(changes, settled + 1).await;
    });
}
