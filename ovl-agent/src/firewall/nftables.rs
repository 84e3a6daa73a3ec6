//! The rules in a table of our own.
//!
//! One table for both families (`inet`, whose nat chains came with Linux 5.2): one transaction, one thing to look at.
//! flannel's tables of a flanneld that ran before go in the same transaction.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::command::{Failure, run};
use super::fingerprint::Place;
use super::own_table::OwnTable;
use super::rules::{self, Rule};
use super::{Change, Outcome, Wanted, fingerprint};

/// flannel's tables.
pub(super) const FLANNELS: [&str; 2] = ["ip flannel-ipv4", "ip6 flannel-ipv6"];
/// Our chains, with flannel's names.
const POSTROUTING: &str = "postrtg";
const FORWARD: &str = "forward";

/// What the agent knows of its table.
#[derive(Debug, Default)]
pub(super) struct Nftables {
    own: OwnTable,
    /// Whether this host's `nft` or kernel refuses `fully-random`.
    plain: bool,
}

/// The name of the table of the overlay `tag`.
pub(super) fn table(tag: &str) -> String {
    format!("ovl-{tag}")
}

/// What to look at in the kernel: our table and its chains.
pub(super) fn places(tag: &str) -> Vec<Place> {
    let table = Place::table(None, &table(tag));
    vec![table.chain(POSTROUTING), table.chain(FORWARD), table]
}

impl Nftables {
    /// Looks at the table once, and writes it anew where it is not as it was written.
    pub(super) async fn mend(&mut self, tag: &str, wanted: &Wanted, outcome: &mut Outcome) {
        let table = format!("inet {}", table(tag));
        let places = places(tag);
        let standing = match fingerprint::of(&places) {
            Ok(standing) => standing,
            Err(error) => return outcome.errors.push(format!("{error:#}")),
        };
        if standing.is_none() && !wanted.any_rules() {
            return;
        }
        let Some(reason) = self.own.fault(&render(&table, wanted, !self.plain), standing) else { return };
        let plain = &mut self.plain;
        match self.own.write(&places, async || apply(plain, &table, wanted).await).await {
            Ok(()) => {
                outcome.changes.push(Change { place: format!("table {table}"), reason: reason.to_owned() });
            }
            Err(error) => outcome.errors.push(format!("cannot write table {table}: {error}")),
        }
    }

    /// Removes the table of the overlay `tag` and flannel's: the rules are elsewhere now. Where there are
    /// none it starts no process.
    pub(super) async fn retire(&mut self, tag: &str, outcome: &mut Outcome) {
        self.own.forget();
        let table = format!("inet {}", table(tag));
        let stands = |name: &&str| {
            Place::named(name).is_some_and(|place| matches!(fingerprint::of(&[place]), Ok(Some(_))))
        };
        let standing: Vec<&str> = [table.as_str()].into_iter().chain(FLANNELS).filter(stands).collect();
        delete(&standing, false, outcome).await;
    }
}

/// Has `nft` write the table, and returns the script that it took; `plain`: whether fully-random is refused here.
async fn apply(plain: &mut bool, table: &str, wanted: &Wanted) -> Result<String> {
    let script = render(table, wanted, !*plain);
    let mut written = run("nft", &["-f", "-"], &script).await.map(|_| script);
    let without_random = render(table, wanted, false);
    if written.is_err() && !*plain && without_random != render(table, wanted, true) {
        // Whether fully-random is to blame shows in whether it works without.
        let without = run("nft", &["-f", "-"], &without_random).await;
        if without.is_ok() {
            *plain = true;
            written = Ok(without_random);
        }
    }
    match written {
        Err(Failure::Missing(nft)) => {
            bail!(
                "{nft} is not installed: install nftables, or leave EnableNFTables out of the network config"
            )
        }
        other => Ok(other?),
    }
}

/// Removes the tables whose name (with the family) is `unwanted`, in one transaction; with `dry_run` it only tells which.
pub(super) async fn remove(unwanted: impl Fn(&str) -> bool, dry_run: bool, outcome: &mut Outcome) {
    let Ok(tables) = run("nft", &["list", "tables"], "").await else { return };
    let names = tables.lines().filter_map(|line| line.trim().strip_prefix("table "));
    let names: Vec<&str> = names.filter(|name| unwanted(name)).collect();
    delete(&names, dry_run, outcome).await;
}

async fn delete(names: &[&str], dry_run: bool, outcome: &mut Outcome) {
    if names.is_empty() {
        return;
    }
    let script: Vec<String> = names.iter().map(|name| format!("delete table {name}")).collect();
    let removed =
        if dry_run { Ok(String::new()) } else { run("nft", &["-f", "-"], &script.join("\n")).await };
    match removed {
        Ok(_) => outcome.changes.extend(
            names
                .iter()
                .map(|name| Change { place: format!("table {name}"), reason: "was not wanted".to_owned() }),
        ),
        // Nobody here could have made them, and nobody can take them away: a node is ready all the same.
        Err(Failure::Missing(_)) => {}
        Err(error) => outcome.errors.push(format!("cannot remove the tables {}: {error}", names.join(", "))),
    }
}

