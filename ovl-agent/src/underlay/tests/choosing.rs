//! Section 8 of FLANNEL.md, line by line.

use super::super::choose::choose;
use super::*;

fn chosen(line: &str, families: &str, facts: &Facts) -> Result<String, String> {
    choose(&choice(line, families), facts, None).map(|chosen| shown(&chosen.underlay))
}

/// Two interfaces with both families, one with none, one with IPv6 only.
fn usual() -> Facts {
    let mut facts = node(&[
        "lo 127.0.0.1/8,host ::1/128,host",
        "eth0 192.0.2.11/24 2001:db8::11/64 fe80::11/64,link",
        "eth1 198.51.100.5/24 198.51.100.6/24 2001:db8:1::5/64",
        "bare",
        "six 2001:db8:6::6/64",
    ]);
    default_route(&mut facts, 4, &["eth0"], 0);
    default_route(&mut facts, 6, &["eth0"], 1024);
    facts
}

#[test]
fn what_is_named_is_found() {
    let table = [
        // Nothing named: the default route.
        ("", "4", "eth0: 192.0.2.11"),
        ("", "6", "eth0: 2001:db8::11"),
        ("", "46", "eth0: 192.0.2.11, 2001:db8::11"),
        // An empty variable of a unit file is the same.
        ("--iface=", "4", "eth0: 192.0.2.11"),
        ("--iface-regex=", "4", "eth0: 192.0.2.11"),
        // By the public address.
        ("--public-ip=198.51.100.6", "4", "eth1: 198.51.100.6"),
        ("--public-ip=198.51.100.6", "46", "eth1: 198.51.100.6, 2001:db8:1::5"),
        ("--public-ipv6=2001:db8:1::5", "6", "eth1: 2001:db8:1::5"),
        ("--public-ipv6=2001:db8:1::5", "46", "eth1: 198.51.100.5, 2001:db8:1::5"),
        ("--public-ip=198.51.100.6 --public-ipv6=2001:db8:1::5", "46", "eth1: 198.51.100.6, 2001:db8:1::5"),
        // By name.
        ("--iface=eth1", "4", "eth1: 198.51.100.5"),
        ("--iface=six", "6", "six: 2001:db8:6::6"),
        ("--iface=eth1", "46", "eth1: 198.51.100.5, 2001:db8:1::5"),
        // The public address may be a NAT's; where it is the interface's own, it is the one.
        ("--iface=eth1 --public-ip=203.0.113.9", "4", "eth1: 198.51.100.5"),
        ("--iface=eth1 --public-ip=198.51.100.6", "4", "eth1: 198.51.100.6"),
        // By address, of the network's family or not.
        ("--iface=198.51.100.6", "4", "eth1: 198.51.100.6"),
        ("--iface=198.51.100.6", "46", "eth1: 198.51.100.6, 2001:db8:1::5"),
        ("--iface=2001:db8:1::5", "6", "eth1: 2001:db8:1::5"),
        ("--iface=2001:db8:1::5", "46", "eth1: 198.51.100.5, 2001:db8:1::5"),
        ("--iface=2001:db8:1::5 --public-ip=198.51.100.6", "46", "eth1: 198.51.100.6, 2001:db8:1::5"),
        ("--iface=198.51.100.6 --public-ipv6=2001:db8:9::9", "46", "eth1: 198.51.100.6, 2001:db8:1::5"),
        ("--iface=198.51.100.5", "6", "eth1: 2001:db8:1::5"),
        // The first that is there.
        ("--iface=eth7 --iface=bare --iface=10.9.9.9 --iface=eth1 --iface=eth0", "4", "eth1: 198.51.100.5"),
        ("--iface=six --iface=eth1", "46", "eth1: 198.51.100.5, 2001:db8:1::5"),
        // Regular expressions: addresses first, anywhere in them, then names.
        ("--iface-regex=^198\\.51\\.100\\.6$", "4", "eth1: 198.51.100.6"),
        ("--iface-regex=51", "4", "eth1: 198.51.100.5"),
        ("--iface-regex=db8:6", "6", "six: 2001:db8:6::6"),
        ("--iface-regex=eth", "4", "eth0: 192.0.2.11"),
        ("--iface-regex=(?i)ETH1", "4", "eth1: 198.51.100.5"),
        ("--iface-regex=[[:alpha:]]th[1-9]", "4", "eth1: 198.51.100.5"),
        ("--iface-regex=bare|eth1", "4", "eth1: 198.51.100.5"),
        ("--iface-regex=^(198|2001:db8:1:)", "46", "eth1: 198.51.100.5, 2001:db8:1::5"),
        ("--iface-regex=^(198|2001:db8:6:)|eth0", "46", "eth0: 192.0.2.11, 2001:db8::11"),
        ("--iface-regex=nothing --iface-regex=eth1", "4", "eth1: 198.51.100.5"),
        ("--iface-regex=eth0 --iface=eth1", "4", "eth1: 198.51.100.5"),
        // The families outside, whatever those of the network.
        ("--underlay-family=ipv6", "46", "eth0: 2001:db8::11"),
        ("--underlay-family=ipv6", "4", "eth0: 2001:db8::11"),
        ("--underlay-family=ipv4", "6", "eth0: 192.0.2.11"),
        ("--underlay-family=both", "4", "eth0: 192.0.2.11, 2001:db8::11"),
        ("--underlay-family=ipv6 --iface=six", "46", "six: 2001:db8:6::6"),
        ("--underlay-family=ipv6 --iface=198.51.100.6", "4", "eth1: 2001:db8:1::5"),
        ("--underlay-family=ipv6 --iface-regex=db8:6", "4", "six: 2001:db8:6::6"),
    ];
    for (line, families, expected) in table {
        assert_eq!(chosen(line, families, &usual()).as_deref(), Ok(expected), "{line} in {families}");
    }
}

