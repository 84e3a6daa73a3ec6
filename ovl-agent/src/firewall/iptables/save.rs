//! Reading what `iptables-save` prints.

use std::collections::BTreeMap;

use ipnet::IpNet;

/// A table: its chains, and the rules in each, as printed after `-A CHAIN`.
#[derive(Debug, Default)]
pub(super) struct Table<'a> {
    chains: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Table<'a> {
    /// The rules of a chain; `None` where there is no such chain.
    pub(super) fn chain(&self, name: &str) -> Option<&[&'a str]> {
        self.chains.get(name).map(Vec::as_slice)
    }

    /// All chains with their rules.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&'a str, &[&'a str])> {
        self.chains.iter().map(|(name, rules)| (*name, rules.as_slice()))
    }
}

/// The tables in the output of `iptables-save`, by name.
pub(super) fn parse(save: &str) -> BTreeMap<&str, Table<'_>> {
    let mut tables: BTreeMap<&str, Table<'_>> = BTreeMap::new();
    let mut table = "";
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
            tables.entry(table).or_default();
        } else if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            tables.entry(table).or_default().chains.entry(chain).or_default();
        } else if let Some((chain, rule)) =
            line.strip_prefix("-A ").and_then(|rest| rest.trim_end().split_once(' '))
        {
            tables.entry(table).or_default().chains.entry(chain).or_default().push(rule);
        }
    }
    tables
}

/// A rule taken apart, so that two prints of one rule are equal whatever the order and spelling.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    /// Each option with its values, sorted.
    options: Vec<Vec<String>>,
    target: Option<String>,
    comment: Option<String>,
}

impl Rule {
    /// Takes apart what stands after `-A CHAIN`.
    pub(super) fn parse(text: &str) -> Self {
        let mut options = options(text);
        let value = |names: &[&str]| {
            let option = options.iter().find(|option| names.contains(&name(option)));
            option.and_then(|option| option.last()).cloned()
        };
        let target = value(&["-j", "-g"]);
        let comment = value(&["--comment"]);
        // `-m NAME` only says which extension the options after it belong to.
        options.retain(|option| name(option) != "-m");
        options.sort();
        Self { options, target, comment }
    }

    /// Where a packet that matches goes: a verdict or a chain.
    pub(super) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// What the rule's author wrote on it.
    pub(super) fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }
}

/// Whether a rule as printed takes every packet, or every packet but for a rate limit.
pub(super) fn takes_all(text: &str) -> bool {
    let options = options(text);
    // Options after the target are the target's own.
    let mut matches = options.iter().take_while(|option| !["-j", "-g"].contains(&name(option)));
    matches.all(|option| match name(option) {
        "-m" => option.last().is_some_and(|extension| ["comment", "limit"].contains(&extension.as_str())),
        other => ["--comment", "--limit", "--limit-burst"].contains(&other),
    })
}

/// Each option with its values; `! -s 10.0.0.0/8` is one.
fn options(text: &str) -> Vec<Vec<String>> {
    let mut options: Vec<Vec<String>> = Vec::new();
    let mut negated = false;
    for word in words(text) {
        // What people write may look like an option.
        let free_text = options
            .last()
            .is_some_and(|option| option.len() == 1 && ["--comment", "--log-prefix"].contains(&name(option)));
        match options.last_mut() {
            Some(option) if free_text => option.push(word),
            _ if word == "!" => negated = true,
            Some(option) if !word.starts_with('-') => option.push(canonical(word)),
            _ => {
                let not = std::mem::take(&mut negated).then(|| "!".to_owned());
                options.push(not.into_iter().chain([word]).collect());
            }
        }
    }
    options
}

/// What an option is called.
fn name(option: &[String]) -> &str {
    option.iter().find(|word| *word != "!").map_or("", String::as_str)
}

/// Splits as a shell would, as far as `iptables-save` needs: quotes, and backslashes inside them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(characters.next()),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// One spelling for every range.
fn canonical(word: String) -> String {
    word.parse::<IpNet>().map_or(word, |net| net.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVE: &str = "\
# Generated by iptables-save v1.8.9 on Sat Nov 21 07:10:23 2026
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [12:345]
:FLANNEL-FWD - [0:0]
-A FORWARD -i eth0 -j DROP
-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
COMMIT
";

    #[test]
    fn tables_chains_and_rules() {
        let tables = parse(SAVE);
        assert_eq!(tables.keys().copied().collect::<Vec<_>>(), ["filter", "nat"]);
        let filter = &tables["filter"];
        assert_eq!(filter.chain("FLANNEL-FWD"), Some(&[][..]));
        assert_eq!(filter.chain("FLANNEL-POSTRTG"), None);
        assert_eq!(
            filter.chain("FORWARD"),
            Some(&["-i eth0 -j DROP", "-m comment --comment \"flanneld forward\" -j FLANNEL-FWD"][..])
        );
        assert!(parse("").is_empty());
    }

    #[test]
    fn spelling_does_not_matter() {
        let same = [
            (
                "-s 10.42.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
                "! -d 224.0.0.0/4 -s 10.42.0.9/16 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
            ),
            ("-s fd77:0:0::/48 -j ACCEPT", "-s fd77::/48 -j ACCEPT"),
            (
                "-m comment --comment x -m mark --mark 0x1/0x1 -j RETURN",
                "-m mark --mark 0x1/0x1 -m comment --comment \"x\" -j RETURN",
            ),
        ];
        for (one, other) in same {
            assert_eq!(Rule::parse(one), Rule::parse(other), "{one} and {other}");
        }
        let different = [
            ("-s 10.0.0.0/8 -j ACCEPT", "-d 10.0.0.0/8 -j ACCEPT"),
            ("-s 10.0.0.0/8 -j ACCEPT", "! -s 10.0.0.0/8 -j ACCEPT"),
            ("-j MASQUERADE", "-j MASQUERADE --random-fully"),
            ("-j FLANNEL-FWD", "-g FLANNEL-FWD"),
            ("-m comment --comment \"a b\" -j ACCEPT", "-m comment --comment \"a  b\" -j ACCEPT"),
        ];
        for (one, other) in different {
            assert_ne!(Rule::parse(one), Rule::parse(other), "{one} and {other}");
        }
    }

    #[test]
    fn quotes_as_iptables_save_writes_them() {
        let rule = Rule::parse(
            r#"-m comment --comment "it\'s \"q\" \\ -j x" -j REJECT --reject-with icmp-port-unreachable"#,
        );
        assert_eq!(rule.comment(), Some(r#"it's "q" \ -j x"#));
        assert_eq!(rule.target(), Some("REJECT"));
    }

    #[test]
    fn what_takes_every_packet() {
        let rows = [
            ("-j DROP", true),
            ("-j REJECT --reject-with icmp-host-prohibited", true),
            ("-m comment --comment \"-i eth0\" -j DROP", true),
            ("-m comment --comment -i -j DROP", true),
            ("-m limit --limit 5/min -j LOG --log-prefix \"rejected: \"", true),
            ("-i eth0 -j DROP", false),
            ("-m conntrack --ctstate INVALID -j DROP", false),
            ("-m socket -j DROP", false),
            ("-s 10.0.0.0/8 -m comment --comment \"x\" -j DROP", false),
        ];
        for (rule, expected) in rows {
            assert_eq!(takes_all(rule), expected, "{rule}");
        }
    }
}