/// One transaction that leaves exactly what is wanted, whatever stood before.
fn render(table: &str, wanted: &Wanted, random_fully: bool) -> String {
    let mut script = String::new();
    for table in [table].iter().chain(&FLANNELS) {
        // Deleting what is not there is an error, adding what is there is none.
        _ = writeln!(script, "add table {table}\ndelete table {table}");
    }
    if !wanted.any_rules() {
        return script;
    }
    _ = writeln!(script, "table {table} {{");
    if let Some(masquerade) = wanted.masquerade {
        let rules = of_all_families(wanted, rules::masquerade);
        let random_fully = random_fully && masquerade.random_fully;
        chain(&mut script, POSTROUTING, "type nat hook postrouting priority 100", &rules, random_fully);
    }
    if wanted.forward {
        let rules = of_all_families(wanted, rules::forward);
        chain(&mut script, FORWARD, "type filter hook forward priority 0", &rules, random_fully);
    }
    script.push_str("}\n");
    script
}

fn of_all_families(wanted: &Wanted, rules: fn(&super::Range) -> Vec<Rule>) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    for rule in wanted.ranges.iter().flat_map(|(_, range)| rules(range)) {
        // The mark is the same for both.
        if !all.contains(&rule) {
            all.push(rule);
        }
    }
    all
}

fn chain(script: &mut String, name: &str, hook: &str, rules: &[Rule], random_fully: bool) {
    _ = writeln!(script, "\tchain {name} {{\n\t\t{hook}; policy accept;");
    for rule in rules {
        _ = writeln!(script, "\t\t{}", rule.nft(random_fully));
    }
    script.push_str("\t}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::ByFamily;
    use crate::firewall::{Masquerade, Mode, Range};

    fn range(network: &str, subnet: &str) -> Range {
        Range { network: network.parse().expect("a network"), subnet: subnet.parse().expect("a subnet") }
    }

    #[test]
    fn one_transaction_brings_ours_and_takes_flannels() {
        let wanted = Wanted {
            mode: Mode::Nftables,
            ranges: ByFamily {
                v4: Some(range("10.42.0.0/16", "10.42.7.0/24")),
                v6: Some(range("fd77::/48", "fd77:0:0:5::/64")),
            },
            masquerade: Some(Masquerade { random_fully: true }),
            forward: true,
        };
        assert_eq!(
            render("inet ovl-x", &wanted, true),
            "\
add table inet ovl-x
delete table inet ovl-x
add table ip flannel-ipv4
delete table ip flannel-ipv4
add table ip6 flannel-ipv6
delete table ip6 flannel-ipv6
table inet ovl-x {
\tchain postrtg {
\t\ttype nat hook postrouting priority 100; policy accept;
\t\tmeta mark & 0x4000 == 0x4000 return
\t\tip saddr 10.42.7.0/24 ip daddr 10.42.0.0/16 return
\t\tip saddr 10.42.0.0/16 ip daddr 10.42.7.0/24 return
\t\tip saddr != 10.42.0.0/16 ip daddr 10.42.7.0/24 return
\t\tip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
\t\tip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 masquerade fully-random
\t\tip6 saddr fd77:0:0:5::/64 ip6 daddr fd77::/48 return
\t\tip6 saddr fd77::/48 ip6 daddr fd77:0:0:5::/64 return
\t\tip6 saddr != fd77::/48 ip6 daddr fd77:0:0:5::/64 return
\t\tip6 saddr fd77::/48 ip6 daddr != ff00::/8 masquerade fully-random
\t\tip6 saddr != fd77::/48 ip6 daddr fd77::/48 masquerade fully-random
\t}
\tchain forward {
\t\ttype filter hook forward priority 0; policy accept;
\t\tip saddr 10.42.0.0/16 accept
\t\tip daddr 10.42.0.0/16 accept
\t\tip6 saddr fd77::/48 accept
\t\tip6 daddr fd77::/48 accept
\t}
}
"
        );
        let forward_only = render("inet ovl-x", &Wanted { masquerade: None, ..wanted.clone() }, true);
        assert!(
            !forward_only.contains("postrtg") && forward_only.contains("chain forward"),
            "{forward_only}"
        );
        let plain = Wanted { masquerade: Some(Masquerade { random_fully: false }), ..wanted.clone() };
        assert!(!render("inet ovl-x", &plain, true).contains("fully-random"));
        assert!(!render("inet ovl-x", &wanted, false).contains("fully-random"));
        assert!(!render("inet ovl-x", &Wanted::nothing(), true).contains('{'));
    }
}
