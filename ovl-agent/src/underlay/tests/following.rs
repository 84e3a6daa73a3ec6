//! What is followed at run time, and what is waited out.

use std::time::{Duration, Instant};

use super::super::choose::choose;
use super::super::follow::PATIENCE;
use super::*;

/// A node that chose, and what it follows.
struct Running {
    choice: Choice,
    underlay: Underlay,
    follow: Follow,
    start: Instant,
}

impl Running {
    fn on(line: &str, families: &str, facts: &Facts) -> Self {
        let choice = choice(line, families);
        let underlay = choose(&choice, facts, None).expect(line).underlay;
        Self { choice, underlay, follow: Follow::default(), start: Instant::now() }
    }

    /// Looks at what is there after so long; what it has then.
    fn after(&mut self, time: Duration, facts: &Facts) -> String {
        if let Some(new) = self.follow.step(&self.underlay, &self.choice, facts, self.start + time) {
            assert_ne!(new, self.underlay, "nothing changed");
            self.underlay = new;
        }
        shown(&self.underlay)
    }
}

const SOON: Duration = Duration::from_secs(1);

fn with_default(lines: &[&str], name: &str) -> Facts {
    let mut facts = node(lines);
    default_route(&mut facts, 4, &[name], 0);
    facts
}

#[test]
fn what_changes_on_the_interface_is_taken_over_at_once() {
    // Before, after, what the node then has.
    let table = [
        ("--iface=eth0", "4", "eth0 192.0.2.1/24", "eth0 192.0.2.9/24", "eth0: 192.0.2.9"),
        (
            "--iface=eth0",
            "46",
            "eth0 192.0.2.1/24 2001:db8::1/64",
            "eth0 192.0.2.1/24 2001:db8::9/64",
            "eth0: 192.0.2.1, 2001:db8::9",
        ),
        ("", "4", "eth0 192.0.2.1/24", "eth0 192.0.2.9/24", "eth0: 192.0.2.9"),
        ("--iface-regex=^192", "4", "eth0 192.0.2.1/24", "eth0 10.0.0.1/8 192.0.2.9/24", "eth0: 192.0.2.9"),
        // A name that changes is no other interface.
        ("--iface=192.0.2.1", "4", "eth0 192.0.2.1/24", "lan0 192.0.2.1/24", "lan0: 192.0.2.1"),
        ("", "4", "eth0 192.0.2.1/24", "lan0 192.0.2.2/24", "lan0: 192.0.2.2"),
        // A global address is better than the link-local one the node started with; a dying one is left.
        ("--iface=eth0", "4", "eth0 169.254.7.7/16", "eth0 169.254.7.7/16 192.0.2.1/24", "eth0: 192.0.2.1"),
        (
            "--iface=eth0",
            "6",
            "eth0 2001:db8::1/64",
            "eth0 2001:db8::1/64,deprecated 2001:db8::2/64",
            "eth0: 2001:db8::2",
        ),
    ];
    for (line, families, before, after, expected) in table {
        let mut running = Running::on(line, families, &with_default(&[before], "eth0"));
        let name = after.split(' ').next().expect("a name");
        assert_eq!(
            running.after(SOON, &with_default(&[after], name)),
            expected,
            "{line}: {before} to {after}"
        );
    }
}

#[test]
fn a_new_mtu_or_index_is_taken_over_at_once_also_before_the_addresses_are_back() {
    let mut running = Running::on("--iface=eth0", "4", &node(&["eth0 192.0.2.1/24"]));
    let mut facts = node(&["lo", "eth0"]);
    facts.interfaces.get_mut(&2).expect("eth0").mtu = 9000;
    assert_eq!(running.after(SOON, &facts), "eth0: 192.0.2.1");
    assert_eq!((running.underlay.ifindex, running.underlay.mtu), (2, 9000));
}

#[test]
fn one_family_waits_for_its_address_while_the_other_changes() {
    let facts = node(&["eth0 192.0.2.1/24 2001:db8::1/64"]);
    let mut running = Running::on("--iface=eth0", "46", &facts);
    assert_eq!(running.after(SOON, &node(&["eth0 192.0.2.9/24"])), "eth0: 192.0.2.9, 2001:db8::1");
}

#[test]
fn a_second_address_does_not_move_the_node() {
    let table = [
        ("--iface=eth0", "4", "eth0 192.0.2.1/24,dynamic", "eth0 192.0.2.1/24,dynamic 192.0.2.100/32"),
        ("--iface=eth0", "6", "eth0 2001:db8::1/64", "eth0 2001:db8::100/128 2001:db8::1/64"),
        ("", "4", "eth0 192.0.2.1/24", "eth0 192.0.2.0/24 192.0.2.1/24"),
        ("--iface-regex=^192", "4", "eth0 192.0.2.1/24", "eth0 192.0.2.0/24 192.0.2.1/24"),
    ];
    for (line, families, before, after) in table {
        let mut running = Running::on(line, families, &with_default(&[before], "eth0"));
        let had = shown(&running.underlay);
        assert_eq!(running.after(SOON, &with_default(&[after], "eth0")), had, "{line}: {before} to {after}");
    }
    let mut facts = node(&["eth0 192.0.2.1/24 192.0.2.100/24"]);
    way(&mut facts, "eth0", "192.0.2.1");
    let mut running = Running::on("--iface-can-reach=192.0.2.9", "4", &facts);
    way(&mut facts, "eth0", "192.0.2.100");
    assert_eq!(running.after(SOON, &facts), "eth0: 192.0.2.1");
}

