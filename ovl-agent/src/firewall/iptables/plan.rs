//! What has to be done to a table of iptables.

use super::save::{Rule, Table, takes_all};

/// An empty chain beside flannel's, which says that the agent and not flanneld put that there: their rules are equal.
pub(super) const MARKER: &str = "OVL-AGENT";

/// What of ours should stand in one table of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// `nat` or `filter`.
    pub(super) table: &'static str,
    /// The built-in chain that packets come from.
    pub(super) hook: &'static str,
    /// Our own chain, which holds our rules and nothing else.
    pub(super) chain: String,
    /// Written on every rule.
    pub(super) comment: &'static str,
    /// The rules, as `iptables-save` prints them after `-A CHAIN`; none: nothing of ours stands here.
    pub(super) rules: Vec<String>,
    /// Whether the chain has flannel's own name: it is marked as ours, and rules that older flannels had without a
    /// chain go.
    pub(super) flannels: bool,
}

/// A transaction for `iptables-restore --noflush`, and what it is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) restore: String,
    pub(super) reasons: Vec<String>,
}

/// What makes `have` hold `part`, where it does not.
pub(super) fn plan(have: &Table<'_>, part: &Part) -> Option<Plan> {
    let mut reasons = Vec::new();
    reasons.extend(wrong_rules(have, part));
    let entrances = entrances(have, part);
    let wrong_entrance = wrong_entrance(have, part, &entrances);
    reasons.extend(wrong_entrance.clone());
    if part.flannels && have.chain(MARKER).is_some() == part.rules.is_empty() {
        reasons.push(format!(
            "{MARKER} {}",
            if part.rules.is_empty() { "was not wanted" } else { "was missing" }
        ));
    }
    if reasons.is_empty() {
        return None;
    }
    let Part { chain, comment, .. } = part;
    let mut lines = vec![format!("*{}", part.table)];
    // Naming a chain empties it. Nobody sees it empty: the transaction takes effect as a whole.
    lines.push(format!(":{chain} - [0:0]"));
    lines.extend(part.rules.iter().map(|rule| format!("-A {chain} {rule}")));
    if wrong_entrance.is_some() {
        lines.extend(entrances.iter().map(|(from, rule)| format!("-D {from} {rule}")));
    }
    if part.rules.is_empty() {
        lines.push(format!("-X {chain}"));
        if part.flannels && have.chain(MARKER).is_some() {
            lines.push(format!("-X {MARKER}"));
        }
    } else {
        if part.flannels && have.chain(MARKER).is_none() {
            lines.push(format!(":{MARKER} - [0:0]"));
        }
        if wrong_entrance.is_some() {
            let entrance = format!("-m comment --comment \"{comment}\" -j {chain}");
            lines.push(match place(have, part) {
                Some(index) => format!("-I {} {} {entrance}", part.hook, index + 1),
                None => format!("-A {} {entrance}", part.hook),
            });
        }
    }
    lines.push("COMMIT\n".to_owned());
    Some(Plan { restore: lines.join("\n"), reasons })
}

/// What is wrong with our own chain.
fn wrong_rules(have: &Table<'_>, part: &Part) -> Option<String> {
    let chain = &part.chain;
    let Some(rules) = have.chain(chain) else {
        return (!part.rules.is_empty()).then(|| format!("{chain} was missing"));
    };
    if part.rules.is_empty() {
        return Some(format!("{chain} was not wanted"));
    }
    let have: Vec<Rule> = rules.iter().map(|rule| Rule::parse(rule)).collect();
    let want: Vec<Rule> = part.rules.iter().map(|rule| Rule::parse(rule)).collect();
    (have != want).then(|| {
        let missing = want.iter().filter(|rule| !have.contains(rule)).count();
        match (missing, have.len().saturating_sub(want.len())) {
            (0, 0) => format!("{chain} was in another order"),
            (0, extra) => format!("{chain} had {extra} rules too many"),
            (missing, _) => format!("{chain} lacked {missing} of {} rules", want.len()),
        }
    })
}

/// The rules that lead into our chain, and those that flannel had instead of one, with the chains they stand in.
fn entrances<'a>(have: &Table<'a>, part: &Part) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for (chain, rules) in have.chains().filter(|(chain, _)| *chain != part.chain) {
        for text in rules {
            // Taking apart the thousands of rules kube-proxy makes is too dear.
            let is_entrance = text.contains(&part.chain) && Rule::parse(text).target() == Some(&part.chain);
            if is_entrance || (chain == part.hook && is_old_flannels(text, part)) {
                found.push((chain, *text));
            }
        }
    }
    found
}

/// Whether this is a rule of a flannel that had no chains yet.
fn is_old_flannels(text: &str, part: &Part) -> bool {
    if !part.flannels || !text.contains(part.comment) {
        return false;
    }
    let rule = Rule::parse(text);
    rule.comment() == Some(part.comment)
        && rule.target().is_some_and(|target| ["RETURN", "ACCEPT", "MASQUERADE"].contains(&target))
}