#[test]
fn what_does_not_fit_is_named_and_so_is_what_there_is() {
    let table: [(&str, &str, &[&str]); 14] = [
        (
            "--iface=eth7",
            "4",
            &["--iface eth7: there is no such interface", "eth0 (192.0.2.11)", "3 without a usable address"],
        ),
        ("--iface=eth7", "46", &["six (2001:db8:6::6)", "eth0 (192.0.2.11, 2001:db8::11, fe80::11)"]),
        ("--iface=10.9.9.9", "4", &["--iface 10.9.9.9: no interface of this node has that address"]),
        ("--iface=bare", "4", &["bare has no IPv4 address"]),
        ("--iface=six", "46", &["six has no IPv4 address (--underlay-family ipv6 has"]),
        ("--iface=bare --underlay-family=ipv6", "4", &["bare has no IPv6 address;"]),
        ("--iface=lo", "4", &["lo has no IPv4 address"]),
        (
            "--iface=eth7 --iface-regex=x7",
            "4",
            &["--iface eth7: there", "; --iface-regex 'x7': it matches no interface's"],
        ),
        ("--iface-regex=2001:db8:6", "46", &["addresses of both families of none"]),
        (
            "--public-ip=203.0.113.9",
            "4",
            &["--public-ip 203.0.113.9: no interface", "name the interface with --iface too"],
        ),
        ("--public-ipv6=2001:db8::99", "6", &["--public-ipv6 2001:db8::99: no interface"]),
        (
            "--iface=192.0.2.11 --public-ipv6=2001:db8:1::5",
            "46",
            &["it is eth0's, and --public-ipv6 2001:db8:1::5 is eth1's"],
        ),
        (
            "--public-ip=192.0.2.11 --public-ipv6=2001:db8:1::5",
            "46",
            &["--public-ip 192.0.2.11: it is eth0's, and"],
        ),
        ("--iface-can-reach=203.0.113.1", "4", &["--iface-can-reach 203.0.113.1: the kernel has no route"]),
    ];
    for (line, families, expected) in table {
        let error = chosen(line, families, &usual()).expect_err(line);
        for part in expected {
            assert!(error.contains(part), "{line} in {families}: {error}");
        }
    }
    let mut facts = usual();
    facts.interfaces.get_mut(&2).expect("eth0").mtu = 0;
    assert!(chosen("--iface=eth0", "4", &facts).expect_err("no MTU").contains("eth0 has no MTU"));
    assert_eq!(
        pattern("iface-regex", "(").expect_err("no expression").split(':').next(),
        Some("--iface-regex '(' is no regular expression")
    );
}

