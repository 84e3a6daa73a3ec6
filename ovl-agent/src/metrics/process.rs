//! What Prometheus' own clients say of every process, under the names that dashboards know.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::text::Page;

/// This process, as the kernel accounts for it. What it does not say is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    started: SystemTime,
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_files: Option<usize>,
}

impl Process {
    /// Asks the kernel. `started` is when the process did.
    pub fn measure(started: SystemTime) -> Self {
        let cpu = getrusage(UsageWho::RUSAGE_SELF).ok();
        Self {
            started,
            cpu_seconds: cpu.map(|usage| seconds(usage.user_time()) + seconds(usage.system_time())),
            resident_bytes: std::fs::read_to_string("/proc/self/status")
                .ok()
                .and_then(|text| resident(&text)),
            open_files: Path::new("/proc/self/fd").read_dir().ok().map(Iterator::count),
        }
    }

    pub(super) fn write(&self, page: &mut Page) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        page.gauge(
            "process_start_time_seconds",
            "When the agent started, in seconds since 1970.",
            [([], started.as_secs())],
        );
        page.counter(
            "process_cpu_seconds_total",
            "User and system time of the agent.",
            self.cpu_seconds.map(|seconds| ([], seconds)),
        );
        page.gauge(
            "process_resident_memory_bytes",
            "Resident memory of the agent.",
            self.resident_bytes.map(|bytes| ([], bytes)),
        );
        page.gauge(
            "process_open_fds",
            "Open file descriptors of the agent.",
            self.open_files.map(|files| ([], files)),
        );
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            started: UNIX_EPOCH + Duration::from_secs(1_900_000_000),
            cpu_seconds: Some(1.25),
            resident_bytes: Some(12_345_344),
            open_files: Some(23),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 285 years of microseconds")]
fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// `VmRSS` of `/proc/self/status`, bytes (proc(5): kibibytes there).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_kernels_table() {
        assert_eq!(resident("VmPeak:\t  9 kB\nVmRSS:\t    5208 kB\n"), Some(5208 * 1024));
        for text in ["", "VmRSS:\t5208\n", "VmRSS:\t x kB\n", "VmRSS: 18446744073709551615 kB"] {
            assert_eq!(resident(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_kernel_tells_everything_of_this_process() {
        let process = Process::measure(SystemTime::now());
        assert!(process.resident_bytes.expect("told") > 100_000);
        assert!(process.open_files.expect("told") >= 3);
        assert!(process.cpu_seconds.expect("told") >= 0.0);
    }
}
