//! The kernel settings the data plane depends on.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::family::Family;

const LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// Where a container that is not privileged, whose own `/proc/sys` is read-only, has its host's `/proc/sys/net`.
const OF_HOST: &str = "/host";

/// Writes a setting below `/proc/sys`. What it is about is the network namespace of who writes, whichever of the two
/// places it is written to.
pub(crate) fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(path, value).or_else(|error| fs::write(elsewhere(path, error)?, value))
}

/// The other place for a setting that could not be opened for writing, where there is one; else the error.
fn elsewhere(path: &str, error: io::Error) -> io::Result<PathBuf> {
    let there = PathBuf::from(format!("{OF_HOST}{path}"));
    if error.kind() == ErrorKind::ReadOnlyFilesystem && there.exists() { Ok(there) } else { Err(error) }
}

/// Reads a number from `/proc/sys`.
fn read<T: std::str::FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The range of the kernel's own tunnel source ports.
pub fn source_ports() -> (u16, u16) {
    let parse = || -> Option<(u16, u16)> {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut numbers = text.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    // The kernel's own default.
    parse().unwrap_or((32768, 60999))
}

/// The TTL or hop limit of packets that the node itself sends out of `interface`.
pub fn hop_limit(family: Family, interface: &str) -> u8 {
    let path = match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_default_ttl".to_owned(),
        Family::V6 => format!("/proc/sys/net/ipv6/conf/{interface}/hop_limit"),
    };
    read(&path).filter(|limit| *limit > 0).unwrap_or(64)
}

/// Says so where the node would not forward its pods' packets.
pub fn warn_unless_forwarding(families: impl Iterator<Item = Family>) {
    for family in families.filter(|family| is_forwarding(*family) == Some(false)) {
        let name = forwarding(family);
        warn!("{name} is 0: this node does not forward its pods' {family} packets; set it to 1 (sysctl -w)");
    }
}

/// The setting that makes a router of the node.
pub fn forwarding(family: Family) -> &'static str {
    match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    }
}

/// Whether this network namespace forwards packets of a family; `None` where it has no such setting.
pub fn is_forwarding(family: Family) -> Option<bool> {
    read::<u8>(&format!("/proc/sys/{}", forwarding(family).replace('.', "/"))).map(|value| value != 0)
}

/// Says so where a pod's IPv4 packets would be lost on a way between nodes that is narrower than this node's own link. They
/// travel over IPv6, whose routers do not take packets apart but tell the node, which by default does not tell the pod.
pub fn warn_of_narrow_ways() {
    if read::<u8>("/proc/sys/net/ipv4/ip_forward_use_pmtu") == Some(0) {
        warn!(
            "IPv4 pods' packets travel over IPv6 here: should a way between nodes be narrower than this node's link, large \
             ones are lost on it; set net.ipv4.ip_forward_use_pmtu=1 (sysctl -w), or a smaller Backend.MTU"
        );
    }
}

/// Lets an overlay device have IPv6 addresses on a node where new interfaces get none: nodes without IPv6 between them
/// often say so (`net.ipv6.conf.default.disable_ipv6=1`), while their pods have it.
pub fn enable_ipv6(device: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    if read::<u8>(&path) == Some(1) {
        match write(&path, "0") {
            Ok(()) => info!("IPv6 was disabled on {device}, which carries pods' IPv6 packets: enabled it"),
            Err(error) => warn!("IPv6 is disabled on {device} and cannot be enabled: {path}: {error}"),
        }
    }
}

/// Whether conntrack is liberal or could be made so; opening a setting for writing changes nothing.
///
/// # Errors
/// `NotFound` where there is no conntrack (yet).
pub fn may_make_conntrack_liberal() -> io::Result<()> {
    if read::<u8>(LIBERAL) == Some(1) {
        return Ok(());
    }
    let open = |path: &Path| fs::OpenOptions::new().write(true).open(path).map(drop);
    open(Path::new(LIBERAL)).or_else(|error| open(&elsewhere(LIBERAL, error)?))
}

/// Makes conntrack take TCP back that it has not seen for a while, and returns whether TCP may use the fast path.
///
/// Packets of a connection that come back from the fast path lie outside the window conntrack knows. Unless it is
/// liberal they are INVALID, which kube-proxy's rules drop. Asked on every pass: conntrack may be loaded, and somebody
/// may set it back, at any time. `allowed` is the last answer, so that a refusal is said once.
pub fn make_conntrack_liberal(allowed: bool) -> bool {
    if read::<u8>(LIBERAL) == Some(1) {
        return true;
    }
    match write(LIBERAL, "1") {
        Ok(()) => {
            info!(
                "set net.netfilter.nf_conntrack_tcp_be_liberal=1, so that TCP can leave the fast path at any time"
            );
            true
        }
        // Without conntrack there is nobody to call a packet invalid.
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => {
            if allowed {
                warn!(
                    "cannot set net.netfilter.nf_conntrack_tcp_be_liberal ({error}): TCP stays on the kernel path; \
                     set it to 1 yourself, or let the agent write /proc/sys, in a container the host's /proc/sys/net as \
                     /host/proc/sys/net"
                );
            }
            false
        }
    }
}
