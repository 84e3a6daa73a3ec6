//! A line for each kernel.

use std::time::Duration;

use anyhow::{Result, bail};

use super::series::Series;
use crate::table;

/// What became of a kernel.
pub(super) struct Row {
    pub(super) series: Series,
    pub(super) release: String,
    pub(super) boot: Option<Duration>,
    /// Of each column.
    pub(super) results: Vec<String>,
    pub(super) time: Option<Duration>,
    pub(super) ok: bool,
}

impl Row {
    /// A kernel that could not even be started.
    pub(super) fn without_guest(series: Series, columns: &[&str]) -> Self {
        let results = columns.iter().map(|_| "-".to_owned()).collect();
        Self { series, release: "NOT STARTED".to_owned(), boot: None, results, time: None, ok: false }
    }

    fn cells(&self) -> Vec<String> {
        let seconds = |time: Option<Duration>| {
            time.map_or("-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
        };
        let begin = [self.series.name().to_owned(), self.release.clone(), seconds(self.boot)];
        begin.into_iter().chain(self.results.clone()).chain([seconds(self.time)]).collect()
    }
}

/// Prints the table with these columns of results; an error when something failed.
pub(super) fn print(columns: &[&str], rows: &[Row]) -> Result<()> {
    let heading = ["series", "kernel", "boot"].iter().chain(columns).chain(&["time"]);
    let mut lines = vec![heading.map(|&cell| cell.to_owned()).collect()];
    lines.extend(rows.iter().map(Row::cells));
    print!("\n{}", table::format(&lines, false));
    let failed: Vec<_> = rows.iter().filter(|row| !row.ok).map(|row| row.series.name()).collect();
    if !failed.is_empty() {
        bail!("failed on {}", failed.join(", "));
    }
    println!("kernels ok: {}", rows.len());
    Ok(())
}
