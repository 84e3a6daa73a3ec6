//! Masquerade and forward rules in a table of our own.

use ovl_agent::family::ByFamily;
use ovl_agent::firewall::{Mode, Wanted};

use super::host::{Host, wanted};
use super::{assert_at_rest, assert_mended};

/// As nft 1.0 prints it.
const TABLE: &str = "\
table inet ovl-flannel.1 {
	chain postrtg {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 == 0x00004000 return
		ip saddr 10.42.7.0/24 ip daddr 10.42.0.0/16 return
		ip saddr 10.42.0.0/16 ip daddr 10.42.7.0/24 return
		ip saddr != 10.42.0.0/16 ip daddr 10.42.7.0/24 return
		ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 masquerade fully-random
		ip6 saddr fd77:0:0:5::/64 ip6 daddr fd77::/48 return
		ip6 saddr fd77::/48 ip6 daddr fd77:0:0:5::/64 return
		ip6 saddr != fd77::/48 ip6 daddr fd77:0:0:5::/64 return
		ip6 saddr fd77::/48 ip6 daddr != ff00::/8 masquerade fully-random
		ip6 saddr != fd77::/48 ip6 daddr fd77::/48 masquerade fully-random
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr 10.42.0.0/16 accept
		ip daddr 10.42.0.0/16 accept
		ip6 saddr fd77::/48 accept
		ip6 daddr fd77::/48 accept
	}
}
";

/// Everything but our table, which must be there.
pub(crate) fn without_our_table(host: &Host) -> String {
    let everything = host.everything();
    assert!(everything.contains(TABLE), "{everything}");
    everything.replace(TABLE, "")
}

#[test]
fn the_rules_stand_one_by_one() {
    let mut host = Host::new();
    host.ensure_well(&wanted(Mode::Nftables));
    assert_eq!(host.sh("nft list ruleset"), TABLE);
    assert_at_rest(&mut host, Mode::Nftables);
    host.end_agent();
    host.ensure_well(&wanted(Mode::Nftables));
    assert_eq!(host.sh("nft list ruleset"), TABLE);
}

#[test]
fn only_what_is_wanted_stands() {
    let mut host = Host::new();
    let both = wanted(Mode::Nftables);
    host.ensure_well(&Wanted { masquerade: None, ..both.clone() });
    assert!(!host.sh("nft list ruleset").contains("postrtg"));
    host.ensure_well(&Wanted { forward: false, ..both.clone() });
    assert!(!host.sh("nft list ruleset").contains("forward"));
    host.ensure_well(&Wanted { ranges: ByFamily { v4: None, ..both.ranges }, ..both.clone() });
    assert!(!host.sh("nft list ruleset").contains("ip saddr"));
    host.ensure_well(&Wanted { ranges: ByFamily::default(), ..both.clone() });
    assert_eq!(host.sh("nft list ruleset"), "");
    assert_eq!(host.ensure_well(&Wanted { ranges: ByFamily::default(), ..both }).changes, []);
}

#[test]
fn whatever_is_done_to_them_is_mended() {
    let mut host = Host::new();
    host.sh("nft add table inet foreign");
    let table = "inet ovl-flannel.1";
    let chains = [("postrtg", 11), ("forward", 4)];
    let handle = |chain: &str, index: usize| {
        format!("nft -a list chain {table} {chain} | grep -o 'handle [0-9]*$' | sed -n '{}p'", index + 2)
    };
    let mut damages = Vec::new();
    for (chain, rules) in chains {
        damages.extend(
            (0..rules).map(|rule| format!("nft delete rule {table} {chain} $({})", handle(chain, rule))),
        );
        damages.push(format!("nft flush chain {table} {chain}"));
        damages.push(format!("nft flush chain {table} {chain}; nft delete chain {table} {chain}"));
        damages.push(format!("nft insert rule {table} {chain} accept"));
        damages.push(format!("nft add rule {table} {chain} return"));
        damages.push(format!("nft replace rule {table} {chain} $({}) accept", handle(chain, 1)));
        damages.push(format!("nft chain {table} {chain} '{{ policy drop; }}'"));
    }
    damages.extend([
        format!("nft delete rule {table} forward $({}); nft add rule {table} forward ip saddr 10.42.0.0/16 accept", handle("forward", 0)),
        format!("nft flush table {table}"),
        format!("nft delete table {table}"),
        format!("nft add table {table} '{{ flags dormant; }}'"),
        format!("nft add chain {table} mine"),
    ]);
    assert_mended(&mut host, Mode::Nftables, &damages);

    host.sh("nft flush ruleset");
    assert!(host.ensure_well(&wanted(Mode::Nftables)).drift);
    assert_eq!(host.sh("nft list ruleset"), TABLE);
}

#[test]
fn what_others_do_starts_no_process() {
    let mut host = Host::new();
    host.ensure_well(&wanted(Mode::Nftables));
    host.sh("nft add table inet foreign; nft add chain inet foreign c");
    assert_at_rest(&mut host, Mode::Nftables);
    host.sh("nft delete table inet foreign; iptables -t nat -A POSTROUTING -j ACCEPT");
    assert_at_rest(&mut host, Mode::Nftables);
}

#[test]
fn other_ranges_take_the_place_of_the_old_ones_and_no_look_sees_neither() {
    let mut host = Host::new();
    host.ensure_well(&wanted(Mode::Nftables));
    let observer = host.observe("nft list table inet ovl-flannel.1", "masquerade");
    for index in 10..40 {
        let mut moved = wanted(Mode::Nftables);
        moved.ranges.v4.as_mut().unwrap().subnet = format!("10.42.{index}.0/24").parse().unwrap();
        host.ensure_well(&moved);
    }
    let rules = observer.counts();
    assert!(rules.len() > 20 && rules.iter().all(|count| *count == 4), "{rules:?}");
    let stands = host.sh("nft list ruleset");
    assert!(stands.contains("10.42.39.0/24") && !stands.contains("10.42.38.0/24"), "{stands}");
}
