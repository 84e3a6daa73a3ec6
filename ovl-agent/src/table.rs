//! The effect boundary: a table lists the rows that are ours, puts one, deletes one.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::Result;

/// A kernel table or a BPF map, as far as it is ours.
#[expect(async_fn_in_trait, reason = "used with static dispatch in one task; no Send bound is needed")]
pub trait Table {
    /// What names a row.
    type Key: Ord + Clone + Debug;
    /// What it says.
    type Row: PartialEq + Clone + Debug;

    /// What the rows are, for logs: `route`, `neighbour`.
    fn name(&self) -> &'static str;

    /// What a row is called in logs.
    fn label(key: &Self::Key) -> String;

    /// Lists the rows this agent owns, and no others.
    async fn rows(&mut self) -> Result<BTreeMap<Self::Key, Self::Row>>;

    /// Creates or replaces a row.
    async fn put(&mut self, key: &Self::Key, row: &Self::Row) -> Result<()>;

    /// Creates or replaces many rows, and says of each what became of it. In any order: no row needs another of its
    /// table.
    async fn put_all(&mut self, rows: &[(Self::Key, Self::Row)]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            results.push(self.put(key, row).await);
        }
        results
    }

    /// Deletes a row; one that is absent is a success.
    async fn delete(&mut self, key: &Self::Key) -> Result<()>;

    /// Deletes many rows, and says of each what became of it.
    async fn delete_all(&mut self, keys: &[Self::Key]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            results.push(self.delete(key).await);
        }
        results
    }
}

/// A table in memory.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Mem {
    pub(crate) rows: BTreeMap<u32, u32>,
    /// Puts of these keys fail.
    pub(crate) broken: Vec<u32>,
    /// It cannot be listed.
    pub(crate) is_silent: bool,
}

#[cfg(test)]
impl Table for Mem {
    type Key = u32;
    type Row = u32;

    fn name(&self) -> &'static str {
        "row"
    }

    fn label(key: &u32) -> String {
        key.to_string()
    }

    async fn rows(&mut self) -> Result<BTreeMap<u32, u32>> {
        anyhow::ensure!(!self.is_silent, "silent");
        Ok(self.rows.clone())
    }

    async fn put(&mut self, key: &u32, row: &u32) -> Result<()> {
        anyhow::ensure!(!self.broken.contains(key), "broken");
        self.rows.insert(*key, *row);
        Ok(())
    }

    async fn delete(&mut self, key: &u32) -> Result<()> {
        self.rows.remove(key);
        Ok(())
    }
}
