//! The programs of iptables, in their two variants.

use std::fmt;

use tokio::sync::OnceCell;

use crate::family::Family;
use crate::firewall::command::{Failure, run};

/// Where iptables keeps its rules. The kernel runs both, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// In nf_tables.
    Nft,
    /// In x_tables, iptables' own and old home.
    Legacy,
}

impl Variant {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Nft, Self::Legacy];
}

/// As in the names of its programs.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

/// One family's programs of one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tool {
    /// `iptables`, `ip6tables-legacy`.
    name: String,
    version: Version,
}

/// Major, minor, patch.
type Version = (u32, u32, u32);

/// The first that can wait for the lock in `-restore`, and that knows `--random-fully`.
const MODERN: Version = (1, 6, 2);

impl Tool {
    /// Whether MASQUERADE can choose its source ports at random.
    pub(super) fn knows_random_fully(&self) -> bool {
        self.version >= MODERN
    }

    /// All tables, as `iptables-save` prints them. Tables that do not exist are not created.
    pub(super) async fn save(&self) -> Result<String, Failure> {
        run(&format!("{}-save", self.name), &[], "").await
    }

    /// Runs a transaction per table in `input`; what it does not name stays.
    pub(super) async fn restore(&self, input: &str) -> Result<(), Failure> {
        let wait: &[&str] = if self.version >= MODERN { &["--wait=5"] } else { &[] };
        run(&format!("{}-restore", self.name), &[&["--noflush"], wait].concat(), input).await?;
        Ok(())
    }
}

/// What there is for one family.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    name: &'static str,
    /// The program of the plain name.
    plain: Option<(Variant, Tool)>,
    /// Asked for when they are needed: every question is a process.
    nft: OnceCell<Option<Tool>>,
    legacy: OnceCell<Option<Tool>>,
}

impl Tools {
    /// Asks the program of the plain name for its variant and version.
    pub(super) async fn find(family: Family) -> Self {
        let name = plain_name(family);
        Self { name, plain: ask(name).await, nft: OnceCell::new(), legacy: OnceCell::new() }
    }

    /// The variant behind the plain name.
    pub(super) fn default(&self) -> Option<Variant> {
        self.plain.as_ref().map(|(variant, _)| *variant)
    }

    /// That of `variant`.
    pub(super) async fn get(&self, variant: Variant) -> Option<&Tool> {
        let tool = match variant {
            Variant::Nft => &self.nft,
            Variant::Legacy => &self.legacy,
        };
        tool.get_or_init(|| self.search(variant)).await.as_ref()
    }

    async fn search(&self, variant: Variant) -> Option<Tool> {
        if let Some((found, tool)) = &self.plain
            && *found == variant
        {
            return Some(tool.clone());
        }
        let (found, tool) = ask(&format!("{}-{variant}", self.name)).await?;
        (found == variant).then_some(tool)
    }
}

/// `iptables` or `ip6tables`.
pub(super) fn plain_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

async fn ask(name: &str) -> Option<(Variant, Tool)> {
    let (variant, version) = parse_version(&run(name, &["-V"], "").await.ok()?)?;
    Some((variant, Tool { name: name.to_owned(), version }))
}

/// `iptables v1.8.9 (nf_tables)`; before 1.8 there was only one variant, and no word on it.
fn parse_version(said: &str) -> Option<(Variant, Version)> {
    let (_, after) = said.split_once(" v")?;
    let number = after.split_whitespace().next()?;
    let mut numbers = number.split('.').map(str::parse::<u32>);
    let version =
        (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(0));
    Some((if after.contains("nf_tables") { Variant::Nft } else { Variant::Legacy }, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let rows = [
            ("iptables v1.8.9 (nf_tables)\n", Some((Variant::Nft, (1, 8, 9)))),
            ("ip6tables v1.8.10 (legacy)\n", Some((Variant::Legacy, (1, 8, 10)))),
            ("iptables v1.6.1\n", Some((Variant::Legacy, (1, 6, 1)))),
            ("iptables v1.4.21", Some((Variant::Legacy, (1, 4, 21)))),
            ("BusyBox", None),
            ("", None),
        ];
        for (said, expected) in rows {
            assert_eq!(parse_version(said), expected, "{said}");
        }
    }

    #[test]
    fn random_fully_since_1_6_2() {
        for (version, knows) in
            [((1, 4, 21), false), ((1, 6, 1), false), ((1, 6, 2), true), ((1, 8, 0), true)]
        {
            assert_eq!(Tool { name: String::new(), version }.knows_random_fully(), knows, "{version:?}");
        }
    }
}
