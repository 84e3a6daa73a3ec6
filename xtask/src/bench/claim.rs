//! The path that a contender claims, against what was counted.

use anyhow::{Result, ensure};

use super::contender::{Between, Contender};
use super::workload::Workload;
use crate::overlay::Mode;
use crate::path::{self, Path};

/// An error unless the packets of a run, at least `packets`, went where the contender says.
pub(super) fn verify(contender: &Contender, workload: &Workload, path: &Path, packets: u64) -> Result<()> {
    let what = format!("{} of {}", workload.name, contender.name);
    match (contender.ends, contender.mode) {
        (Between::Nodes, _) => expect_underlay(&what, path, packets),
        (Between::Pods, Mode::Kernel) => path::expect_kernel(&what, path, packets),
        (Between::Pods, Mode::Ebpf) if workload.load.opens_connections() => expect_both(&what, path, packets),
        (Between::Pods, Mode::Ebpf) => path::expect_fast(&what, path, packets),
    }
}

/// Neither programs nor tunnel.
fn expect_underlay(what: &str, path: &Path, packets: u64) -> Result<()> {
    let Path { fast, kernel } = path;
    ensure!(
        *fast == 0 && kernel.saturating_mul(10) <= packets,
        "{what} met the overlay: {fast} packets on the fast path and {kernel} on the kernel path"
    );
    Ok(())
}

/// What opens and closes a connection passes the kernel, and what it carries in between the programs.
fn expect_both(what: &str, path: &Path, connections: u64) -> Result<()> {
    let Path { fast, kernel } = path;
    ensure!(
        *fast >= connections && *kernel >= connections,
        "{what}: {connections} connections, but only {fast} packets on the fast path and {kernel} on the kernel path"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{contender, workload};

    fn verdict(contender: &str, workload: &str, fast: u64, kernel: u64) -> bool {
        let contender = contender::ALL.iter().find(|entry| entry.name == contender).unwrap();
        let workload = workload::ALL.iter().find(|entry| entry.name == workload).unwrap();
        verify(contender, workload, &Path { fast, kernel }, 1000).is_ok()
    }

    #[test]
    fn every_contender_has_a_path_of_its_own() {
        let table = [
            ("host", "udp-64", 0, 3, true),
            ("host", "udp-64", 0, 4000, false),
            ("host", "udp-64", 1, 0, false),
            ("kernel-vxlan", "tcp-rr-1-one-core", 0, 4000, true),
            ("kernel-vxlan", "tcp-rr-1-one-core", 1, 4000, false),
            ("kernel-host-gw", "tcp-rr-1-one-core", 0, 10, false),
            ("ovl-vxlan", "tcp-rr-1-one-core", 4000, 30, true),
            ("ovl-vxlan", "tcp-rr-1-one-core", 4000, 3000, false),
            ("ovl-host-gw", "tcp-rr-1-one-core", 0, 4000, false),
            ("ovl-vxlan", "tcp-crr", 4000, 6000, true),
            ("ovl-vxlan", "tcp-crr", 0, 6000, false),
        ];
        for (contender, workload, fast, kernel, expected) in table {
            assert_eq!(
                verdict(contender, workload, fast, kernel),
                expected,
                "{contender}, {workload}: {fast} fast, {kernel} not"
            );
        }
    }
}
