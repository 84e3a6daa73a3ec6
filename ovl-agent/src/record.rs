//! What is counted over an agent's life, as far as nobody else keeps it: the part of [`crate::facts::Facts`] that the
//! loop cannot read off the tables and the view.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::facts::{PassFacts, StoreHealth, TableFacts};
use crate::reconcile::Plan;

/// Whether the store answers, and since when. It counts as answering at first: an agent that has a lease has just
/// asked it.
#[derive(Clone, Debug)]
pub struct StoreRecord {
    up: bool,
    since: Instant,
    last_answer: Option<Instant>,
    outages: u64,
}

impl StoreRecord {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self { up: true, since: now, last_answer: Some(now), outages: 0 }
    }

    /// It said something.
    pub fn answered(&mut self, now: Instant) {
        if !self.up {
            (self.up, self.since) = (true, now);
        }
        self.last_answer = Some(now);
    }

    /// It did not answer.
    pub fn unavailable(&mut self, now: Instant) {
        if self.up {
            (self.up, self.since) = (false, now);
            self.outages += 1;
        }
    }

    /// As it is told.
    pub fn facts(&self, now: Instant) -> StoreHealth {
        StoreHealth {
            up: self.up,
            since_seconds: seconds(self.since, now),
            last_answer_seconds: self.last_answer.map(|last| seconds(last, now)),
            outages: self.outages,
        }
    }
}

impl PassFacts {
    /// Counts a pass.
    pub fn add(&mut self, took: Duration, failed: bool) {
        self.total += 1;
        self.failed += u64::from(failed);
        self.seconds += took.as_secs_f64();
        self.last_seconds = took.as_secs_f64();
    }
}

/// What was done to one table.
#[derive(Clone, Debug, Default)]
pub struct TableRecord {
    rows: u64,
    written: u64,
    removed: u64,
    repaired: u64,
    last_repair: Option<Instant>,
}

impl TableRecord {
    /// Counts one pass over the table: how many rows are wanted, and how many of them were written, how many others
    /// removed, and how many of both were repairs ([`repairs`]).
    pub fn add(&mut self, rows: u64, written: u64, removed: u64, repaired: u64, now: Instant) {
        self.rows = rows;
        self.written += written;
        self.removed += removed;
        self.repaired += repaired;
        if repaired > 0 {
            self.last_repair = Some(now);
        }
    }

    /// As it is told.
    pub fn facts(&self, name: &str, now: Instant) -> TableFacts {
        TableFacts {
            name: name.to_owned(),
            rows: self.rows,
            written: self.written,
            removed: self.removed,
            repaired: self.repaired,
            last_repair_seconds: self.last_repair.map(|last| seconds(last, now)),
        }
    }
}

/// How much of a plan is drift: rows to put although they were wanted, and put, just so before, and rows to delete that
/// nobody wanted before either. `before` is what the last pass wanted and left in place; in the first pass there is
/// none, and what an earlier agent left is no drift.
pub fn repairs<K: Ord, R: PartialEq>(plan: &Plan<K, R>, before: Option<&BTreeMap<K, R>>) -> u64 {
    let Some(before) = before else { return 0 };
    let put = plan.put.iter().filter(|(key, row)| before.get(key) == Some(row)).count();
    let deleted = plan.delete.iter().filter(|key| !before.contains_key(key)).count();
    (put + deleted) as u64
}

fn seconds(from: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(from).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::diff;

    #[test]
    fn an_outage_begins_and_ends_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut store = StoreRecord::new(start);
        store.answered(at(10));
        store.unavailable(at(20));
        store.unavailable(at(25));
        let facts = StoreHealth { up: false, since_seconds: 10, last_answer_seconds: Some(20), outages: 1 };
        assert_eq!(store.facts(at(30)), facts);
        store.answered(at(40));
        store.answered(at(45));
        let facts = StoreHealth { up: true, since_seconds: 20, last_answer_seconds: Some(15), outages: 1 };
        assert_eq!(store.facts(at(60)), facts);
    }

    #[test]
    fn passes_and_tables_add_up() {
        let mut passes = PassFacts::default();
        passes.add(Duration::from_millis(500), false);
        passes.add(Duration::from_millis(250), true);
        assert_eq!(passes, PassFacts { total: 2, failed: 1, seconds: 0.75, last_seconds: 0.25 });

        let start = Instant::now();
        let mut table = TableRecord::default();
        table.add(4, 4, 0, 0, start);
        assert_eq!(table.facts("route", start).last_repair_seconds, None);
        table.add(3, 1, 1, 1, start);
        let facts = TableFacts {
            name: "route".into(),
            rows: 3,
            written: 5,
            removed: 1,
            repaired: 1,
            last_repair_seconds: Some(7),
        };
        assert_eq!(table.facts("route", start + Duration::from_secs(7)), facts);
    }

    #[test]
    fn drift_is_what_no_change_of_wishes_explains() {
        let rows = |rows: &[(u32, u32)]| rows.iter().copied().collect::<BTreeMap<_, _>>();
        // Wanted before, wanted now, and what the kernel has.
        let table: [(&[_], &[_], &[_], _); 7] = [
            (&[], &[(1, 1)], &[], 0),
            (&[(1, 1)], &[(1, 1)], &[(1, 1)], 0),
            (&[(1, 1)], &[(1, 1)], &[], 1),
            (&[(1, 1)], &[(1, 1)], &[(1, 9)], 1),
            (&[(1, 1)], &[(1, 2)], &[(1, 1)], 0),
            (&[(1, 1)], &[], &[(1, 1)], 0),
            (&[(1, 1)], &[(1, 1), (2, 2)], &[(7, 7)], 2),
        ];
        for (before, want, have, drift) in table {
            let plan = diff(&rows(have), &rows(want));
            assert_eq!(repairs(&plan, Some(&rows(before))), drift, "{before:?} {want:?} {have:?}");
            assert_eq!(repairs(&plan, None), 0, "the first pass");
        }
    }
}
