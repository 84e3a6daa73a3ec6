//! Making a table equal to what is wanted.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use tracing::{debug, info};

use crate::table::Table;

/// What has to be done to a table.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan<K, R> {
    /// Rows that are absent or say something else.
    pub put: Vec<(K, R)>,
    /// Rows that nobody wants.
    pub delete: Vec<K>,
}

/// What turns `have` into `want`.
pub fn diff<K: Ord + Clone, R: PartialEq + Clone>(
    have: &BTreeMap<K, R>,
    want: &BTreeMap<K, R>,
) -> Plan<K, R> {
    let put = want
        .iter()
        .filter(|(key, row)| have.get(key) != Some(row))
        .map(|(key, row)| (key.clone(), row.clone()))
        .collect();
    let delete = have.keys().filter(|key| !want.contains_key(key)).cloned().collect();
    Plan { put, delete }
}

/// What a pass over the tables did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows created or replaced.
    pub put: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// What went wrong, one sentence per row or table.
    pub errors: Vec<String>,
    /// Whether the node's own rows, without which no peer can be reached, are in place.
    pub own_rows_stand: bool,
}

impl Outcome {
    /// Whether anything was changed.
    pub fn changed(&self) -> bool {
        self.put + self.deleted > 0
    }
}

/// What is known of a table's rows since it was last listed.
///
/// Listing ten thousand rows takes longer than writing the one that a lease asks for. So a pass that the store's news
/// ask for goes by what is known, and one that the kernel's events or the clock ask for lists anew.
#[derive(Debug)]
pub struct Known<K, R> {
    rows: Option<BTreeMap<K, R>>,
    trusted: bool,
    history: History,
}

/// What has happened to a table's rows since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Rows that we wrote.
    pub written: u64,
    /// Rows that we removed.
    pub removed: u64,
    /// Rows that were found other than we had left them.
    pub drifted: u64,
    /// When that last was.
    pub last_drift: Option<Instant>,
}

impl<K, R> Default for Known<K, R> {
    fn default() -> Self {
        Self { rows: None, trusted: false, history: History::default() }
    }
}

impl<K: Ord, R: PartialEq> Known<K, R> {
    /// Has the next pass list the rows anew.
    pub fn doubt(&mut self) {
        self.trusted = false;
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.as_ref().map_or(0, BTreeMap::len)
    }

