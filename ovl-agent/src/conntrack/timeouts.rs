//! How long connection tracking remembers what it sees no more packets of.

use std::fs;
use std::path::Path;
use std::time::Duration;

pub(super) const FOLDER: &str = "/proc/sys/net/netfilter";
pub(super) const ESTABLISHED: &str = "nf_conntrack_tcp_timeout_established";
/// Those that may hold for a flow of the fast path. For TCP these are three, all in the state ESTABLISHED:
/// connection tracking may believe that data it saw was never acknowledged, or was sent again and again.
const OF_FLOWS: [&str; 7] = [
    "nf_conntrack_udp_timeout",
    "nf_conntrack_udp_timeout_stream",
    "nf_conntrack_icmp_timeout",
    "nf_conntrack_icmpv6_timeout",
    ESTABLISHED,
    "nf_conntrack_tcp_timeout_unacknowledged",
    "nf_conntrack_tcp_timeout_max_retrans",
];
/// A flow is shown so many times within its timeout: one show may be late, or its packet lost.
const SHOWS: u32 = 3;

/// The timeouts in this thread's network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// The shortest that may hold for a flow of the fast path; `None`: there is no connection tracking.
    pub shortest: Option<Duration>,
}

impl Timeouts {
    /// Reads them: a few files in /proc.
    pub fn read() -> Self {
        Self::read_in(Path::new(FOLDER))
    }

    fn read_in(folder: &Path) -> Self {
        Self { shortest: OF_FLOWS.iter().filter_map(|name| seconds(folder, name)).min() }
    }

    /// How often to verify flows where `wanted` was asked for: not less often than a third of the shortest timeout, so
    /// that none of them is forgotten.
    pub fn verify_interval(&self, wanted: Duration) -> Duration {
        self.shortest.map_or(wanted, |shortest| wanted.min(shortest / SHOWS))
    }
}

/// The timeout of this name, where there is one.
pub(super) fn seconds(folder: &Path, name: &str) -> Option<Duration> {
    let text = fs::read_to_string(folder.join(name)).ok()?;
    Some(Duration::from_secs(text.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_timeout_limits_the_interval() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let read = || Timeouts::read_in(folder.path());
        let interval = |wanted| read().verify_interval(Duration::from_secs(wanted));
        assert_eq!(read(), Timeouts::default());
        assert_eq!(interval(3600), Duration::from_hours(1));

        let write = |name: &str, text| fs::write(folder.path().join(name), text).expect("written");
        write("nf_conntrack_udp_timeout", "30\n");
        write("nf_conntrack_tcp_timeout_established", "432000\n");
        write("nf_conntrack_tcp_timeout_close", "10\n");
        assert_eq!(read().shortest, Some(Duration::from_secs(30)));
        assert_eq!((interval(4), interval(12)), (Duration::from_secs(4), Duration::from_secs(10)));
        write("nf_conntrack_tcp_timeout_unacknowledged", "20\n");
        write("nf_conntrack_icmp_timeout", "nonsense\n");
        assert_eq!(interval(10), Duration::from_secs(20) / 3);
    }
}
