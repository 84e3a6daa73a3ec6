//! Making a table equal to what is wanted.

use std::collections::BTreeMap;

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
    want: &BTreeMap<T::Key, T::Row>,
    outcome: &mut Outcome,
) -> Left<T::Key> {
    let have = match table.rows().await {
        Ok(have) => have,
        Err(error) => {
            outcome.errors.push(format!("cannot list the {}s of this node: {error:#}", table.name()));
            return Left { unwanted: Vec::new(), refused: want.keys().cloned().collect() };
        }
    };
    let plan = diff(&have, want);
    let mut refused = Vec::new();
    for (key, row) in plan.put {
        match table.put(&key, &row).await {
            Ok(()) => {
                debug!("{} {key:?}: {row:?}", table.name());
                outcome.put += 1;
            }
            Err(error) => {
                outcome.errors.push(format!("{error:#}"));
                refused.push(key);
            }
        }
    }
    Left { unwanted: plan.delete, refused }
}

/// Deletes `keys` from `table`.
pub async fn delete<T: Table>(table: &mut T, keys: &[T::Key], outcome: &mut Outcome) {
    for key in keys {
        match table.delete(key).await {
            Ok(()) => {
                info!("removed {} {key:?}, which no lease asks for", table.name());
                outcome.deleted += 1;
            }
            Err(error) => outcome.errors.push(format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Mem;

    async fn make_equal(table: &mut Mem, want: &BTreeMap<u32, u32>) -> Outcome {
        let mut outcome = Outcome::default();
        let left = put_missing(table, want, &mut outcome).await;
        delete(table, &left.unwanted, &mut outcome).await;
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
                let mut table = Mem { rows: have.clone(), broken: vec![] };
                make_equal(&mut table, &want).await;
                assert_eq!(table.rows, want);
                assert!(!make_equal(&mut table, &want).await.changed(), "a second pass changes nothing");
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_row_that_fails_holds_up_no_other() {
        let mut table = Mem { rows: BTreeMap::from([(9, 9)]), broken: vec![1] };
        let outcome = make_equal(&mut table, &BTreeMap::from([(1, 1), (2, 2)])).await;
        assert_eq!(table.rows, BTreeMap::from([(2, 2)]));
        assert_eq!(outcome.errors, ["broken"]);
    }
}
