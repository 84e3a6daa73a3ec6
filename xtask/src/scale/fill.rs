//! Writes leases by the thousand.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use ovl_tests::command::Cmd;
use ovl_tests::etcd::Etcd;
use ovl_tests::interrupt;
use ovl_tests::topology::Topology;

use crate::peer::Peer;

/// etcd's own limit for one transaction.
const MOST_AT_ONCE: usize = 128;
/// As flannel's leases.
const SECONDS: u32 = 24 * 60 * 60;

/// Writes the leases of `peers`. They share one etcd lease, so that who asks for the time they have left is seen.
pub(super) fn fill(etcd: &Etcd, topology: &Topology, peers: impl Iterator<Item = Peer>) -> Result<()> {
    let granted = etcd.etcdctl().words("lease grant").arg(SECONDS.to_string()).run()?;
    let id = granted.split_whitespace().nth(1).context("understand `etcdctl lease grant`")?;
    let file = topology.dir().join("leases.txn");
    // The shell is there for the redirection.
    let line = format!("{} txn < {}", etcd.etcdctl(), file.display());
    let peers: Vec<_> = peers.collect();
    for some in peers.chunks(MOST_AT_ONCE) {
        interrupt::check()?;
        // No conditions before, and nothing to do otherwise after.
        let mut script = "\n".to_owned();
        for peer in some {
            writeln!(script, "put --lease={id} {} {:?}", peer.etcd_key(), peer.value())?;
        }
        script.push_str("\n\n");
        fs::write(&file, script).context("write a transaction for etcdctl")?;
        Cmd::host("sh").args(["-c", &line]).env("ETCDCTL_API", "3").run()?;
    }
    Ok(())
}