#[test]
fn what_was_passed_over_is_told() {
    let chosen =
        choose(&choice("--iface=eth7 --iface=bare --iface=eth0", "4"), &usual(), None).expect("eth0");
    assert_eq!(
        chosen.refused,
        ["--iface eth7: there is no such interface", "--iface bare: bare has no IPv4 address"]
    );
}

#[test]
fn addresses_are_preferred_as_flannel_prefers_them() {
    let table = [
        ("169.254.1.1/16 192.0.2.1/24", "4", "192.0.2.1"),
        ("169.254.1.1/16", "4", "169.254.1.1"),
        ("192.0.2.1/24,link 192.0.2.2/24", "4", "192.0.2.2"),
        ("192.0.2.1/24,host 192.0.2.2/24", "4", "192.0.2.2"),
        ("192.0.2.1/24,dynamic 192.0.2.2/24", "4", "192.0.2.2"),
        ("192.0.2.1/24 192.0.2.2/24", "4", "192.0.2.1"),
        ("fe80::1/64,link 2001:db8::1/64,dynamic", "6", "2001:db8::1"),
        ("fe80::1/64,link", "6", "fe80::1"),
        ("2001:db8::1/64,dynamic 2001:db8::2/64", "6", "2001:db8::2"),
        ("2001:db8::1/64,dynamic,temporary 2001:db8::2/64,dynamic", "6", "2001:db8::2"),
        ("2001:db8::1/64,dynamic,temporary", "6", "2001:db8::1"),
        ("2001:db8::1/64,deprecated 2001:db8::2/64,dynamic,temporary", "6", "2001:db8::2"),
        ("2001:db8::1/64,dadfailed fe80::1/64,link", "6", "fe80::1"),
        ("2001:db8::1/64,tentative", "6", "2001:db8::1"),
        ("fd00::1/64 2001:db8::1/64", "6", "fd00::1"),
    ];
    for (addresses, families, expected) in table {
        let facts = node(&[&format!("eth0 {addresses}")]);
        assert_eq!(chosen("--iface=eth0", families, &facts), Ok(format!("eth0: {expected}")), "{addresses}");
    }
    let facts = node(&["eth0 2001:db8::1/64,deprecated"]);
    assert!(chosen("--iface=eth0", "6", &facts).is_err());
    assert_eq!(chosen("--iface=2001:db8::1", "6", &facts).as_deref(), Ok("eth0: 2001:db8::1"), "asked for");
}

/// Family, interfaces, metric of each.
type Routes<'a> = &'a [(u8, &'a [&'a str], u32)];

