//! From samples to rows: medians, ratios within a round, spread.

use super::contender::{BASELINE, LIMIT};
use super::metric::Metric;
use crate::median::median;

/// A ratio that spreads further says so instead of looking precise.
pub(super) const UNSTEADY: f64 = 0.2;

/// One figure of one round.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) round: usize,
    pub(super) workload: String,
    pub(super) contender: &'static str,
    pub(super) metric: Metric,
    pub(super) value: f64,
}

/// A median with its extremes, of so many values or pairs of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) count: usize,
}

/// A figure over all rounds.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) workload: String,
    pub(super) contender: &'static str,
    pub(super) metric: Metric,
    pub(super) rounds: usize,
    pub(super) value: Spread,
    /// To the baseline of the same round.
    pub(super) to_baseline: Option<Spread>,
    /// To the limit of the same round.
    pub(super) to_limit: Option<Spread>,
    /// Whether all of its rounds took the path that is claimed; those that did not are not counted.
    pub(super) path_verified: bool,
}

/// All samples, and what went wrong.
#[derive(Debug, Default)]
pub(super) struct Results {
    samples: Vec<Sample>,
    /// Workloads and contenders with a round that did not count.
    flawed: Vec<(&'static str, &'static str)>,
}

impl Spread {
    /// Of values; nothing has none.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let extreme = |choose: fn(f64, f64) -> f64| values.iter().copied().reduce(choose);
        let (min, max) = (extreme(f64::min)?, extreme(f64::max)?);
        Some(Self { median: median(values.iter().copied())?, min, max, count: values.len() })
    }

    /// How far it goes from end to end, as a part of the median; of one alone nobody knows.
    pub(super) fn width(&self) -> Option<f64> {
        (self.count > 1).then(|| if self.median > 0.0 { (self.max - self.min) / self.median } else { 0.0 })
    }
}

impl Row {
    /// The spread that matters: of the ratio where it is compared with something, else of the value. `None` where it is
    /// not known.
    pub(super) fn spread(&self) -> Option<f64> {
        let ratio = self.to_baseline.filter(|_| self.contender != BASELINE);
        ratio.or(self.to_limit.filter(|_| self.contender != LIMIT)).unwrap_or(self.value).width()
    }

    /// Whether it spreads so far that it means little, or may for all that is known.
    pub(super) fn is_unsteady(&self) -> bool {
        self.spread().is_none_or(|spread| spread > UNSTEADY)
    }
}

impl Results {
    pub(super) fn push(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// A round of a row that does not count.
    pub(super) fn push_flaw(&mut self, workload: &'static str, contender: &'static str) {
        self.flawed.push((workload, contender));
    }

    /// The rows, in the order in which they were first measured.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for sample in &self.samples {
            let is_same = |row: &Row| {
                (&row.workload, row.contender, row.metric)
                    == (&sample.workload, sample.contender, sample.metric)
            };
            if !rows.iter().any(is_same) {
                rows.extend(self.row(sample));
            }
        }
        rows
    }

    fn row(&self, like: &Sample) -> Option<Row> {
        let Sample { ref workload, contender, metric, .. } = *like;
        let of = |contender| {
            self.samples.iter().filter(move |sample| {
                (&sample.workload, sample.contender, sample.metric) == (workload, contender, metric)
            })
        };
        let ratios = |reference| {
            let pairs = of(contender).filter_map(|sample| {
                let reference = of(reference).find(|other| other.round == sample.round)?;
                metric.sense.ratio(sample.value, reference.value)
            });
            Spread::of(&pairs.collect::<Vec<_>>())
        };
        let values: Vec<_> = of(contender).map(|sample| sample.value).collect();
        Some(Row {
            workload: workload.clone(),
            contender,
            metric,
            rounds: values.len(),
            value: Spread::of(&values)?,
            to_baseline: ratios(BASELINE),
            to_limit: ratios(LIMIT),
            path_verified: !self.flawed.contains(&(workload.as_str(), contender)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric::{P50, THROUGHPUT};
    use super::*;

    fn results(samples: &[(usize, &'static str, Metric, f64)]) -> Results {
        let mut results = Results::default();
        for &(round, contender, metric, value) in samples {
            results.push(Sample { round, workload: "load".to_owned(), contender, metric, value });
        }
        results
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let results = results(&[
            (0, "kernel-vxlan", THROUGHPUT, 10.0),
            (0, "ovl-vxlan", THROUGHPUT, 15.0),
            // The machine is busy with something else.
            (1, "ovl-vxlan", THROUGHPUT, 3.0),
            (1, "kernel-vxlan", THROUGHPUT, 2.0),
            (2, "ovl-vxlan", THROUGHPUT, 16.0),
        ]);
        let rows = results.rows();
        let ovl = rows.iter().find(|row| row.contender == "ovl-vxlan").unwrap();
        assert_eq!(ovl.value, Spread { median: 15.0, min: 3.0, max: 16.0, count: 3 });
        assert_eq!(ovl.to_baseline, Some(Spread { median: 1.5, min: 1.5, max: 1.5, count: 2 }));
        assert_eq!((ovl.rounds, ovl.to_limit, ovl.is_unsteady()), (3, None, false));
    }

    #[test]
    fn a_wide_spread_is_told() {
        let with = |last| {
            let results = results(&[
                (0, "kernel-vxlan", P50, 10.0),
                (0, "ovl-vxlan", P50, 5.0),
                (1, "kernel-vxlan", P50, 10.0),
                (1, "ovl-vxlan", P50, last),
            ]);
            results.rows()[1].clone()
        };
        assert!(!with(5.5).is_unsteady(), "{:?}", with(5.5).spread());
        assert!(with(7.0).is_unsteady(), "{:?}", with(7.0).spread());
    }

    /// Of several rounds only one has both: their ratio has no spread, whatever the values do.
    #[test]
    fn of_one_pair_no_spread_is_known() {
        let results = results(&[
            (0, "kernel-vxlan", P50, 10.0),
            (0, "ovl-vxlan", P50, 5.0),
            (1, "ovl-vxlan", P50, 5.0),
            (2, "ovl-vxlan", P50, 5.0),
        ]);
        let row = &results.rows()[1];
        assert_eq!((row.rounds, row.to_baseline.map(|ratio| ratio.count)), (3, Some(1)));
        assert_eq!((row.spread(), row.is_unsteady()), (None, true));
    }

    #[test]
    fn the_baseline_is_judged_by_the_limit() {
        let results = results(&[
            (0, "host", THROUGHPUT, 20.0),
            (0, "kernel-vxlan", THROUGHPUT, 10.0),
            (1, "host", THROUGHPUT, 20.0),
            (1, "kernel-vxlan", THROUGHPUT, 20.0),
        ]);
        let rows = results.rows();
        assert!(rows[1].is_unsteady());
        assert_eq!(rows[1].to_baseline.map(|ratio| ratio.median), Some(1.0));
    }

    #[test]
    fn a_round_that_does_not_count_is_remembered() {
        let mut results = results(&[(0, "host", P50, 1.0), (0, "ovl-vxlan", P50, 1.0)]);
        results.push_flaw("load", "ovl-vxlan");
        let verified: Vec<_> = results.rows().iter().map(|row| row.path_verified).collect();
        assert_eq!(verified, [true, false]);
    }
}
