//! Five thousand Nodes: what they cost is recorded, and that they come in pages.

use std::fs;
use std::time::Instant;

use super::Kubernetes;
use super::watching::until_watches;
use crate::fixture::Fixture as _;
use crate::values::{OTHER, value};
use crate::watcher::watching;

const NODES: u32 = 5000;

/// Memory of this process in use, and the most there was, KiB. The double is in it, too.
fn memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (line("VmRSS:"), line("VmHWM:"))
}

#[tokio::test]
async fn five_thousand_nodes_come_in_pages() {
    let cluster = Kubernetes::start();
    for number in 0..NODES {
        let [_, _, high, low] = number.to_be_bytes();
        let node = super::node_of(&format!("10.{}.{low}.0-24", 42 + high), &value(OTHER));
        let mut real = ovl_tests::kube::real_node(&format!("node-{number}"), &[]);
        real["spec"] = node["spec"].clone();
        real["metadata"]["annotations"] = node["metadata"]["annotations"].clone();
        cluster.server.put_node(&format!("node-{number}"), &real);
    }
    let store = cluster.open().await;
    let (before, _) = memory();
    let started = Instant::now();
    watching(&store, async |watcher| {
        watcher.first().await;
        let took = started.elapsed();
        let (after, most) = memory();
        assert_eq!(watcher.leases.len(), NODES as usize);
        let pages = cluster.server.count("list nodes");
        assert!(pages > 10, "{pages} pages");
        println!(
            "{NODES} nodes in {pages} pages: {took:?}; {} KiB more than {before} KiB, at most {most} KiB",
            after - before
        );
        // A page that was forgotten meanwhile means another list, not half of one.
        until_watches(&cluster, 1).await;
        cluster.server.expire_watches();
        watcher.until("the second list", |now| now.snapshots == 2).await;
        assert_eq!((watcher.leases.len(), watcher.removed.len()), (NODES as usize, 0));
    })
    .await;
}

#[tokio::test]
async fn a_list_that_expires_between_two_pages_begins_again() {
    let cluster = Kubernetes::start();
    for number in 0..=255 {
        cluster.put(&format!("subnets/10.42.{number}.0-24"), &value(OTHER));
        cluster.put(&format!("subnets/10.43.{number}.0-24"), &value(OTHER));
    }
    cluster.server.forget_next_page();
    let store = cluster.open().await;
    watching(&store, async |watcher| {
        watcher.first().await;
        assert_eq!((watcher.leases.len(), watcher.outages.len()), (512, 0));
        assert!(cluster.server.count("list nodes") > 3);
    })
    .await;
}
