//! Proof of the path that packets took: the programs' own counters, and those of the kernel's overlay device.

use std::ops::{Add, Sub};

use anyhow::{Result, ensure};
use ovl_tests::{kernel_vtep, links};

use super::Backend;
use super::cluster::Cluster;

/// The most a packet can carry inside a node, where a stream travels in aggregates.
const LARGEST_AGGREGATE: u64 = 65_536;

/// Packets counted on the first two nodes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    /// Forwarded out of a pod or delivered into one by a program.
    pub(super) fast: u64,
    /// Received or sent by the kernel's VXLAN device; host-gw has no such device.
    pub(super) overlay_device: u64,
}

/// Runs `work` and says which path the packets took meanwhile.
pub(super) fn observe<T>(
    cluster: &Cluster,
    backend: Backend,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Path)> {
    let before = count(cluster, backend)?;
    let done = work()?;
    Ok((done, count(cluster, backend)? - before))
}

/// How many packets a stream of so many bytes takes at the very least.
pub(super) fn packets_of(bytes: u64) -> u64 {
    bytes / LARGEST_AGGREGATE
}

/// An error unless at least `expected` packets took the fast path, and hardly any other.
pub(super) fn expect_fast(what: &str, path: &Path, expected: u64) -> Result<()> {
    let Path { fast, overlay_device } = path;
    ensure!(
        *fast >= expected,
        "{what} did not take the fast path: the programs counted {fast} packets and there must have been {expected} or more"
    );
    ensure!(
        overlay_device.saturating_mul(10) <= *fast,
        "{what} took the fast path only in part: {fast} packets there and {overlay_device} through {}",
        kernel_vtep::DEVICE
    );
    Ok(())
}

/// An error unless the kernel carried the packets alone.
pub(super) fn expect_kernel(what: &str, path: &Path, backend: Backend) -> Result<()> {
    ensure!(path.fast == 0, "{what} in kernel mode still met a program: it counted {} packets", path.fast);
    ensure!(
        backend != Backend::Vxlan || path.overlay_device > 0,
        "{what} in kernel mode did not pass {}, which counted nothing",
        kernel_vtep::DEVICE
    );
    Ok(())
}

fn count(cluster: &Cluster, backend: Backend) -> Result<Path> {
    let mut path = Path::default();
    for (_, agent) in cluster.measured_pair()? {
        path.fast += agent.counter("from_pod", "forwarded")? + agent.counter("from_wire", "delivered")?;
    }
    if backend == Backend::Vxlan {
        for node in cluster.topology().nodes().iter().take(2) {
            path.overlay_device += links::packets(node.netns(), kernel_vtep::DEVICE)?.total();
        }
    }
    Ok(path)
}

impl Add for Path {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { fast: self.fast + other.fast, overlay_device: self.overlay_device + other.overlay_device }
    }
}

impl Sub for Path {
    type Output = Self;

    /// Counters that went back to zero in between count from there.
    fn sub(self, earlier: Self) -> Self {
        Self {
            fast: self.fast.saturating_sub(earlier.fast),
            overlay_device: self.overlay_device.saturating_sub(earlier.overlay_device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_needs_its_packets() {
        let path = |fast, overlay_device| Path { fast, overlay_device };
        expect_fast("it", &path(1000, 5), 900).unwrap();
        assert!(expect_fast("it", &path(10, 0), 900).is_err(), "too few");
        assert!(expect_fast("it", &path(1000, 500), 900).is_err(), "half of them through the device");
        expect_kernel("it", &path(0, 7), Backend::Vxlan).unwrap();
        expect_kernel("it", &path(0, 0), Backend::HostGw).unwrap();
        assert!(expect_kernel("it", &path(0, 0), Backend::Vxlan).is_err(), "nothing through the device");
        assert!(expect_kernel("it", &path(3, 7), Backend::Vxlan).is_err(), "programs still attached");
    }
}
