//! The rows for other programs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::results::{Row, Spread};

/// Writes them to a file.
pub(super) fn write(file: &Path, rows: &[Row]) -> Result<()> {
    fs::write(file, format!("{:#}\n", array(rows))).with_context(|| format!("write {}", file.display()))
}

fn array(rows: &[Row]) -> Value {
    rows.iter().map(object).collect()
}

fn object(row: &Row) -> Value {
    let median = |ratio: Option<Spread>| ratio.map(|ratio| ratio.median);
    json!({
        "workload": row.workload,
        "contender": row.contender,
        "metric": row.metric.name,
        "unit": row.metric.unit,
        "rounds": row.rounds,
        "median": row.value.median,
        "min": row.value.min,
        "max": row.value.max,
        "ratio_kernel_vxlan": median(row.to_baseline),
        "ratio_host": median(row.to_limit),
        "spread": row.spread(),
        "unsteady": row.is_unsteady(),
        "path_verified": row.path_verified,
    })
}

#[cfg(test)]
mod tests {
    use super::super::metric::THROUGHPUT;
    use super::*;

    #[test]
    fn a_row_has_every_member() {
        let value = Spread { median: 15.0, min: 14.0, max: 16.0, count: 5 };
        let row = Row {
            workload: "tcp-stream-1".to_owned(),
            contender: "ovl-vxlan",
            metric: THROUGHPUT,
            rounds: 5,
            value,
            to_baseline: Some(Spread { median: 1.25, min: 1.25, max: 1.5, count: 5 }),
            to_limit: None,
            path_verified: true,
        };
        let expected = json!([{
            "workload": "tcp-stream-1",
            "contender": "ovl-vxlan",
            "metric": "throughput",
            "unit": "Gb/s",
            "rounds": 5,
            "median": 15.0,
            "min": 14.0,
            "max": 16.0,
            "ratio_kernel_vxlan": 1.25,
            "ratio_host": null,
            "spread": 0.2,
            "unsteady": false,
            "path_verified": true,
        }]);
        assert_eq!(array(&[row]), expected);
    }
}
