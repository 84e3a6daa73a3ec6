use ovl_common::Mac;
use rtnetlink::packet_route::address::{AddressFlags, AddressScope};

use super::*;
use crate::cli::{self, Command};
use crate::netlink::{Hop, MainRoute, NextHop, NodeAddress};

mod choosing;
mod following;

/// The choice that a command line makes, in a network of both families unless `families` says 4 or 6.
fn choice(line: &str, families: &str) -> Choice {
    let argv = std::iter::once("ovl-agent").chain(line.split_whitespace()).map(Into::into);
    let Command::Run(run) =
        cli::parse(argv, |_| None).unwrap_or_else(|error| panic!("{line}: {error}")).command
    else {
        panic!("{line} is not run")
    };
    let range = |family: char, range: &str| families.contains(family).then(|| range.parse().expect(range));
    let ranges = ByFamily { v4: range('4', "10.42.0.0/16"), v6: range('6', "fd42::/48") };
    Choice::new(&run, &ranges).expect(line)
}

/// A node. A line is an interface's name, then its addresses, each followed by what is odd about it, after commas.
/// Indices count from 1.
fn node(lines: &[&str]) -> Facts {
    let mut facts = Facts::default();
    for (ifindex, line) in (1..).zip(lines) {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a name").to_owned();
        let (mtu, ethernet) = if name == "lo" { (65536, false) } else { (1500, true) };
        let interface = Interface {
            ifindex,
            name,
            mtu,
            mac: Mac::default(),
            ethernet,
            veth: false,
            peer_elsewhere: false,
            bridge: None,
        };
        facts.interfaces.insert(ifindex, interface);
        facts.addresses.extend(words.map(|word| address(ifindex, word)));
    }
    facts
}

fn address(ifindex: u32, word: &str) -> NodeAddress {
    let mut parts = word.split(',');
    let net = parts.next().and_then(|net| net.parse().ok()).unwrap_or_else(|| panic!("{word}"));
    let mut known =
        NodeAddress { ifindex, net, scope: AddressScope::Universe, flags: AddressFlags::Permanent };
    for odd in parts {
        match odd {
            "link" => known.scope = AddressScope::Link,
            "host" => known.scope = AddressScope::Host,
            "dynamic" => known.flags.remove(AddressFlags::Permanent),
            "temporary" => known.flags.insert(AddressFlags::Secondary),
            "deprecated" => known.flags.insert(AddressFlags::Deprecated),
            "dadfailed" => known.flags.insert(AddressFlags::Dadfailed),
            "tentative" => known.flags.insert(AddressFlags::Tentative),
            _ => panic!("{word}"),
        }
    }
    known
}

/// A default route of family 4 or 6 through interfaces, `-` after a name for one that the kernel passes over.
fn default_route(facts: &mut Facts, family: u8, interfaces: &[&str], metric: u32) {
    let range = if family == 4 { "0.0.0.0/0" } else { "::/0" };
    let hops = interfaces.iter().map(|name| NextHop {
        ifindex: index(facts, name.trim_end_matches('-')),
        gateway: None,
        dead: name.ends_with('-'),
    });
    let route = MainRoute { destination: range.parse().expect(range), metric, hops: hops.collect() };
    facts.defaults.push(route);
}

fn index(facts: &Facts, name: &str) -> u32 {
    facts.interfaces.values().find(|interface| interface.name == name).expect(name).ifindex
}

/// The kernel's answer for `--iface-can-reach`.
fn way(facts: &mut Facts, name: &str, source: &str) {
    let source = Some(source.parse().expect(source));
    facts.way = Some(Hop { ifindex: index(facts, name), gateway: None, source, single: true });
}

/// Name and addresses in one line.
fn shown(underlay: &Underlay) -> String {
    format!("{}: {}", underlay.name, underlay.addresses)
}
