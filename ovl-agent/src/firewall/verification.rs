//! The chain that says which packets netfilter has accepted: it marks them, after everybody else's filters.
//!
//! A flow may take the fast path only once connection tracking calls it established and nothing on the way has to see
//! or change all of its packets. That is said with one bit of the packet's mark, which programs at the egress of an
//! interface can see. The rules have a table of their own, which stands in iptables mode, too.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::command::{Failure, run};
use super::fingerprint::{self, Place};
use super::level::{Level, Mend};
use super::own_table::OwnTable;
use super::seen::Seen;
use super::tag::tag;
use super::{Change, Outcome, claim, generation, nftables};
use crate::family::{ByFamily, Family};
use crate::instance::Instance;

/// After all filters: those of people and policies have priorities about 0, iptables' security table 50. Before the end
/// of the range (2³¹ - 1), where the kernel has hooks of its own.
const PRIORITY: i32 = 2_000_000_000;
/// The hook's chain, which picks the overlay's packets, and the one that decides about them.
const FORWARD: &str = "forward";
const VERIFY: &str = "verify";

/// What a connection must have nothing of (`enum ip_conntrack_status` in linux/netfilter/nf_conntrack_common.h).
const UNFIT: u32 = {
    /// Another connection's helper announced it. It may have inherited a helper, without `HELPER` being set.
    const EXPECTED: u32 = 1 << 0;
    /// Its addresses or ports are translated.
    const SRC_NAT: u32 = 1 << 4;
    const DST_NAT: u32 = 1 << 5;
    /// Its TCP sequence numbers are translated.
    const SEQ_ADJUST: u32 = 1 << 6;
    /// It is being removed.
    const DYING: u32 = 1 << 9;
    /// A helper reads its packets, to find connections that they announce.
    const HELPER: u32 = 1 << 13;
    EXPECTED | SRC_NAT | DST_NAT | SEQ_ADJUST | DYING | HELPER
};

/// Which packets to mark how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marking {
    /// The bit of the packet's mark, as a mask. It is set or cleared on packets inside the overlay and on no others;
    /// other bits stay as they are.
    pub bit: u32,
    /// The overlay's range in each family: a packet is inside if both of its addresses are. Without any, no rules stand.
    pub networks: ByFamily<IpNet>,
}

/// The marking rules of one overlay in this network namespace.
#[derive(Debug)]
pub struct Verification {
    /// Tells `cleanup` that these rules are in use.
    _alive: Option<Instance>,
    rules: Rules,
    level: Level<Marking>,
}

impl Verification {
    /// `overlay` as in [`Firewall::new`](super::Firewall::new).
    pub fn new(overlay: &str) -> Self {
        // No tag has a slash: the table cannot be another overlay's firewall.
        let tag = format!("verify/{}", tag(overlay));
        Self { _alive: claim(&tag), rules: Rules { tag, own: OwnTable::default() }, level: Level::default() }
    }

    /// Looks at the rules and mends them. Cheap where nothing changed since the last call; what went wrong then is told
    /// again, and tried again after a pause that grows.
    ///
    /// After an error nothing says whether packets are marked as wanted.
    pub async fn ensure(&mut self, wanted: &Marking) -> Outcome {
        self.level.ensure(&mut self.rules, wanted).await
    }

    /// Removes the rules, also those of an agent that ran before; where there are none it starts no process.
    pub async fn remove(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        self.level = Level::default();
        self.rules.remove(&mut outcome).await;
        outcome
    }
}

#[derive(Debug)]
struct Rules {
    tag: String,
    own: OwnTable,
}

impl Mend for Rules {
    type Wanted = Marking;

    fn see(&self, _wanted: &Marking, last: Option<&Seen>) -> Result<Seen> {
        Seen::now(|| self.places(), false, last)
    }

    async fn mend(&mut self, wanted: &Marking, _known: bool, outcome: &mut Outcome) {
        if wanted.networks.is_empty() {
            return self.remove(outcome).await;
        }
        match self.write(wanted).await {
            Ok(changes) => outcome.changes.extend(changes),
            Err(error) => outcome.errors.push(format!(
                "no flow can be verified, and the fast path stays unused: {error:#} (--fast-path always does not verify)"
            )),
        }
    }
}

impl Rules {
    fn table(&self) -> String {
        nftables::table(&self.tag)
    }

    fn places(&self) -> Vec<Place> {
        let table = Place::table(None, &self.table());
        vec![table.chain(FORWARD), table.chain(VERIFY), table]
    }

