//! A number for what stands in some tables and chains of nftables, which tells whether others changed it.
//!
//! kube-proxy writes its rules every few seconds, and printing all of them takes a process and, with thousands of
//! services, a quarter of a second. So only what concerns us is asked for, and only compared, never understood.

use std::hash::{DefaultHasher, Hasher as _};

use anyhow::{Context as _, Result};
use nix::errno::Errno;

use crate::family::Family;
use crate::netlink::nfnetlink::{Attributes, NFTABLES, Netlink, Scope, attributes};

/// Of linux/netfilter/nf_tables.h: `NFT_MSG_GET…`, and the attributes of tables, chains, rules and expressions.
const GETTABLE: u16 = NFTABLES | 1;
const GETCHAIN: u16 = NFTABLES | 4;
const GETRULE: u16 = NFTABLES | 7;
const TABLE_NAME: u16 = 1;
/// Flags, such as dormant, and how many chains there are.
const OF_TABLE: [u16; 2] = [2, 3];
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
/// Hook, policy, how many rules it has and lead to it, type, flags. Not the handle, nor the counters.
const OF_CHAIN: [u16; 5] = [4, 5, 6, 7, 10];
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;
/// Comments.
const USERDATA: u16 = 7;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
/// Expressions whose data change when a packet passes.
const COUNTING: [&[u8]; 3] = [b"counter\0", b"quota\0", b"last\0"];

/// What to look at.
#[derive(Clone, Debug)]
pub(super) struct Place {
    protocol: u8,
    table: String,
    /// `None`: the table itself. Otherwise a chain with its rules.
    chain: Option<String>,
}

impl Place {
    /// A table of the family, or of both (`inet`).
    pub(super) fn table(family: Option<Family>, table: &str) -> Self {
        // `NFPROTO_…` in linux/netfilter.h.
        let protocol = match family {
            None => 1,
            Some(Family::V4) => 2,
            Some(Family::V6) => 10,
        };
        Self { protocol, table: table.to_owned(), chain: None }
    }

    /// The table that `nft` shows as `name`, such as `inet filter`; `None`: no table of a family that we use.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (family, table) = name.split_once(' ')?;
        let family = match family {
            "inet" => None,
            "ip" => Some(Family::V4),
            "ip6" => Some(Family::V6),
            _ => return None,
        };
        Some(Self::table(family, table))
    }

    /// A chain in this table.
    pub(super) fn chain(&self, chain: &str) -> Self {
        Self { chain: Some(chain.to_owned()), ..self.clone() }
    }
}

/// The number for these places, among which one that is missing counts; `None`: all are missing.
pub(super) fn of(places: &[Place]) -> Result<Option<u64>> {
    let mut hasher = DefaultHasher::new();
    let mut found = false;
    let mut ask_all = || -> nix::Result<()> {
        let netlink = Netlink::open()?;
        for place in places {
            match add(&netlink, place, &mut hasher) {
                Ok(()) => found = true,
                Err(Errno::ENOENT) => hasher.write(b"missing"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    ask_all().context("cannot ask the kernel for its nftables rules; the agent needs CAP_NET_ADMIN")?;
    Ok(found.then(|| hasher.finish()))
}

fn add(netlink: &Netlink, place: &Place, hasher: &mut DefaultHasher) -> nix::Result<()> {
    let Place { protocol, table, chain } = place;
    let Some(chain) = chain else {
        let named = Attributes::default().text(TABLE_NAME, table);
        return netlink
            .ask(GETTABLE, Scope::One, *protocol, &named, |answer| pick(answer, &OF_TABLE, hasher));
    };
    let named = Attributes::default().text(CHAIN_TABLE, table).text(CHAIN_NAME, chain);
    netlink.ask(GETCHAIN, Scope::One, *protocol, &named, |answer| pick(answer, &OF_CHAIN, hasher))?;
    let named = Attributes::default().text(RULE_TABLE, table).text(RULE_CHAIN, chain);
    netlink.ask(GETRULE, Scope::All, *protocol, &named, |answer| rule(answer, hasher))
}

fn pick(answer: &[u8], kinds: &[u16], hasher: &mut DefaultHasher) {
    for (kind, value) in attributes(answer).filter(|(kind, _)| kinds.contains(kind)) {
        hasher.write_u16(kind);
        hasher.write(value);
    }
}

fn rule(answer: &[u8], hasher: &mut DefaultHasher) {
    pick(answer, &[RULE_CHAIN, USERDATA], hasher);
    let expressions = attributes(answer).filter(|(kind, _)| *kind == EXPRESSIONS);
    for (_, expression) in expressions.flat_map(|(_, list)| attributes(list)) {
        let counts = attributes(expression).any(|(_, name)| COUNTING.contains(&name));
        let kinds: &[u16] = if counts { &[EXPRESSION_NAME] } else { &[EXPRESSION_NAME, EXPRESSION_DATA] };
        pick(expression, kinds, hasher);
    }
    hasher.write(b";");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn expression(name: &[u8], data: &[u8]) -> Vec<u8> {
        attribute(1, &[attribute(EXPRESSION_NAME, name), attribute(EXPRESSION_DATA, data)].concat())
    }

    fn number(handle: u8, compared: u8, counted: u8) -> u64 {
        let expressions = [expression(b"cmp\0", &[compared]), expression(b"counter\0", &[counted])].concat();
        let message = [
            attribute(RULE_CHAIN, b"forward\0"),
            attribute(3, &[handle]),
            attribute(EXPRESSIONS, &expressions),
        ];
        let mut hasher = DefaultHasher::new();
        rule(&message.concat(), &mut hasher);
        hasher.finish()
    }

    #[test]
    fn neither_handles_nor_counters_matter() {
        assert_eq!(number(1, 5, 0), number(2, 5, 9));
        assert_ne!(number(1, 5, 0), number(1, 6, 0));
    }
}
