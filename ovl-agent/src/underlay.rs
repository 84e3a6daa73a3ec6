//! Which interface the overlay runs on, and with which addresses (FLANNEL.md section 8).
//!
//! [`look`] collects what the node has, `choose` is the pure choice among it, [`Follow`] makes the choice again while
//! the agent runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use regex_lite::Regex;
use rtnetlink::Handle;
use tracing::info;

use crate::cli::RunArgs;
use crate::family::{ByFamily, Family};
use crate::netlink::{self, Interface};
use crate::node::Underlay;

mod choose;
mod facts;
mod follow;
#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use follow::Follow;

/// How the operator names the interface.
#[derive(Clone, Debug)]
pub struct Choice {
    /// `--iface`: names or addresses, in the order to try them in. An empty one is the default route's interface.
    pub ifaces: Vec<String>,
    /// `--iface-regex`, tried after them.
    pub regexes: Vec<Regex>,
    /// `--iface-can-reach`, tried last.
    pub can_reach: Option<IpAddr>,
    /// `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The families that are used between nodes.
    pub families: Vec<Family>,
    /// The network's ranges. A regular expression that matches an address in them does not mean it.
    pub overlay: Vec<IpNet>,
}

impl Choice {
    /// What the flags say, for a network that has these ranges.
    pub fn new(args: &RunArgs, ranges: &ByFamily<IpNet>) -> Result<Self> {
        let regexes = args
            .iface_regex
            .iter()
            .map(|text| pattern("iface-regex", text).map_err(|reason| anyhow!(reason)));
        Ok(Self {
            ifaces: args.iface.clone(),
            regexes: regexes.collect::<Result<_>>()?,
            can_reach: args.iface_can_reach,
            public_ip: args.public_ip,
            public_ipv6: args.public_ipv6,
            families: args.underlay_family.families(ranges),
            overlay: ranges.iter().map(|(_, range)| *range).collect(),
        })
    }

    /// The address that is told to the peers, where the operator gave one.
    fn public(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.public_ip.map(IpAddr::from),
            Family::V6 => self.public_ipv6.map(IpAddr::from),
        }
    }

    /// Whether nothing names an interface, directly or not.
    fn is_open(&self) -> bool {
        self.ifaces.is_empty() && self.regexes.is_empty() && self.can_reach.is_none()
    }

    /// Whether it matters where the default routes lead.
    fn asks_for_default_routes(&self) -> bool {
        let by_address = self.public_ip.is_some() || self.public_ipv6.is_some();
        self.is_open() && !by_address
            || self.ifaces.iter().any(String::is_empty)
            || self.regexes.iter().any(|regex| regex.as_str().is_empty())
    }
}

/// A regular expression of `--iface-regex`.
///
/// # Errors
/// One sentence that names the flag.
pub fn pattern(flag: &str, text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("--{flag} '{text}' is no regular expression: {error}"))
}

/// Finds the interface and its addresses, and says in the log what of the choice did not fit.
pub async fn find(handle: &Handle, choice: &Choice) -> Result<Underlay> {
    let facts = look(handle, choice, netlink::interfaces(handle).await?).await?;
    let chosen = choose::choose(choice, &facts, None).map_err(|reason| anyhow!(reason))?;
    for refused in chosen.refused {
        info!("passed over {refused}");
    }
    Ok(chosen.underlay)
}

/// What the node has beside its interfaces, as far as the choice goes by it. The whole routing table is only read
/// where the choice goes by the default route.
pub async fn look(handle: &Handle, choice: &Choice, interfaces: BTreeMap<u32, Interface>) -> Result<Facts> {
    let mut facts = Facts { interfaces, ..Facts::default() };
    facts.addresses = netlink::node_addresses(handle).await?;
    if choice.asks_for_default_routes() {
        for family in &choice.families {
            let routes = netlink::main_routes(handle, *family).await?;
            facts.defaults.extend(routes.into_iter().filter(|route| route.destination.prefix_len() == 0));
        }
    }
    if let Some(address) = choice.can_reach {
        facts.way = netlink::lookup(handle, address).await?;
    }
    Ok(facts)
}