    async fn write(&mut self, wanted: &Marking) -> Result<Option<Change>> {
        if generation::now()?.is_none() {
            bail!(
                "this kernel has no nf_tables; load the module, or take a kernel with CONFIG_NF_TABLES_INET"
            );
        }
        let places = self.places();
        let table = format!("inet {}", self.table());
        let script = render(&table, wanted);
        let Some(reason) = self.own.fault(&script, fingerprint::of(&places)?) else { return Ok(None) };
        let apply = async || match run("nft", &["-f", "-"], &script).await {
            Err(Failure::Missing(nft)) => bail!("{nft} is not installed; install nftables"),
            written => Ok(written.map(|_| script.clone())?),
        };
        self.own.write(&places, apply).await?;
        Ok(Some(Change { place: format!("table {table}"), reason: reason.to_owned() }))
    }

    async fn remove(&mut self, outcome: &mut Outcome) {
        self.own.forget();
        let table = format!("inet {}", self.table());
        let stands = || -> Result<bool> {
            Ok(generation::now()?.is_some() && fingerprint::of(&self.places())?.is_some())
        };
        let removed = match stands() {
            Ok(false) => return,
            Ok(true) => run("nft", &["-f", "-"], &absent(&table)).await.map_err(Into::into),
            Err(error) => Err(error),
        };
        match removed {
            Ok(_) => outcome
                .changes
                .push(Change { place: format!("table {table}"), reason: "was not wanted".to_owned() }),
            Err(error) => outcome.errors.push(format!("cannot remove table {table}: {error:#}")),
        }
    }
}

/// A transaction after which there is no such table: deleting what is not there is an error, adding what is there none.
fn absent(table: &str) -> String {
    format!("add table {table}\ndelete table {table}\n")
}

/// One transaction that leaves exactly what is wanted, whatever stood before.
fn render(table: &str, wanted: &Marking) -> String {
    let Marking { bit, networks } = wanted;
    let mut script = absent(table);
    _ = writeln!(script, "table {table} {{\n\tchain {VERIFY} {{");
    // `return` ends our own chain with its policy; chains of others at this hook are still asked.
    _ = writeln!(
        script,
        "\t\tct state established ct status & {UNFIT:#x} == 0 meta mark set meta mark | {bit:#x} return"
    );
    // Somebody may have restored it from the connection's mark.
    _ = writeln!(script, "\t\tmeta mark & {bit:#x} != 0 meta mark set meta mark & {:#x}\n\t}}", !bit);
    _ = writeln!(
        script,
        "\tchain {FORWARD} {{\n\t\ttype filter hook forward priority {PRIORITY}; policy accept;"
    );
    for (family, network) in networks.iter() {
        let ip = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        _ = writeln!(script, "\t\t{ip} saddr {network} {ip} daddr {network} goto {VERIFY}");
    }
    script.push_str("\t}\n}\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_transaction_replaces_the_table() {
        let networks = ByFamily { v4: "10.42.0.0/16".parse().ok(), v6: "fd77::/48".parse().ok() };
        assert_eq!(
            render("inet ovl-verify/x", &Marking { bit: 0x0800_0000, networks }),
            "\
add table inet ovl-verify/x
delete table inet ovl-verify/x
table inet ovl-verify/x {
\tchain verify {
\t\tct state established ct status & 0x2271 == 0 meta mark set meta mark | 0x8000000 return
\t\tmeta mark & 0x8000000 != 0 meta mark set meta mark & 0xf7ffffff
\t}
\tchain forward {
\t\ttype filter hook forward priority 2000000000; policy accept;
\t\tip saddr 10.42.0.0/16 ip daddr 10.42.0.0/16 goto verify
\t\tip6 saddr fd77::/48 ip6 daddr fd77::/48 goto verify
\t}
}
"
        );
        let only_v6 = ByFamily { v4: None, ..networks };
        assert!(!render("inet x", &Marking { bit: 1, networks: only_v6 }).contains("ip saddr"));
    }

    #[test]
    fn no_firewalls_table_has_its_name() {
        for overlay in ["flannel.1", "verify/x", "verify-x", "10.42.0.0/16"] {
            let name = Verification::new(overlay).rules.table();
            assert!(name.starts_with("ovl-verify/"), "{name}");
            assert!(!tag(overlay).contains('/'), "{overlay}");
        }
    }
}
