//! Proof of the path that packets took: the programs' own counters, and those of the device that they pass on the
//! kernel path.

use std::ops::{Add, Sub};

use anyhow::{Result, ensure};
use ovl_tests::node::POD_BRIDGE;
use ovl_tests::{flannel_udp, kernel_vtep, links};

use crate::cluster::Cluster;
use crate::overlay::Backend;

/// The most a packet can carry inside a node, where a stream travels in aggregates.
const LARGEST_AGGREGATE: u64 = 65_536;

/// Packets counted on the first two nodes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    /// Forwarded out of a pod or delivered into one by a program.
    pub(crate) fast: u64,
    /// Received or sent by the device of the kernel path.
    pub(crate) kernel: u64,
}

/// The device that every packet between pods on different nodes passes when the kernel carries it, and none that the
/// programs carry: the tunnel, or the pod bridge where there is none of the kernel's.
pub(crate) fn kernel_device(backend: Backend) -> &'static str {
    match backend {
        Backend::Vxlan => kernel_vtep::DEVICE,
        // Where programs stand in for its device, that counts nothing.
        Backend::HostGw | Backend::Ipip => POD_BRIDGE,
        Backend::Udp => flannel_udp::DEVICE,
    }
}

/// Runs `work` and says which path the packets took meanwhile.
pub(crate) fn observe<T>(
    cluster: &Cluster,
    backend: Backend,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Path)> {
    let before = count(cluster, backend)?;
    let done = work()?;
    Ok((done, count(cluster, backend)? - before))
}

/// How many packets a stream of so many bytes takes at the very least.
pub(crate) fn packets_of(bytes: u64) -> u64 {
    bytes / LARGEST_AGGREGATE
}

/// An error unless at least `expected` packets took the fast path, and hardly any other.
pub(crate) fn expect_fast(what: &str, path: &Path, expected: u64) -> Result<()> {
    let Path { fast, kernel } = path;
    ensure!(
        *fast >= expected,
        "{what} did not take the fast path: the programs counted {fast} packets and there must have been {expected} or more"
    );
    ensure!(
        kernel.saturating_mul(10) <= *fast,
        "{what} took the fast path only in part: {fast} packets there and {kernel} on the kernel path"
    );
    Ok(())
}

/// An error unless the kernel carried the packets alone, and at least `expected`.
pub(crate) fn expect_kernel(what: &str, path: &Path, expected: u64) -> Result<()> {
    let Path { fast, kernel } = path;
    ensure!(*fast == 0, "{what} on the kernel path still met a program: it counted {fast} packets");
    ensure!(
        *kernel >= expected,
        "{what} did not take the kernel path: its device counted {kernel} packets and there must have been {expected} or more"
    );
    Ok(())
}

/// What has been counted until now.
pub(crate) fn count(cluster: &Cluster, backend: Backend) -> Result<Path> {
    let mut path = Path::default();
    for member in cluster.measured_pair()? {
        let counters = member.agent.counters()?;
        path.fast += counters.packets("from_pod", "forwarded") + counters.packets("from_wire", "delivered");
        path.kernel += links::packets(member.node.netns(), kernel_device(backend))?.total();
    }
    Ok(path)
}

impl Add for Path {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { fast: self.fast + other.fast, kernel: self.kernel + other.kernel }
    }
}

impl Sub for Path {
    type Output = Self;

    /// Counters that went back to zero in between count from there.
    fn sub(self, earlier: Self) -> Self {
        Self {
            fast: self.fast.saturating_sub(earlier.fast),
            kernel: self.kernel.saturating_sub(earlier.kernel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_needs_its_packets() {
        let path = |fast, kernel| Path { fast, kernel };
        expect_fast("it", &path(1000, 5), 900).unwrap();
        assert!(expect_fast("it", &path(10, 0), 900).is_err(), "too few");
        assert!(expect_fast("it", &path(1000, 500), 900).is_err(), "half of them on the kernel path");
        expect_kernel("it", &path(0, 7), 7).unwrap();
        assert!(expect_kernel("it", &path(0, 6), 7).is_err(), "too few");
        assert!(expect_kernel("it", &path(3, 7), 1).is_err(), "programs still attached");
    }
}