#[test]
fn of_several_default_routes_the_best_that_works_counts() {
    let interfaces = [
        "eth0 192.0.2.1/24 2001:db8::1/64",
        "eth1 192.0.2.2/24 2001:db8::2/64",
        "ppp0",
        "eth3 192.0.2.3/24 2001:db8::3/64",
    ];
    let table: [(&str, Routes<'_>, Result<&str, &str>); 13] = [
        ("4", &[(4, &["eth0"], 200), (4, &["eth1"], 100)], Ok("eth1")),
        ("4", &[(4, &["eth1"], 100), (4, &["eth0"], 100)], Ok("eth1")),
        ("4", &[(4, &["eth3", "eth1"], 0)], Ok("eth3")),
        ("4", &[(4, &["eth3-", "eth1"], 0)], Ok("eth1")),
        ("4", &[(4, &["eth3-"], 0)], Ok("eth3")),
        ("4", &[(4, &["ppp0"], 0), (4, &["eth0"], 100)], Ok("eth0")),
        ("4", &[(4, &["ppp0"], 0)], Err("the default route's interface: ppp0 has no IPv4 address")),
        ("4", &[(6, &["eth0"], 0)], Err("there is no default route; name the interface with --iface")),
        ("6", &[(4, &["eth0"], 0), (6, &["eth1", "eth0"], 1024)], Ok("eth1")),
        ("46", &[(4, &["eth0"], 0), (6, &["eth0"], 1024)], Ok("eth0")),
        ("46", &[(4, &["eth0", "eth1"], 0), (6, &["eth3"], 1), (6, &["eth1"], 1024)], Ok("eth1")),
        ("46", &[(4, &["eth1"], 0)], Ok("eth1")),
        (
            "46",
            &[(4, &["eth0"], 0), (6, &["eth1"], 1024)],
            Err("that of IPv4 is eth0, that of IPv6 is eth1; name one"),
        ),
    ];
    for (families, routes, expected) in table {
        let mut facts = node(&interfaces);
        for (family, interfaces, metric) in routes {
            default_route(&mut facts, *family, interfaces, *metric);
        }
        match (chosen("", families, &facts), expected) {
            (Ok(found), Ok(name)) => assert!(found.starts_with(&format!("{name}: ")), "{routes:?}: {found}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{routes:?}: {error}"),
            (found, expected) => panic!("{routes:?}: {found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn can_reach_takes_the_kernels_way_and_source() {
    let line = "--iface-can-reach=203.0.113.1";
    let mut facts = usual();
    way(&mut facts, "eth1", "198.51.100.6");
    assert_eq!(chosen(line, "4", &facts).as_deref(), Ok("eth1: 198.51.100.6"));
    assert_eq!(chosen(line, "46", &facts).as_deref(), Ok("eth1: 198.51.100.6, 2001:db8:1::5"));
    assert_eq!(chosen(&format!("--iface=eth0 {line}"), "4", &facts).as_deref(), Ok("eth0: 192.0.2.11"));
    assert_eq!(chosen(&format!("--iface=eth7 {line}"), "4", &facts).as_deref(), Ok("eth1: 198.51.100.6"));
    // An address of the other family, and one that is this node's own.
    way(&mut facts, "six", "2001:db8:6::6");
    assert_eq!(chosen("--iface-can-reach=2001:db8:6::1", "6", &facts).as_deref(), Ok("six: 2001:db8:6::6"));
    way(&mut facts, "lo", "198.51.100.6");
    assert_eq!(chosen("--iface-can-reach=198.51.100.6", "4", &facts).as_deref(), Ok("eth1: 198.51.100.6"));
}

#[test]
fn an_address_of_the_overlay_is_not_meant_by_a_regular_expression() {
    let facts = node(&["cni0 10.42.3.1/24", "flannel.1 10.42.3.0/32", "eth0 10.0.0.5/24"]);
    assert_eq!(chosen("--iface-regex=^10\\.", "4", &facts).as_deref(), Ok("eth0: 10.0.0.5"));
}

#[test]
fn the_routing_table_is_read_only_where_the_choice_goes_by_it() {
    let table = [
        ("", true),
        ("--iface=", true),
        ("--iface=eth0 --iface-regex=", true),
        ("--iface=eth0", false),
        ("--iface-regex=eth", false),
        ("--iface-can-reach=192.0.2.1", false),
        ("--public-ip=192.0.2.1", false),
        ("--public-ipv6=2001:db8::1", false),
    ];
    for (line, expected) in table {
        assert_eq!(choice(line, "46").asks_for_default_routes(), expected, "{line}");
    }
}
