//! What the last look came to, and when the next one is worth its processes.

use std::time::{Duration, Instant};

use super::seen::Seen;

/// So long after an error the next look tries again, though nothing changed.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The same after many equal errors: a tool that is missing stays away for long, and asking for it takes processes.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// A look after which nothing more could be done.
#[derive(Debug)]
pub(super) struct Rest<W> {
    wanted: W,
    /// What the kernel says of the rules as they were left.
    pub(super) seen: Seen,
    trouble: Option<Trouble>,
}

impl<W: PartialEq> Rest<W> {
    /// After a look for `wanted` that left `errors` behind; `last`: what the look before it came to.
    pub(super) fn new(wanted: W, seen: Seen, errors: &[String], last: Option<&Self>, now: Instant) -> Self {
        let last = last.and_then(|last| last.trouble.as_ref());
        Self { wanted, seen, trouble: Trouble::of(errors, last, now) }
    }

    /// Whether the look was for this.
    pub(super) fn is_for(&self, wanted: &W) -> bool {
        self.wanted == *wanted
    }

    /// Whether another look would find the same, now that the kernel says `seen`.
    pub(super) fn holds(&self, seen: &Seen, now: Instant) -> bool {
        self.seen.is_as(seen) && !self.is_to_be_tried_again(now)
    }

    /// Whether something went wrong, and long enough ago.
    pub(super) fn is_to_be_tried_again(&self, now: Instant) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.until <= now)
    }

    /// What went wrong.
    pub(super) fn errors(&self) -> &[String] {
        self.trouble.as_ref().map(|trouble| trouble.errors.as_slice()).unwrap_or_default()
    }
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    errors: Vec<String>,
    pause: Duration,
    until: Instant,
}

impl Trouble {
    /// `None` without errors. The same ones over again are tried less and less often; a look before its time, because
    /// something changed, does not put that off.
    fn of(errors: &[String], last: Option<&Self>, now: Instant) -> Option<Self> {
        let last = last.filter(|last| last.errors == errors);
        let pause = match last {
            Some(last) if now < last.until => return Some(last.clone()),
            Some(last) => (last.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        (!errors.is_empty()).then(|| Self { errors: errors.to_vec(), pause, until: now + pause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_errors_are_tried_less_and_less_often() {
        let errors = |text: &str| vec![text.to_owned()];
        let mut now = Instant::now();
        let mut trouble = None;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            trouble = Trouble::of(&errors("no ip6tables"), trouble.as_ref(), now);
            let until = trouble.as_ref().expect("an error is trouble").until;
            pauses.push((until - now).as_secs());
            // A look in between, because the kernel's rules changed.
            let early = Trouble::of(&errors("no ip6tables"), trouble.as_ref(), now + FIRST_PAUSE / 2);
            assert_eq!(early, trouble);
            now = until;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        let other = Trouble::of(&errors("no iptables"), trouble.as_ref(), now);
        assert_eq!(other.expect("an error is trouble").pause, FIRST_PAUSE);
        assert_eq!(Trouble::of(&[], trouble.as_ref(), now), None);
    }
}
