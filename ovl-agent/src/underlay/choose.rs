//! The choice itself: pure.

use std::fmt;
use std::net::IpAddr;

use regex_lite::Regex;

use super::facts::is_link_local;
use super::{Choice, Facts};
use crate::family::{ByFamily, Family};
use crate::netlink::Interface;
use crate::node::Underlay;

/// What was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) underlay: Underlay,
    /// What was tried before it, and why it was not that.
    pub(super) refused: Vec<String>,
}

/// The first that fits of what the operator names. `current` is what the agent has now: among equals it stays.
///
/// # Errors
/// One sentence: what was tried, why it does not fit, what the node has.
pub(super) fn choose(choice: &Choice, facts: &Facts, current: Option<&Underlay>) -> Result<Chosen, String> {
    let chooser = Chooser { choice, facts, current };
    let mut refused = Vec::new();
    for by in attempts(choice) {
        match chooser.by(&by) {
            Ok(underlay) => return Ok(Chosen { underlay, refused }),
            Err(reason) => refused.push(format!("{by}: {reason}")),
        }
    }
    let has = facts.describe(&choice.families);
    Err(format!("no interface fits for the underlay: {}; this node has {has}", refused.join("; ")))
}

/// One thing that names an interface.
enum By<'a> {
    Iface(&'a str),
    Regex(&'a Regex),
    CanReach(IpAddr),
    PublicIp(IpAddr),
    DefaultRoute,
}

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iface(text) => write!(f, "--iface {text}"),
            Self::Regex(regex) => write!(f, "--iface-regex '{regex}'"),
            Self::CanReach(address) => write!(f, "--iface-can-reach {address}"),
            Self::PublicIp(address @ IpAddr::V4(_)) => write!(f, "--public-ip {address}"),
            Self::PublicIp(address @ IpAddr::V6(_)) => write!(f, "--public-ipv6 {address}"),
            Self::DefaultRoute => f.write_str("the default route's interface"),
        }
    }
}

fn attempts(choice: &Choice) -> Vec<By<'_>> {
    if choice.is_open() {
        let public = Family::ALL.into_iter().find_map(|family| choice.public(family));
        return vec![public.map_or(By::DefaultRoute, By::PublicIp)];
    }
    // Unit files with an empty variable: flanneld takes that for the default route.
    let ifaces = choice.ifaces.iter().map(|text| match text.as_str() {
        "" => By::DefaultRoute,
        text => By::Iface(text),
    });
    let regexes = choice.regexes.iter().map(|regex| match regex.as_str() {
        "" => By::DefaultRoute,
        _ => By::Regex(regex),
    });
    ifaces.chain(regexes).chain(choice.can_reach.map(By::CanReach)).collect()
}

struct Chooser<'a> {
    choice: &'a Choice,
    facts: &'a Facts,
    current: Option<&'a Underlay>,
}