/// What is wrong with how packets come into our chain.
fn wrong_entrance(have: &Table<'_>, part: &Part, entrances: &[(&str, &str)]) -> Option<String> {
    let Part { hook, chain, .. } = part;
    if part.rules.is_empty() {
        return (!entrances.is_empty()).then(|| format!("{} rules led to {chain}", entrances.len()));
    }
    match entrances {
        [] => Some(format!("{hook} did not lead to {chain}")),
        [(from, rule)] => {
            let want = format!("-m comment --comment \"{}\" -j {chain}", part.comment);
            if from != hook || Rule::parse(rule) != Rule::parse(&want) {
                return Some(format!("{from} led to {chain} in another way"));
            }
            let rules = have.chain(hook).unwrap_or_default();
            let stands = rules.iter().position(|other| other == rule);
            let shut = (part.table == "filter").then(|| rules.iter().position(|rule| shuts(rule))).flatten();
            (shut.is_some_and(|shut| stands > Some(shut)))
                .then(|| format!("{hook} refused everything before it led to {chain}"))
        }
        several => Some(format!("{} rules led to {chain} or stood in its place", several.len())),
    }
}

/// Where our rule goes in the hook, counted among the rules that stay; `None`: at the end.
///
/// flannel appends, and so do we: what an administrator or a network policy controller put there before is asked
/// first, and policies that insert themselves at the top stay there. But a rule that refuses everything (the last one
/// of RHEL's and many a hand-made firewall) is a policy in the form of a rule: appended to it, ours would never be
/// reached. So ours goes before it, and before the log rule that belongs to it. In `nat` nothing is refused, and the
/// first rule wins that translates: what stands there stays first.
fn place(have: &Table<'_>, part: &Part) -> Option<usize> {
    if part.table != "filter" {
        return None;
    }
    let entrances = entrances(have, part);
    let rules = have.chain(part.hook)?.iter().filter(|rule| !entrances.contains(&(part.hook, **rule)));
    let rules: Vec<&str> = rules.copied().collect();
    let shut = rules.iter().position(|rule| shuts(rule))?;
    let logs =
        rules[..shut].iter().rev().take_while(|rule| takes_all(rule) && target_is(rule, &["LOG", "NFLOG"]));
    Some(shut - logs.count())
}

/// Whether no packet gets past this rule.
fn shuts(rule: &str) -> bool {
    takes_all(rule) && !rule.contains("-m limit ") && target_is(rule, &["DROP", "REJECT"])
}

fn target_is(rule: &str, targets: &[&str]) -> bool {
    Rule::parse(rule).target().is_some_and(|target| targets.contains(&target))
}

#[cfg(test)]
mod tests {
    use super::super::save::parse;
    use super::*;

    fn part(rules: &[&str]) -> Part {
        Part {
            table: "filter",
            hook: "FORWARD",
            chain: "FLANNEL-FWD".to_owned(),
            comment: "flanneld forward",
            rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            flannels: true,
        }
    }

    const A: &str = "-s 10.42.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT";
    const B: &str = "-d 10.42.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT";
    const JUMP: &str = "-m comment --comment \"flanneld forward\" -j FLANNEL-FWD";

    /// A filter table with our chains, and these rules in FORWARD and in FLANNEL-FWD.
    fn save(forward: &[&str], ours: &[&str]) -> String {
        let mut lines = vec!["*filter".to_owned()];
        lines.extend(["FORWARD", "FLANNEL-FWD", MARKER].map(|chain| format!(":{chain} - [0:0]")));
        lines.extend(forward.iter().map(|rule| format!("-A FORWARD {rule}")));
        lines.extend(ours.iter().map(|rule| format!("-A FLANNEL-FWD {rule}")));
        lines.join("\n")
    }

    fn plan_of(save: &str, part: &Part) -> Option<Plan> {
        plan(parse(save).get("filter").unwrap_or(&Table::default()), part)
    }

    fn reasons(forward: &[&str], ours: &[&str]) -> Vec<String> {
        plan_of(&save(forward, ours), &part(&[A, B])).map_or_else(Vec::new, |plan| plan.reasons)
    }

    #[test]
    fn what_stands_right_is_left_alone() {
        assert_eq!(plan_of(&save(&[JUMP], &[A, B]), &part(&[A, B])), None);
        assert_eq!(plan_of(&save(&["-i eth0 -j DROP", JUMP, "-j REJECT"], &[A, B]), &part(&[A, B])), None);
        assert_eq!(plan_of("", &part(&[])), None);
    }

    #[test]
    fn an_empty_table_gets_everything_at_once() {
        let plan = plan_of("", &part(&[A, B])).expect("a plan");
        assert_eq!(
            plan.restore,
            format!(
                "*filter\n:FLANNEL-FWD - [0:0]\n-A FLANNEL-FWD {A}\n-A FLANNEL-FWD {B}\n:OVL-AGENT - [0:0]\n\
                 -A FORWARD {JUMP}\nCOMMIT\n"
            )
        );
    }