    /// What stands at `key`.
    pub fn get(&self, key: &K) -> Option<&R> {
        self.rows.as_ref()?.get(key)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has happened to them.
    pub fn history(&self) -> History {
        self.history
    }

    async fn refresh<T: Table<Key = K, Row = R>>(&mut self, table: &mut T) -> Result<&BTreeMap<K, R>> {
        if !self.trusted {
            let rows = table.rows().await?;
            if let Some(before) = &self.rows {
                let changed = differences(before, &rows);
                if changed > 0 {
                    self.history.drifted += changed;
                    self.history.last_drift = Some(Instant::now());
                }
            }
            self.rows = Some(rows);
            self.trusted = true;
        }
        Ok(self.rows.get_or_insert_default())
    }

    fn wrote(&mut self, key: K, row: R) {
        self.history.written += 1;
        self.rows.get_or_insert_default().insert(key, row);
    }

    fn removed(&mut self, key: &K) {
        self.history.removed += 1;
        self.rows.get_or_insert_default().remove(key);
    }
}

/// How many keys say something else in one than in the other.
fn differences<K: Ord, R: PartialEq>(before: &BTreeMap<K, R>, after: &BTreeMap<K, R>) -> u64 {
    let gone = before.iter().filter(|(key, row)| after.get(key) != Some(row)).count();
    let new = after.keys().filter(|key| !before.contains_key(key)).count();
    (gone + new) as u64
}

/// What is left to do after the missing rows of a table were put.
#[derive(Debug)]
pub struct Left<K> {
    /// Rows that nobody wants.
    pub unwanted: Vec<K>,
    /// Rows that could not be put.
    pub refused: Vec<K>,
}

/// Puts what is missing in `table`.
///
/// Deleting them is a second step, so that a caller with several tables makes before it breaks. A row that fails
/// does not hold up the others.
pub async fn put_missing<T: Table>(
    table: &mut T,
    known: &mut Known<T::Key, T::Row>,
    want: &BTreeMap<T::Key, T::Row>,
    outcome: &mut Outcome,
) -> Left<T::Key> {
    let have = match known.refresh(table).await {
        Ok(have) => have,
        Err(error) => {
            outcome.errors.push(format!("cannot list the {}s of this node: {error:#}", table.name()));
            // What was there when last seen is taken to stand.
            let unseen = want.iter().filter(|(key, row)| known.get(key) != Some(row));
            return Left { unwanted: Vec::new(), refused: unseen.map(|(key, _)| key.clone()).collect() };
        }
    };
    let plan = diff(have, want);
    let mut refused = Vec::new();
    let results = table.put_all(&plan.put).await;
    for ((key, row), result) in plan.put.into_iter().zip(results) {
        match result {
            Ok(()) => {
                debug!("{} {}: {row:?}", table.name(), T::label(&key));
                outcome.put += 1;
                known.wrote(key, row);
            }
            Err(error) => {
                outcome.errors.push(format!("{error:#}"));
                known.doubt();
                refused.push(key);
            }
        }
    }
    Left { unwanted: plan.delete, refused }
}

/// Deletes `keys` from `table`.
pub async fn delete<T: Table>(
    table: &mut T,
    known: &mut Known<T::Key, T::Row>,
    keys: &[T::Key],
    outcome: &mut Outcome,
) {
    let results = table.delete_all(keys).await;
    let mut removed = 0u64;
    for (key, result) in keys.iter().zip(results) {
        match result {
            Ok(()) => {
                debug!("removed {} {}", table.name(), T::label(key));
                removed += 1;
                known.removed(key);
            }
            Err(error) => {
                outcome.errors.push(format!("{error:#}"));
                known.doubt();
            }
        }
    }
    if removed > 0 {
        let first = keys.first().map(T::label).unwrap_or_default();
        let others = if removed > 1 { format!(" and {} others", removed - 1) } else { String::new() };
        info!("removed {} {first}{others}, which no lease asks for", table.name());
        outcome.deleted += removed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Mem;

    async fn make_equal(table: &mut Mem, want: &BTreeMap<u32, u32>) -> Outcome {
        make_equal_knowing(table, &mut Known::default(), want).await
    }

    async fn make_equal_knowing(
        table: &mut Mem,
        known: &mut Known<u32, u32>,
        want: &BTreeMap<u32, u32>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let left = put_missing(table, known, want, &mut outcome).await;
        delete(table, known, &left.unwanted, &mut outcome).await;
        outcome
    }

    /// Every table over three keys and two values, against every other.
    fn all_tables() -> Vec<BTreeMap<u32, u32>> {
        (0..27u32)
            .map(|number| {
                (0..3)
                    .filter_map(|key| match number / 3u32.pow(key) % 3 {
                        0 => None,
                        value => Some((key, value)),
                    })
                    .collect()
            })
            .collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn any_table_becomes_any_other_and_then_rests() {
        for have in all_tables() {
            for want in all_tables() {
                let mut table = Mem { rows: have.clone(), ..Mem::default() };
                make_equal(&mut table, &want).await;
                assert_eq!(table.rows, want);
                assert!(!make_equal(&mut table, &want).await.changed(), "a second pass changes nothing");
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_row_that_fails_holds_up_no_other() {
        let mut table = Mem { rows: BTreeMap::from([(9, 9)]), broken: vec![1], ..Mem::default() };
        let outcome = make_equal(&mut table, &BTreeMap::from([(1, 1), (2, 2)])).await;
        assert_eq!(table.rows, BTreeMap::from([(2, 2)]));
        assert_eq!(outcome.errors, ["broken"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_known_is_not_listed_again_until_it_is_doubted() {
        let mut table = Mem::default();
        let mut known = Known::default();
        let want = BTreeMap::from([(1, 1), (2, 2)]);
        make_equal_knowing(&mut table, &mut known, &want).await;
        assert_eq!((known.len(), known.history().written, known.history().drifted), (2, 2, 0));
        // Somebody else deletes, changes and adds; a trusting pass does its own work and does not see it.
        table.rows = BTreeMap::from([(2, 7), (9, 9)]);
        let more = BTreeMap::from([(1, 1), (2, 2), (3, 3)]);
        assert_eq!(make_equal_knowing(&mut table, &mut known, &more).await.put, 1);
        assert_eq!(table.rows, BTreeMap::from([(2, 7), (3, 3), (9, 9)]));
        known.doubt();
        make_equal_knowing(&mut table, &mut known, &more).await;
        assert_eq!(table.rows, more);
        assert_eq!(known.history().drifted, 3, "one gone, one changed, one new");
        assert!(known.history().last_drift.is_some());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn where_nothing_can_be_listed_what_was_there_stands() {
        let (mut table, mut known) = (Mem::default(), Known::default());
        make_equal_knowing(&mut table, &mut known, &BTreeMap::from([(1, 1), (2, 2)])).await;
        table.is_silent = true;
        known.doubt();
        let (want, mut outcome) = (BTreeMap::from([(1, 1), (2, 7), (3, 3)]), Outcome::default());
        let left = put_missing(&mut table, &mut known, &want, &mut outcome).await;
        assert_eq!((left.unwanted, left.refused), (vec![], vec![2, 3]), "what is changed and what is new");
        assert_eq!(outcome.errors, ["cannot list the rows of this node: silent"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_row_that_failed_is_not_known() {
        let mut table = Mem { broken: vec![1], ..Mem::default() };
        let mut known = Known::default();
        let want = BTreeMap::from([(1, 1)]);
        assert_eq!(make_equal_knowing(&mut table, &mut known, &want).await.errors.len(), 1);
        table.broken.clear();
        assert_eq!(make_equal_knowing(&mut table, &mut known, &want).await.put, 1);
        assert_eq!(known.history().drifted, 0, "our own failure is nobody's change");
    }
}