impl Chooser<'_> {
    fn by(&self, by: &By<'_>) -> Result<Underlay, String> {
        match by {
            By::Iface(text) => match text.parse::<IpAddr>() {
                Ok(address) => self.by_address(address, "no interface of this node has that address"),
                Err(_not_an_address) => {
                    let mut interfaces = self.facts.interfaces.values();
                    let interface = interfaces.find(|interface| interface.name == *text);
                    self.with(interface.ok_or("there is no such interface")?, ByFamily::default())
                }
            },
            By::Regex(regex) => self.by_regex(regex),
            By::CanReach(address) => self.by_way(*address),
            By::PublicIp(address) => self.by_address(
                *address,
                "no interface of this node has that address; behind a NAT, name the interface with --iface too",
            ),
            By::DefaultRoute => self.by_default_route(),
        }
    }

    fn by_address(&self, address: IpAddr, nobodys: &str) -> Result<Underlay, String> {
        let interface = self.facts.owner(address).ok_or(nobodys)?;
        for family in self.choice.families.iter().filter(|family| **family != Family::of(address)) {
            if let Some(public) = self.choice.public(*family)
                && let Some(owner) = self.facts.owner(public)
                && !self.facts.has(interface, public)
            {
                let name = &interface.name;
                return Err(format!("it is {name}'s, and {} is {}'s", By::PublicIp(public), owner.name));
            }
        }
        self.with(interface, of_one(address))
    }

    /// By an address of every family on one interface, else by the interface's name.
    fn by_regex(&self, regex: &Regex) -> Result<Underlay, String> {
        let matching = |interface: &Interface, family: Family| {
            let foreign = |address: &IpAddr| !self.choice.overlay.iter().any(|range| range.contains(address));
            let mut addresses = self.preferred(interface, family).into_iter().filter(foreign);
            addresses.find(|address| regex.is_match(&address.to_string()))
        };
        for interface in self.interfaces() {
            let matched = ByFamily::from_fn(|family| matching(interface, family));
            if self.choice.families.iter().all(|family| matched.get(*family).is_some()) {
                return self.with(interface, matched);
            }
        }
        let named = self.interfaces().filter(|interface| regex.is_match(&interface.name));
        let mut reason = None;
        for interface in named {
            match self.with(interface, ByFamily::default()) {
                Ok(underlay) => return Ok(underlay),
                Err(why) => reason = reason.or(Some(why)),
            }
        }
        Err(reason.unwrap_or_else(|| match self.choice.families.as_slice() {
            [_, _, ..] => "it matches no interface's name, and addresses of both families of none".to_owned(),
            _ => "it matches no interface's name or address".to_owned(),
        }))
    }

    fn by_way(&self, to: IpAddr) -> Result<Underlay, String> {
        // The way to one of this node's own addresses is `lo`, which is not meant.
        if self.facts.owner(to).is_some() {
            return self.by_address(to, "");
        }
        let way = self.facts.way.as_ref().ok_or("the kernel has no route to it")?;
        let interface = self.facts.interfaces.get(&way.ifindex);
        let interface = interface.ok_or("the interface of the route to it is gone")?;
        let source = way.source.filter(|source| {
            let stays = self.kept(interface, Family::of(*source)).is_some();
            self.facts.has(interface, *source) && !stays
        });
        self.with(interface, source.map_or_else(ByFamily::default, of_one))
    }

    fn by_default_route(&self) -> Result<Underlay, String> {
        let current = self.current.map(|current| current.name.as_str());
        let of = |family| self.facts.default_interfaces(family, current);
        let mut lists: Vec<(Family, Vec<&Interface>)> =
            self.choice.families.iter().map(|family| (*family, of(*family))).collect();
        // A family without any default route has no say: its nodes may all be on one link.
        lists.retain(|(_, interfaces)| !interfaces.is_empty());
        let candidates: Vec<&Interface> = match lists.as_slice() {
            [] => return Err("there is no default route; name the interface with --iface".to_owned()),
            [(_, only)] => only.clone(),
            [(_, first), rest @ ..] => {
                let common = |interface: &&Interface| rest.iter().all(|(_, other)| other.contains(interface));
                first.iter().copied().filter(common).collect()
            }
        };
        let mut reason = None;
        for interface in candidates {
            match self.with(interface, ByFamily::default()) {
                Ok(underlay) => return Ok(underlay),
                Err(why) => reason = reason.or(Some(why)),
            }
        }
        Err(reason.unwrap_or_else(|| {
            let parts = lists.iter().filter_map(|(family, interfaces)| {
                Some(format!("that of {family} is {}", interfaces.first()?.name))
            });
            format!("{}; name one with --iface", parts.collect::<Vec<_>>().join(", "))
        }))
    }

    /// The interface with these addresses, and the best it has for families that have none of them.
    fn with(&self, interface: &Interface, given: ByFamily<IpAddr>) -> Result<Underlay, String> {
        let name = &interface.name;
        if interface.mtu == 0 {
            return Err(format!("{name} has no MTU"));
        }
        let mut addresses = ByFamily::default();
        for family in &self.choice.families {
            let address = given.get(*family).copied().or_else(|| self.address(interface, *family));
            let address = address.ok_or_else(|| self.lacking(interface, *family))?;
            addresses.set(*family, Some(address));
        }
        let (ifindex, mtu, ethernet) = (interface.ifindex, interface.mtu, interface.ethernet);
        Ok(Underlay { name: name.clone(), ifindex, addresses, mtu, ethernet })
    }

    fn lacking(&self, interface: &Interface, family: Family) -> String {
        let (name, other) = (&interface.name, family.other());
        let way_out = self.address(interface, other).map(|_| {
            let value = format!("{other}").to_lowercase();
            format!(" (--underlay-family {value} has the node use {other} alone, for pods of both families)")
        });
        format!("{name} has no {family} address{}", way_out.unwrap_or_default())
    }

    /// The interface's address: what peers know it by, where that is the interface's own; else the best. Where it has
    /// none for the moment, what it had; nor does the link-local address that outlives a global one take its place.
    fn address(&self, interface: &Interface, family: Family) -> Option<IpAddr> {
        let public = self.choice.public(family).filter(|public| self.facts.has(interface, *public));
        let current = self.currents(interface, family);
        let was_global = current.is_some_and(|current| !is_link_local(current));
        let best = self.preferred(interface, family).first().copied();
        public.or(best.filter(|best| !(was_global && is_link_local(*best)))).or(current)
    }

    /// The usable addresses, best first, but first what the agent has now: a second address that somebody adds (a
    /// service's, a privacy address) must not move the node.
    fn preferred(&self, interface: &Interface, family: Family) -> Vec<IpAddr> {
        let usable = self.facts.usable(interface, family);
        let kept = self.kept(interface, family);
        kept.into_iter().chain(usable.into_iter().filter(|address| Some(*address) != kept)).collect()
    }

    /// What the agent has now, where it is as good as before and no link-local address beside a global one.
    fn kept(&self, interface: &Interface, family: Family) -> Option<IpAddr> {
        let usable = self.facts.usable(interface, family);
        let current = self.currents(interface, family).filter(|address| usable.contains(address))?;
        let best_is_local = usable.first().is_some_and(|best| is_link_local(*best));
        (!is_link_local(current) || best_is_local).then_some(current)
    }

    fn currents(&self, interface: &Interface, family: Family) -> Option<IpAddr> {
        let current = self.current.filter(|current| current.name == interface.name)?;
        current.addresses.get(family).copied()
    }

    /// All interfaces, the one that the agent has now first.
    fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        let is_current =
            |interface: &&Interface| self.current.is_some_and(|current| current.name == interface.name);
        let all = self.facts.interfaces.values();
        all.clone().filter(is_current).chain(all.filter(move |interface| !is_current(interface)))
    }
}

fn of_one(address: IpAddr) -> ByFamily<IpAddr> {
    let mut addresses = ByFamily::default();
    addresses.set(Family::of(address), Some(address));
    addresses
}
