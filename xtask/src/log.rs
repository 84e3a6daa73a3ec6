//! What an agent's log says, and when.

use std::time::SystemTime;

/// When the log first says `what`.
pub(crate) fn time_of(log: &str, what: &str) -> Option<SystemTime> {
    let line = log.lines().find(|line| line.contains(what))?;
    humantime::parse_rfc3339(line.split_whitespace().next()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_log_says_when() {
        let log = "2026-11-21T07:48:13.077734Z  INFO lease 10.0.6.0/24 for 192.0.2.11\n\
                   2026-11-21T07:48:14.611425Z  INFO 30002 rows written, 0 removed\n\
                   2026-11-21T07:48:15.611425Z  INFO 3 rows written, 0 removed\n";
        let [lease, rows] = ["lease ", "rows written"].map(|what| time_of(log, what).unwrap());
        assert_eq!(rows.duration_since(lease).unwrap(), Duration::from_micros(1_533_691));
        assert_eq!(time_of(log, "ready:"), None);
    }
}
