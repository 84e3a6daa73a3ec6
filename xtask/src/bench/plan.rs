//! What will be measured.

use anyhow::{Result, bail};

use super::Options;
use super::contender::{self, BASELINE, Contender, LIMIT};
use super::site::Ballast;
use super::test_runs::Extent;
use super::workload::{self, Workload};

/// How many packets every case gets in a round.
const PACKETS: usize = 20_000;

/// What the options ask for.
pub(super) struct Plan {
    pub(super) contenders: Vec<&'static Contender>,
    pub(super) workloads: Vec<&'static Workload>,
    pub(super) rounds: usize,
    pub(super) seconds: u32,
    pub(super) ballast: Ballast,
    pub(super) congestion: String,
}

impl Plan {
    /// Understands the options; `congestion` is what TCP goes by.
    pub(super) fn of(options: &Options, congestion: String) -> Result<Self> {
        let contenders = chosen(contender::ALL, |entry| entry.name, &options.only);
        let workloads = chosen(workload::ALL, |entry| entry.name, &options.only);
        for pattern in &options.only {
            if !contenders.any.contains(&pattern.as_str()) && !workloads.any.contains(&pattern.as_str()) {
                let names = contender::ALL.iter().map(|entry| entry.name);
                let names: Vec<_> = names.chain(workload::ALL.iter().map(|entry| entry.name)).collect();
                bail!("--only {pattern}: neither a contender nor a workload; there are {}", names.join(", "));
            }
        }
        let is_asked_for = !workloads.any.is_empty();
        let is_compared = |entry: &&Contender| {
            [BASELINE, LIMIT].contains(&entry.name) || contenders.list.iter().any(|chosen| chosen == entry)
        };
        Ok(Self {
            contenders: contender::ALL.iter().filter(is_compared).collect(),
            workloads: workloads
                .list
                .into_iter()
                .filter(|entry| is_asked_for || entry.when.is_usual(options.quick))
                .collect(),
            rounds: options.rounds.unwrap_or(if options.quick { 2 } else { 5 }).into(),
            seconds: options.seconds.unwrap_or(if options.quick { 1 } else { 3 }).into(),
            ballast: options.ballast(),
            congestion,
        })
    }

    /// How much the programs by themselves are run: it takes seconds.
    pub(super) fn extent(&self) -> Extent {
        Extent { rounds: self.rounds, packets: PACKETS, leases: self.ballast.leases }
    }

    /// Who is measured with what in a round.
    pub(super) fn turns(&self) -> impl Iterator<Item = (&'static Workload, &'static Contender)> {
        let pairs = self
            .workloads
            .iter()
            .flat_map(|workload| self.contenders.iter().map(move |contender| (*workload, *contender)));
        pairs.filter(|(workload, contender)| workload.load.concerns(contender))
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let Ballast { rules, leases, flows } = self.ballast;
        let plural =
            |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut parts = vec![
            plural(self.contenders.len(), "contender"),
            plural(self.workloads.len(), "workload"),
            format!("{} of {} s each", plural(self.rounds, "round"), self.seconds),
            format!("TCP by {}", self.congestion),
        ];
        let ballast = [(rules, 0, "more firewall rules"), (leases, 0, "leases"), (flows, 1, "open flows")];
        let more = ballast.iter().filter(|(count, least, _)| count > least);
        parts.extend(more.map(|(count, _, what)| format!("{count} {what}")));
        parts.join(", ")
    }
}

/// What patterns choose of a list.
struct Chosen<'a, T: 'static> {
    /// All of the list where no pattern fits anything in it.
    list: Vec<&'static T>,
    /// The patterns that fit something in it.
    any: Vec<&'a str>,
}

fn chosen<'a, T>(list: &'static [T], name: fn(&T) -> &'static str, patterns: &'a [String]) -> Chosen<'a, T> {
    // A whole name is only itself, though others begin with it.
    let fits = |pattern: &str, entry: &T| {
        let is_name = list.iter().any(|entry| name(entry) == pattern);
        if is_name { name(entry) == pattern } else { name(entry).contains(pattern) }
    };
    let any: Vec<_> = patterns
        .iter()
        .map(String::as_str)
        .filter(|pattern| list.iter().any(|entry| fits(pattern, entry)))
        .collect();
    let is_chosen = |entry: &&T| any.is_empty() || any.iter().any(|pattern| fits(pattern, entry));
    Chosen { list: list.iter().filter(is_chosen).collect(), any }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn plan(line: &str) -> Result<(Vec<&'static str>, Vec<&'static str>)> {
        let line = Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()))?;
        let plan = Plan::of(&line.options, "cubic".to_owned())?;
        Ok((
            plan.contenders.iter().map(|entry| entry.name).collect(),
            plan.workloads.iter().map(|entry| entry.name).collect(),
        ))
    }

    #[test]
    fn everything_unless_told() {
        let (contenders, workloads) = plan("").unwrap();
        let usual = workload::ALL.iter().filter(|entry| entry.when.is_usual(false)).count();
        assert_eq!((contenders.len(), workloads.len()), (contender::ALL.len(), usual));
        let (contenders, quick) = plan("--quick").unwrap();
        assert!(contenders.len() == contender::ALL.len() && quick.len() < workloads.len());
    }

    #[test]
    fn nobody_is_measured_with_what_does_not_concern_them() {
        let line = Line::try_parse_from(["bench"]).unwrap();
        let turns: Vec<_> = Plan::of(&line.options, "cubic".to_owned()).unwrap().turns().collect();
        let has = |workload: &str, contender: &str| {
            turns.iter().any(|turn| (turn.0.name, turn.1.name) == (workload, contender))
        };
        for (workload, contender, expected) in [
            ("tcp-crr", "host", true),
            ("start", "host", false),
            ("programs-rr", "kernel-vxlan", false),
            ("programs-rr", "ovl-ipip", true),
            ("lease", "ovl-ipip", true),
            ("lease", "ovl-tun", false),
            ("start", "ovl-tun", true),
        ] {
            assert_eq!(has(workload, contender), expected, "{workload}, {contender}");
        }
    }

    #[test]
    fn patterns_choose_and_references_stay() {
        let (contenders, workloads) = plan("--only ovl-vxlan --only tcp-stream").unwrap();
        assert_eq!(contenders, ["host", "kernel-vxlan", "ovl-vxlan"]);
        assert_eq!(workloads, ["tcp-stream-1", "tcp-stream-4", "tcp-stream-8"]);
        let (_, series) = plan("--only udp-rr-2 --only udp-rr-16").unwrap();
        assert_eq!(series, ["udp-rr-2", "udp-rr-16"], "not measured unless asked for");
        let (contenders, workloads) = plan("--quick --only udp-512").unwrap();
        assert_eq!(
            (contenders.len(), workloads),
            (contender::ALL.len(), vec!["udp-512"]),
            "asked for by name"
        );
        let error = plan("--only nonsense").unwrap_err().to_string();
        assert!(error.contains("nonsense") && error.contains("tcp-crr"), "{error}");
    }
}
