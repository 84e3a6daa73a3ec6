//! Keeping rules at a level: look, mend, look again until nothing is wrong.

use std::time::Instant;

use super::Outcome;
use super::rest::Rest;
use super::seen::Seen;

/// How often one `ensure` begins anew because what it wrote is not what stands.
const ROUNDS: usize = 4;

/// What can be looked at and mended.
pub(super) trait Mend {
    /// What should stand.
    type Wanted: Clone + PartialEq;

    /// Asks the kernel what stands, without a process; `last` is what the last look saw.
    fn see(&self, wanted: &Self::Wanted, last: Option<&Seen>) -> anyhow::Result<Seen>;

    /// Looks at the rules once, and writes those that are not as wanted. `known`: they have stood or been written as
    /// wanted before, and what was not wanted is gone, so that only they can be wrong.
    async fn mend(&mut self, wanted: &Self::Wanted, known: bool, outcome: &mut Outcome);

    /// Whatever could not be done before may work now.
    fn begin_anew(&mut self) {}
}

/// What is known of rules from the looks before.
#[derive(Debug)]
pub(super) struct Level<W> {
    /// What stood at the last look without fault.
    stood: Option<W>,
    /// What the last look came to.
    rest: Option<Rest<W>>,
}

impl<W> Default for Level<W> {
    fn default() -> Self {
        Self { stood: None, rest: None }
    }
}

impl<W: Clone + PartialEq> Level<W> {
    /// Looks at what `rules` keeps and mends it. Cheap where nothing changed since the last call; what went wrong then
    /// is told again, and tried again after a pause that grows.
    pub(super) async fn ensure(&mut self, rules: &mut impl Mend<Wanted = W>, wanted: &W) -> Outcome {
        let mut outcome = Outcome::default();
        let known = self.stood.as_ref() == Some(wanted);
        let mut settled = known;
        let mut last = self.rest.take().filter(|rest| rest.is_for(wanted));
        if last.as_ref().is_none_or(|last| last.is_to_be_tried_again(Instant::now())) {
            rules.begin_anew();
        }
        for _ in 0..ROUNDS {
            // Before the look: what changes during it is seen the next time.
            let seen = match rules.see(wanted, last.as_ref().map(|last| &last.seen)) {
                Ok(seen) => seen,
                Err(error) => {
                    outcome.errors.push(format!("{error:#}"));
                    self.rest = last;
                    return outcome;
                }
            };
            if let Some(mut last) = last.take_if(|last| last.holds(&seen, Instant::now())) {
                outcome.errors = last.errors().to_vec();
                // With the generation of now, so that the next time is cheaper.
                last.seen = seen;
                self.rest = Some(last);
                return outcome;
            }
            let changes = outcome.changes.len();
            outcome.errors.clear();
            rules.mend(wanted, settled, &mut outcome).await;
            outcome.drift = known && !outcome.changes.is_empty();
            if outcome.changes.len() == changes {
                if outcome.errors.is_empty() {
                    self.stood = Some(wanted.clone());
                }
                self.rest_at(wanted, seen, &outcome, last.as_ref());
                return outcome;
            }
            settled |= outcome.errors.is_empty();
        }
        outcome.errors.push(format!(
            "somebody else changes the firewall rules while they are written, {ROUNDS} times in a row: {}",
            outcome.changes.last().map(ToString::to_string).unwrap_or_default()
        ));
        if let Ok(seen) = rules.see(wanted, None) {
            self.rest_at(wanted, seen, &outcome, last.as_ref());
        }
        outcome
    }

    fn rest_at(&mut self, wanted: &W, seen: Seen, outcome: &Outcome, last: Option<&Rest<W>>) {
        self.rest = Some(Rest::new(wanted.clone(), seen, &outcome.errors, last, Instant::now()));
    }
}
