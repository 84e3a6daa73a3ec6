//! The rows for people: what was measured, and how it compares.

use super::contender::{self, BASELINE, LIMIT};
use super::results::{Row, Spread, UNSTEADY};

/// A table with a heading.
pub(super) struct Table {
    pub(super) title: String,
    /// The first row has the columns' names.
    pub(super) rows: Vec<Vec<String>>,
}

/// The figures, and their ratios to the baseline and to the limit.
pub(super) fn all(rows: &[Row]) -> Vec<Table> {
    let value = |row: &Row| {
        Some(format!("{}{}", number(row.value.median), if row.path_verified { "" } else { " !" }))
    };
    let to_baseline = |row: &Row| row.to_baseline.filter(|_| row.contender != BASELINE).map(ratio);
    let to_limit = |row: &Row| row.to_limit.filter(|_| row.contender != LIMIT).map(ratio);
    let tables = [
        table("medians (! : not all rounds count)".to_owned(), rows, value),
        table(format!("times {BASELINE}, with the spread over rounds"), rows, to_baseline),
        table(format!("times {LIMIT}, with the spread over rounds"), rows, to_limit),
    ];
    tables.into_iter().filter(|table| table.rows.len() > 1).collect()
}

fn table(title: String, rows: &[Row], cell: impl Fn(&Row) -> Option<String>) -> Table {
    let shown: Vec<_> = rows.iter().filter_map(|row| Some((row, cell(row)?))).collect();
    let columns: Vec<_> = contender::ALL
        .iter()
        .map(|contender| contender.name)
        .filter(|name| shown.iter().any(|(row, _)| row.contender == *name))
        .collect();
    let mut lines = vec![std::iter::once("").chain(columns.iter().copied()).map(str::to_owned).collect()];
    let mut done = Vec::new();
    for (row, _) in &shown {
        let key = (row.workload.as_str(), row.metric);
        if done.contains(&key) {
            continue;
        }
        done.push(key);
        let of = |column: &&str| {
            let same = |row: &Row| (row.workload.as_str(), row.metric) == key && row.contender == *column;
            shown.iter().find(|(row, _)| same(row)).map(|(_, cell)| cell.clone()).unwrap_or_default()
        };
        let name = format!("{}, {} {}", row.workload, row.metric.name, row.metric.unit);
        lines.push(std::iter::once(name).chain(columns.iter().map(of)).collect());
    }
    Table { title, rows: lines }
}

/// What programs take by themselves.
pub(super) fn of_test_runs(rows: &[Row]) -> Table {
    let mut lines = vec![["", "median", "lowest", "highest"].map(str::to_owned).to_vec()];
    for row in rows {
        let Spread { median, min, max, .. } = row.value;
        let name = format!("{}, {} {}", row.workload, row.metric.name, row.metric.unit);
        lines.push(std::iter::once(name).chain([median, min, max].map(number)).collect());
    }
    Table { title: "programs by themselves, packet by packet (BPF_PROG_TEST_RUN)".to_owned(), rows: lines }
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "rounded, and not negative"
            )]
            let whole = value.round() as u64;
            crate::table::grouped(whole)
        }
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What spreads too far has one digit less, and says how far.
fn ratio(ratio: Spread) -> String {
    match ratio.width() {
        None => format!("{:.2}", ratio.median),
        Some(width) if width > UNSTEADY => {
            format!("~{:.1} (spread {:.0} %)", ratio.median, width * 100.0)
        }
        Some(width) => format!("{:.2} ±{:.0}%", ratio.median, width * 50.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric::{P50, THROUGHPUT};
    use super::*;

    fn row(contender: &'static str, metric: super::super::metric::Metric, median: f64, width: f64) -> Row {
        let spread = |median: f64| Spread { median, min: median, max: median * (1.0 + width), count: 5 };
        Row {
            workload: "load".to_owned(),
            contender,
            metric,
            rounds: 5,
            value: spread(median),
            to_baseline: Some(spread(median / 10.0)),
            to_limit: None,
            path_verified: true,
        }
    }

    #[test]
    fn of_one_pair_no_spread_is_shown() {
        let mut row = row("ovl-vxlan", THROUGHPUT, 15.0, 0.0);
        row.to_baseline = row.to_baseline.map(|ratio| Spread { count: 1, ..ratio });
        assert_eq!(all(&[row])[1].rows[1], ["load, throughput Gb/s", "1.50"]);
    }

    #[test]
    fn a_row_has_a_cell_per_contender_and_says_when_it_is_unsteady() {
        let rows = [
            row("kernel-vxlan", THROUGHPUT, 10.0, 0.1),
            row("ovl-vxlan", THROUGHPUT, 15.0, 0.04),
            row("ovl-vxlan", P50, 1234.5, 0.5),
        ];
        let tables = all(&rows);
        assert_eq!(tables.len(), 2, "nothing is compared with the host");
        assert_eq!(
            tables[0].rows,
            [
                ["", "kernel-vxlan", "ovl-vxlan"],
                ["load, throughput Gb/s", "10.0", "15.0"],
                ["load, p50 µs", "", "1 235"]
            ]
        );
        assert_eq!(
            tables[1].rows,
            [
                ["", "ovl-vxlan"],
                ["load, throughput Gb/s", "1.50 ±2%"],
                ["load, p50 µs", "~123.5 (spread 50 %)"]
            ]
        );
    }
}
