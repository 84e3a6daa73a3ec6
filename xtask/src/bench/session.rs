//! The measuring itself, round by round.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ovl_tests::interrupt;

use super::checks::Offloads;
use super::plan::Plan;
use super::progress::Progress;
use super::results::{Results, Sample};
use super::schedule::order;
use super::site::Site;

/// What came of it.
pub(super) struct Session {
    pub(super) results: Results,
    /// What could not be measured, and why; everything else is as good as without it.
    pub(super) failures: Vec<String>,
}

impl Session {
    /// Builds the nodes of all contenders and measures.
    pub(super) fn run(plan: &Plan, agent: &Path) -> Result<Self> {
        let (rounds, sites) = (plan.rounds, plan.contenders.len());
        let mut progress = Progress::new(sites + rounds * plan.workloads.len() * sites);
        let mut session = Self { results: Results::default(), failures: Vec::new() };
        let mut sites = Vec::new();
        for contender in &plan.contenders {
            progress.step("nodes and agents", contender.name);
            let site = Site::build(contender, plan.ballast, agent);
            sites.push(site.with_context(|| format!("build the nodes of {}", contender.name))?);
        }
        for round in 0..rounds {
            let counts = session.check(&sites, plan, &progress)?;
            for workload in &plan.workloads {
                for index in order(sites.len(), round) {
                    interrupt::check()?;
                    let contender = sites[index].contender;
                    if !workload.concerns(contender) {
                        continue;
                    }
                    let part = format!("round {} of {rounds}, {}", round + 1, workload.name);
                    progress.step(&part, contender.name);
                    if !counts[index] {
                        session.results.push_flaw(workload.name, contender.name);
                        continue;
                    }
                    match sites[index].measure(workload, plan.seconds) {
                        Ok(outcome) => {
                            for (metric, value) in outcome.values {
                                let (workload, contender) = (workload.name, contender.name);
                                session.results.push(Sample { round, workload, contender, metric, value });
                            }
                        }
                        Err(error) => {
                            session.results.push_flaw(workload.name, contender.name);
                            session.fail(&progress, &format!("{part}, {}", contender.name), &error)?;
                        }
                    }
                }
            }
        }
        Ok(session)
    }

    /// Checks every contender's nodes; whether its round counts.
    fn check(&mut self, sites: &[Site], plan: &Plan, progress: &Progress) -> Result<Vec<bool>> {
        let mut counts = Vec::new();
        let mut reference: Option<(&'static str, Offloads)> = None;
        for site in sites {
            let checked = site.check().and_then(|offloads| {
                let (name, expected) =
                    reference.get_or_insert_with(|| (site.contender.name, offloads.clone()));
                ensure!(offloads == *expected, "its offloads are not those of {name}: {offloads:?}");
                Ok(())
            });
            counts.push(checked.is_ok());
            if let Err(error) = checked {
                self.fail(progress, site.contender.name, &error)?;
            }
        }
        ensure!(counts.contains(&true) || plan.rounds == 0, "no contender is fit to be measured");
        Ok(counts)
    }

    /// Notes what went wrong; an interrupt ends everything.
    fn fail(&mut self, progress: &Progress, what: &str, error: &anyhow::Error) -> Result<()> {
        interrupt::check()?;
        let text = format!("{what}: {error:#}");
        progress.say(&text);
        self.failures.push(text);
        Ok(())
    }
}
