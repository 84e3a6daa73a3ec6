//! What came of everything.

use anyhow::Result;
use ovl_tests::interrupt;

use super::checks::Offloads;
use super::results::{Results, Row};
use super::tables::{self, Table};
use super::test_runs::{self, Extent, TestRuns};

/// Figures, and what could not be had.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Of the contenders.
    pub(super) results: Results,
    /// Of the programs by themselves.
    pub(super) test_runs: Results,
    /// What could not be measured, and why; everything else is as good as without it.
    pub(super) failures: Vec<String>,
    /// What a reader has to know.
    pub(super) notes: Vec<String>,
    /// What devices did for the processor, the same for every contender.
    pub(super) offloads: Offloads,
}

impl Findings {
    /// Has the programs run by themselves.
    pub(super) fn add_test_runs(&mut self, extent: Extent) -> Result<()> {
        match test_runs::measure(extent) {
            Ok(TestRuns { results, no_instructions }) => {
                self.test_runs = results;
                let note = |why| {
                    format!(
                        "instructions per packet: not counted here, the machine has no counter for them ({why})"
                    )
                };
                self.notes.extend(no_instructions.map(note));
            }
            Err(error) => {
                interrupt::check()?;
                self.failures.push(format!("programs by themselves: {error:#}"));
            }
        }
        Ok(())
    }

    /// All rows.
    pub(super) fn rows(&self) -> Vec<Row> {
        [self.results.rows(), self.test_runs.rows()].concat()
    }

    /// All rows for people.
    pub(super) fn tables(&self) -> Vec<Table> {
        let mut tables = tables::all(&self.results.rows());
        let rows = self.test_runs.rows();
        if !rows.is_empty() {
            tables.push(tables::of_test_runs(&rows));
        }
        tables
    }
}
