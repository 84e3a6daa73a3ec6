//! The measuring itself, round by round.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ovl_tests::interrupt;

use super::checks::Offloads;
use super::findings::Findings;
use super::plan::Plan;
use super::progress::Progress;
use super::results::{Results, Sample};
use super::schedule::order;
use super::site::Site;
use super::workload::Workload;

/// A running session, and what came of it.
pub(super) struct Session<'a> {
    plan: &'a Plan,
    sites: Vec<Site>,
    progress: Progress,
    results: Results,
    failures: Vec<String>,
}

impl<'a> Session<'a> {
    /// Builds the nodes of all contenders and measures.
    pub(super) fn run(plan: &'a Plan, agent: &Path) -> Result<Findings> {
        let mut progress = Progress::new(plan.contenders.len() + plan.rounds * plan.turns().count());
        let mut sites = Vec::new();
        for contender in &plan.contenders {
            progress.step("nodes and agents", contender.name);
            let site = Site::build(contender, plan, agent);
            sites.push(site.with_context(|| format!("build the nodes of {}", contender.name))?);
        }
        let mut session = Self { plan, sites, progress, results: Results::default(), failures: Vec::new() };
        let mut offloads = Offloads::new();
        for round in 0..plan.rounds {
            offloads = session.round(round)?;
        }
        let Self { results, failures, .. } = session;
        Ok(Findings { results, failures, offloads, ..Findings::default() })
    }

    fn round(&mut self, round: usize) -> Result<Offloads> {
        let (counts, offloads) = self.check()?;
        for workload in &self.plan.workloads {
            for index in order(self.sites.len(), round) {
                if workload.load.concerns(self.sites[index].contender) {
                    self.turn(round, workload, index, counts[index])?;
                }
            }
        }
        Ok(offloads)
    }

    /// One contender's turn.
    fn turn(&mut self, round: usize, workload: &Workload, index: usize, counts: bool) -> Result<()> {
        interrupt::check()?;
        let (workload_name, contender) = (workload.name, self.sites[index].contender.name);
        let part = format!("round {} of {}, {workload_name}", round + 1, self.plan.rounds);
        self.progress.step(&part, contender);
        if !counts {
            self.results.push_flaw(workload_name, contender);
            return Ok(());
        }
        match self.sites[index].measure(workload, self.plan.seconds) {
            Ok(outcome) => {
                for (metric, value) in outcome.values {
                    self.results.push(Sample {
                        round,
                        workload: workload_name.to_owned(),
                        contender,
                        metric,
                        value,
                    });
                }
                Ok(())
            }
            Err(error) => {
                self.results.push_flaw(workload_name, contender);
                self.fail(&format!("{part}, {contender}"), &error)
            }
        }
    }

    /// Checks every contender's nodes: whose round counts, and their offloads.
    fn check(&mut self) -> Result<(Vec<bool>, Offloads)> {
        let checked: Vec<_> = self.sites.iter().map(|site| (site.contender.name, site.check())).collect();
        let expected = checked.iter().find_map(|(_, offloads)| offloads.as_ref().ok().cloned());
        let expected = expected.unwrap_or_default();
        let mut counts = Vec::new();
        for (name, offloads) in checked {
            let verdict = offloads.and_then(|offloads| {
                ensure!(
                    offloads.iter().all(|(name, value)| expected.get(name) == Some(value)),
                    "its offloads are not those of the others: {offloads:?}"
                );
                Ok(())
            });
            counts.push(verdict.is_ok());
            if let Err(error) = verdict {
                self.fail(name, &error)?;
            }
        }
        ensure!(counts.contains(&true), "no contender is fit to be measured: {}", self.failures.join("; "));
        Ok((counts, expected))
    }

    /// Notes what went wrong; an interrupt ends everything.
    fn fail(&mut self, what: &str, error: &anyhow::Error) -> Result<()> {
        interrupt::check()?;
        let text = format!("{what}: {error:#}");
        self.progress.say(&text);
        self.failures.push(text);
        Ok(())
    }
}
