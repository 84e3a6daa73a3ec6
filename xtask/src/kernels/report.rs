//! What the tests of a guest said, read from its log.

/// Starts a line that the guest's script writes between the suites' own.
pub(super) const MARK: &str = "@@";

/// The suites that were started.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) suites: Vec<Suite>,
}

/// What a suite came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) passed: usize,
    pub(super) failed: Vec<String>,
    /// The test that runs, or ran last.
    pub(super) last: Option<String>,
    /// What the failed tests said.
    pub(super) failures: String,
    /// As the harness says it, such as `3.21s`.
    pub(super) time: String,
    /// The exit status, once it ended.
    pub(super) status: Option<i32>,
}

impl Report {
    /// Reads a log.
    pub(super) fn parse(log: &str) -> Self {
        let mut report = Self::default();
        for line in log.lines() {
            if let Some(mark) = line.strip_prefix(MARK) {
                report.mark(mark.trim());
            } else if let Some(suite) = report.suites.last_mut() {
                suite.line(line);
            }
        }
        report
    }

    /// The suite of that name, if it was started.
    pub(super) fn suite(&self, name: &str) -> Option<&Suite> {
        self.suites.iter().find(|suite| suite.name == name)
    }

    fn mark(&mut self, mark: &str) {
        match mark.split_once(' ') {
            Some(("suite", name)) => self.suites.push(Suite { name: name.to_owned(), ..Suite::default() }),
            Some(("status", status)) => {
                if let Some(suite) = self.suites.last_mut() {
                    suite.status = status.parse().ok();
                }
            }
            _ => {}
        }
    }
}

impl Suite {
    /// Whether it ran to its end and all of `expected` tests passed.
    pub(super) fn is_fine(&self, expected: usize) -> bool {
        self.status == Some(0) && self.failed.is_empty() && self.passed == expected
    }

    fn line(&mut self, line: &str) {
        let result = line.strip_prefix("test result: ");
        if let Some(result) = result {
            let count = result.split(". ").nth(1).and_then(|rest| rest.split(' ').next());
            self.passed = count.and_then(|count| count.parse().ok()).unwrap_or(0);
            let time = result.rsplit_once("finished in ").map(|(_, time)| time.trim());
            time.unwrap_or_default().clone_into(&mut self.time);
        } else if line == "failures:" || !self.failures.is_empty() {
            self.failures.push_str(line);
            self.failures.push('\n');
            // The names stand alone at the end, after what each said.
            if line == "failures:" {
                self.failed.clear();
            } else if let Some(name) = line.strip_prefix("    ").filter(|name| is_test_name(name)) {
                self.failed.push(name.to_owned());
            }
        } else if let Some((name, _)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ...")) {
            self.last = Some(name.to_owned());
        }
    }
}

fn is_test_name(text: &str) -> bool {
    text.contains("::")
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
@@ suite prog

running 2 tests
test packets::one ... ok
test packets::two ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 8 filtered out; finished in 0.52s

@@ status 0
@@ suite net

running 2 tests
test wire::one ... FAILED
test wire::two ... ok

failures:

---- wire::one stdout ----
the log said:
    Some::thing
failures:

failures:
    wire::one

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 60 filtered out; finished in 9.10s

@@ status 101
";

    #[test]
    fn suites_are_read_one_by_one() {
        let report = Report::parse(LOG);
        let [prog, net] = &report.suites[..] else { panic!("two suites, not {report:?}") };
        assert_eq!((prog.passed, prog.status, prog.time.as_str()), (2, Some(0), "0.52s"));
        assert!(prog.is_fine(2) && prog.failures.is_empty());
        assert!(!prog.is_fine(3), "a test that did not run");
        assert_eq!((net.passed, net.status), (1, Some(101)));
        assert_eq!(net.failed, ["wire::one"]);
        assert!(net.failures.contains("Some::thing") && !net.is_fine(1));
    }

    #[test]
    fn a_guest_that_died_has_a_last_test() {
        let (log, _) = LOG.split_once("FAILED").unwrap();
        let report = Report::parse(log);
        let net = report.suite("net").unwrap();
        assert_eq!((net.status, net.last.as_deref()), (None, Some("wire::one")));
        assert!(!net.is_fine(0));
    }
}
