//! The one place that waits: for a named condition, with a deadline.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

const INTERVAL: Duration = Duration::from_millis(10);

/// The environment variable with how many times longer deadlines are, where tests run in an emulated machine: 1 unless set.
pub const PATIENCE_VARIABLE: &str = "OVL_PATIENCE";

/// `deadline` on this machine. No test passes or fails by it on a machine that gets everything done.
pub fn patient(deadline: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    let told = || std::env::var(PATIENCE_VARIABLE).ok().and_then(|times| times.parse().ok());
    deadline * *TIMES.get_or_init(|| told().unwrap_or(1))
}

/// Polls `condition` until it says `Ok(true)`.
///
/// An `Err` of the condition counts as "not yet": it is kept and shown when the deadline passes. Also returns an
/// error when the process was asked to end.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = patient(deadline);
    let mut last_error = None;
    let done = poll(deadline, || {
        interrupt::requested()
            || match condition() {
                Ok(done) => {
                    last_error = None;
                    done
                }
                Err(error) => {
                    last_error = Some(error);
                    false
                }
            }
    });
    interrupt::check()?;
    match (done, last_error) {
        (true, _) => Ok(()),
        (false, None) => bail!("waited {deadline:?} in vain for {what}"),
        (false, Some(error)) => {
            Err(error.context(format!("waited {deadline:?} in vain for {what}; the last try")))
        }
    }
}

/// Polls until true or the deadline, deaf to interrupts: for clean-up code, which must run to its end.
pub fn poll_until(deadline: Duration, condition: impl FnMut() -> bool) -> bool {
    poll(patient(deadline), condition)
}

fn poll(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= deadline {
            return false;
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the polling interval of the one helper that everybody else must use"
)]
fn pause() {
    std::thread::sleep(INTERVAL);
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn returns_as_soon_as_the_condition_holds() {
        let mut tries = 0;
        wait_for("three tries", Duration::from_secs(5), || {
            tries += 1;
            Ok(tries == 3)
        })
        .unwrap();
        assert_eq!(tries, 3);
    }

    #[test]
    fn names_what_it_waited_for_and_the_last_error() {
        let error = wait_for("the moon", Duration::from_millis(20), || Err(anyhow!("too far"))).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("the moon") && text.contains("20ms") && text.contains("too far"), "{text}");
    }
}