    #[test]
    fn every_difference_is_seen() {
        let accept = "-j ACCEPT";
        let rows: [(&[&str], &[&str], &str); 10] = [
            (&[JUMP], &[A], "FLANNEL-FWD lacked 1 of 2 rules"),
            (&[JUMP], &[], "FLANNEL-FWD lacked 2 of 2 rules"),
            (&[JUMP], &[B, A], "FLANNEL-FWD was in another order"),
            (&[JUMP], &[A, B, B], "FLANNEL-FWD had 1 rules too many"),
            (&[JUMP], &[accept, A, B], "FLANNEL-FWD had 1 rules too many"),
            (&[], &[A, B], "FORWARD did not lead to FLANNEL-FWD"),
            (&[JUMP, JUMP], &[A, B], "2 rules led to FLANNEL-FWD or stood in its place"),
            (&["-i eth0 -j FLANNEL-FWD"], &[A, B], "FORWARD led to FLANNEL-FWD in another way"),
            (&["-j DROP", JUMP], &[A, B], "FORWARD refused everything before it led to FLANNEL-FWD"),
            (&[A, JUMP], &[A, B], "2 rules led to FLANNEL-FWD or stood in its place"),
        ];
        for (forward, ours, reason) in rows {
            assert_eq!(reasons(forward, ours), [reason], "{forward:?} {ours:?}");
        }
    }

    #[test]
    fn where_the_jump_goes() {
        let kube = "-m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD";
        let policies = "-m comment --comment \"cali:wUHhoiAYhphO9Mso\" -j cali-FORWARD";
        let docker = "-j DOCKER-USER";
        let block = "-i ens192 -j REJECT --reject-with icmp-port-unreachable";
        let log = "-m limit --limit 5/min -j LOG --log-prefix \"rejected: \"";
        let reject = "-j REJECT --reject-with icmp-host-prohibited";
        let invalid = "-m conntrack --ctstate INVALID -j DROP";
        let old = "-s 10.42.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT";
        let rows: [(&[&str], &str); 9] = [
            (&[], "-A FORWARD "),
            (&[policies, kube, docker], "-A FORWARD "),
            (&[block], "-A FORWARD "),
            (&[invalid], "-A FORWARD "),
            (&[block, kube, reject], "-I FORWARD 3 "),
            (&[policies, kube, log, reject, JUMP], "-I FORWARD 3 "),
            (&[block, log, invalid, reject], "-I FORWARD 4 "),
            (&["-j DROP", policies], "-I FORWARD 1 "),
            // Counted without what goes in the same transaction.
            (&[kube, old, JUMP, JUMP, block, "-j DROP"], "-I FORWARD 3 "),
        ];
        for (forward, wanted) in rows {
            let plan = plan_of(&save(forward, &[A, B]), &part(&[A, B])).expect("a plan");
            let line = plan.restore.lines().rev().nth(1).unwrap_or_default();
            assert_eq!(line, format!("{wanted}{JUMP}"), "{forward:?}");
        }
    }

    #[test]
    fn in_nat_the_jump_is_appended() {
        let nat = Part { table: "nat", hook: "POSTROUTING", ..part(&[A]) };
        let text = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j DROP\n";
        let plan = plan(&parse(text)["nat"], &nat).expect("a plan");
        assert!(plan.restore.contains(&format!("-A POSTROUTING {JUMP}")), "{}", plan.restore);
    }

    #[test]
    fn rules_of_an_older_flannel_go_when_ours_come() {
        let forward = ["-j DOCKER-USER", A, B, "-s 10.0.0.0/8 -m comment --comment mine -j ACCEPT"];
        let plan = plan_of(&save(&forward, &[A, B]), &part(&[A, B])).expect("a plan");
        assert!(plan.restore.contains(&format!("-D FORWARD {A}\n-D FORWARD {B}\n")), "{}", plan.restore);
        assert!(!plan.restore.contains("mine"));
    }

    #[test]
    fn another_overlays_chain_is_not_ours() {
        let other = "-m comment --comment \"flanneld forward\" -j FLANNEL-FWD-vni7";
        assert_eq!(plan_of(&save(&[other, JUMP], &[A, B]), &part(&[A, B])), None);
    }

    #[test]
    fn what_nobody_wants_goes_with_all_that_leads_there() {
        let text = save(&["-j DOCKER-USER", JUMP, A, "-i eth0 -j FLANNEL-FWD"], &[A, B]);
        let plan = plan_of(&text, &part(&[])).expect("a plan");
        assert_eq!(
            plan.restore,
            format!(
                "*filter\n:FLANNEL-FWD - [0:0]\n-D FORWARD {JUMP}\n-D FORWARD {A}\n\
                 -D FORWARD -i eth0 -j FLANNEL-FWD\n-X FLANNEL-FWD\n-X OVL-AGENT\nCOMMIT\n"
            )
        );
    }
}