#[test]
fn an_interface_that_is_away_changes_nothing_however_long() {
    let before = with_default(&["eth0 192.0.2.1/24 2001:db8::1/64"], "eth0");
    let away: [&[&str]; 4] =
        [&["lo 127.0.0.1/8,host"], &["eth0"], &["eth0 192.0.2.1/24"], &["eth0 192.0.2.1/24 fe80::1/64,link"]];
    for line in
        ["--iface=eth0", "", "--iface-regex=^192|^2001", "--iface=192.0.2.1", "--public-ipv6=2001:db8::1"]
    {
        for after in away {
            let mut running = Running::on(line, "46", &before);
            for time in [SOON, PATIENCE, PATIENCE * 9] {
                let seen = running.after(time, &node(after));
                assert_eq!(seen, "eth0: 192.0.2.1, 2001:db8::1", "{line}: {after:?}");
            }
        }
    }
}

#[test]
fn another_interface_with_the_same_addresses_is_the_node_at_once() {
    let before = with_default(&["eth0 192.0.2.1/24"], "eth0");
    let after = with_default(&["eth0", "br0 192.0.2.1/24"], "br0");
    for line in ["", "--iface=192.0.2.1", "--iface-regex=^192"] {
        assert_eq!(Running::on(line, "4", &before).after(SOON, &after), "br0: 192.0.2.1", "{line}");
    }
}

#[test]
fn the_node_moves_to_another_interface_only_when_its_own_has_gone_for_long() {
    let both = &["eth0 192.0.2.1/24", "eth1 198.51.100.1/24"];
    let bare = &["eth0", "eth1 198.51.100.1/24"];
    let (first, second) = (with_default(both, "eth0"), with_default(bare, "eth1"));
    let mut running = Running::on("", "4", &first);
    assert_eq!(running.after(SOON, &second), "eth0: 192.0.2.1");
    // It comes back before long: from then on the time counts anew.
    assert_eq!(running.after(SOON * 2, &first), "eth0: 192.0.2.1");
    assert_eq!(running.after(PATIENCE + SOON, &second), "eth0: 192.0.2.1");
    assert_eq!(running.after(PATIENCE * 2, &second), "eth0: 192.0.2.1");
    assert_eq!(running.after(PATIENCE * 2 + SOON, &second), "eth1: 198.51.100.1");
    // What says nothing, or names a third one, starts the time anew, too.
    let all = &["eth0", "eth1 198.51.100.1/24", "eth2 203.0.113.1/24"];
    for between in [with_default(all, "eth2"), node(all)] {
        let mut running = Running::on("", "4", &first);
        assert_eq!(running.after(SOON, &with_default(all, "eth1")), "eth0: 192.0.2.1");
        assert_eq!(running.after(PATIENCE, &between), "eth0: 192.0.2.1");
        assert_eq!(running.after(PATIENCE + SOON, &with_default(all, "eth1")), "eth0: 192.0.2.1");
        assert_eq!(running.after(PATIENCE * 2 + SOON, &with_default(all, "eth1")), "eth1: 198.51.100.1");
    }
    // The MTU does not wait.
    let mut running = Running::on("", "4", &first);
    let mut narrow = second.clone();
    narrow.interfaces.get_mut(&1).expect("eth0").mtu = 1400;
    assert_eq!(running.after(SOON, &narrow), "eth0: 192.0.2.1");
    assert_eq!(running.underlay.mtu, 1400);
}

#[test]
fn a_better_interface_does_not_move_a_node_that_is_well_where_it_is() {
    let both = &["eth0 192.0.2.1/24", "eth1 198.51.100.1/24"];
    // A VPN with a default route of its own.
    let mut running = Running::on("", "4", &with_default(both, "eth0"));
    let vpn = with_default(&["eth0 192.0.2.1/24", "eth1 198.51.100.1/24", "tun0 10.9.9.9/32"], "tun0");
    // The first of a list, which was not there at the start.
    let mut listed = Running::on("--iface=eth0 --iface=eth1", "4", &node(&["lo", "eth1 198.51.100.1/24"]));
    for time in [SOON, PATIENCE, PATIENCE * 9] {
        assert_eq!(running.after(time, &vpn), "eth0: 192.0.2.1");
        assert_eq!(listed.after(time, &node(both)), "eth1: 198.51.100.1");
    }
}

#[test]
fn an_interface_that_would_match_too_changes_nothing() {
    let before = node(&["lo", "eth0 192.0.2.1/24"]);
    let mut running = Running::on("--iface-regex=^192|eth", "4", &before);
    let after = node(&["ethx 192.0.2.7/24", "eth0 192.0.2.1/24"]);
    for time in [SOON, PATIENCE * 2] {
        assert_eq!(running.after(time, &after), "eth0: 192.0.2.1");
    }
    let both = &["eth0 192.0.2.1/24", "eth1 198.51.100.1/24"];
    let mut running = Running::on("", "4", &with_default(both, "eth0"));
    let mut several = node(both);
    default_route(&mut several, 4, &["eth1", "eth0"], 0);
    for time in [SOON, PATIENCE * 2] {
        assert_eq!(running.after(time, &several), "eth0: 192.0.2.1");
    }
}
