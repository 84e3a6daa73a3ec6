//! Masquerade and forward rules in iptables' tables.

use ovl_agent::family::ByFamily;
use ovl_agent::firewall::{Masquerade, Mode, Wanted};

use super::host::{Host, RANGES, Variant, wanted};
use super::{assert_at_rest, assert_mended};

const NAT: [&str; 9] = [
    ":FLANNEL-POSTRTG -",
    ":OVL-AGENT -",
    "-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG",
    "-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN",
    "-A FLANNEL-POSTRTG -s SUBNET -d NETWORK -m comment --comment \"flanneld masq\" -j RETURN",
    "-A FLANNEL-POSTRTG -s NETWORK -d SUBNET -m comment --comment \"flanneld masq\" -j RETURN",
    "-A FLANNEL-POSTRTG ! -s NETWORK -d SUBNET -m comment --comment \"flanneld masq\" -j RETURN",
    "-A FLANNEL-POSTRTG -s NETWORK ! -d MULTICAST -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
    "-A FLANNEL-POSTRTG ! -s NETWORK -d NETWORK -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
];

const FILTER: [&str; 5] = [
    ":FLANNEL-FWD -",
    ":OVL-AGENT -",
    "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD",
    "-A FLANNEL-FWD -s NETWORK -m comment --comment \"flanneld forward\" -j ACCEPT",
    "-A FLANNEL-FWD -d NETWORK -m comment --comment \"flanneld forward\" -j ACCEPT",
];

/// The lines of a table as they should be, for iptables or for ip6tables.
pub(crate) fn expected(six: &str, table: &str) -> Vec<String> {
    let (network, subnet) = if six.is_empty() { RANGES[0] } else { RANGES[1] };
    let multicast = if six.is_empty() { "224.0.0.0/4" } else { "ff00::/8" };
    let lines = if table == "nat" { &NAT[..] } else { &FILTER[..] };
    let fill = |line: &&str| {
        line.replace("NETWORK", network).replace("SUBNET", subnet).replace("MULTICAST", multicast)
    };
    lines.iter().map(fill).collect()
}

/// The lines of a table that have to do with us.
pub(crate) fn ours(host: &Host, variant: Variant, six: &str, table: &str) -> Vec<String> {
    let mut lines = host.table(variant, six, table);
    lines.retain(|line| line.contains("FLANNEL") || line.contains("OVL") || line.contains("flanneld"));
    lines
}

/// Asserts that the rules stand in `variant` and only there.
pub(crate) fn assert_stands(host: &Host, variant: Variant) {
    for six in ["", "6"] {
        for table in ["nat", "filter"] {
            assert_eq!(
                ours(host, variant, six, table),
                expected(six, table),
                "ip{six}tables {table} {variant}"
            );
            assert!(ours(host, variant.other(), six, table).is_empty(), "ip{six}tables {table} {variant}");
        }
    }
}

#[test]
fn the_rules_stand_one_by_one() {
    for variant in Variant::ALL {
        let mut host = Host::of_variant(variant);
        let outcome = host.ensure_well(&wanted(Mode::Iptables));
        assert!(!outcome.drift && outcome.changes.len() == 4, "{outcome:?}");
        assert_stands(&host, variant);
        assert_at_rest(&mut host, Mode::Iptables);
        // The next agent finds all in order.
        host.end_agent();
        let outcome = host.ensure_well(&wanted(Mode::Iptables));
        assert!(outcome.changes.is_empty(), "{outcome:?}");
        assert_at_rest(&mut host, Mode::Iptables);
    }
}

#[test]
fn only_what_is_wanted_stands() {
    let mut host = Host::new();
    let both = wanted(Mode::Iptables);
    let plain = Wanted { masquerade: Some(Masquerade { random_fully: false }), ..both.clone() };
    host.ensure_well(&plain);
    assert!(ours(&host, Variant::Nft, "", "nat").iter().all(|line| !line.contains("--random-fully")));
    host.ensure_well(&Wanted { masquerade: None, ..both.clone() });
    assert!(ours(&host, Variant::Nft, "", "nat").is_empty());
    assert_eq!(ours(&host, Variant::Nft, "", "filter"), expected("", "filter"));
    host.ensure_well(&Wanted { forward: false, ..both.clone() });
    assert!(ours(&host, Variant::Nft, "6", "filter").is_empty());
    assert_eq!(ours(&host, Variant::Nft, "6", "nat"), expected("6", "nat"));
    host.ensure_well(&Wanted { ranges: ByFamily { v6: None, ..both.ranges }, ..both.clone() });
    assert!(ours(&host, Variant::Nft, "6", "nat").is_empty());
    assert_eq!(ours(&host, Variant::Nft, "", "nat"), expected("", "nat"));
    host.ensure_well(&Wanted { ranges: ByFamily::default(), ..both.clone() });
    for six in ["", "6"] {
        for table in ["nat", "filter"] {
            assert!(ours(&host, Variant::Nft, six, table).is_empty());
        }
    }
}

#[test]
fn whatever_is_done_to_them_is_mended() {
    let jump = "-m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG";
    let mut damages: Vec<String> =
        (1..=6).map(|rule| format!("TOOL -t nat -D FLANNEL-POSTRTG {rule}")).collect();
    damages.extend([
        format!("TOOL -t nat -D POSTROUTING {jump}"),
        format!("TOOL -t nat -A POSTROUTING {jump}"),
        format!("TOOL -t nat -D POSTROUTING {jump}; TOOL -t nat -F FLANNEL-POSTRTG; TOOL -t nat -X FLANNEL-POSTRTG"),
        "TOOL -t nat -R POSTROUTING 2 -o eth8 -j FLANNEL-POSTRTG".to_owned(),
        "TOOL -t nat -F FLANNEL-POSTRTG".to_owned(),
        "TOOL -t nat -I FLANNEL-POSTRTG -j ACCEPT".to_owned(),
        "TOOL -t nat -A FLANNEL-POSTRTG -j ACCEPT".to_owned(),
        "TOOL -t nat -D FLANNEL-POSTRTG 2; TOOL -t nat -A FLANNEL-POSTRTG -j RETURN".to_owned(),
        "TOOL -t nat -X OVL-AGENT".to_owned(),
        "TOOL -D FLANNEL-FWD 1".to_owned(),
        "TOOL -D FLANNEL-FWD 2".to_owned(),
        "TOOL -D FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD".to_owned(),
        "TOOL -A INPUT -j FLANNEL-FWD".to_owned(),
        // A rule twice, and two rules in the wrong order.
        "TOOL -S FLANNEL-FWD 2 | sed s/-A/-I/ | xargs TOOL".to_owned(),
        "first=$(TOOL -S FLANNEL-FWD 1); TOOL -D FLANNEL-FWD 1; echo \"$first\" | xargs TOOL".to_owned(),
    ]);
    for variant in Variant::ALL {
        let mut host = Host::of_variant(variant);
        for six in ["", "6"] {
            let tool = format!("ip{six}tables-{variant}");
            let damages: Vec<String> = damages.iter().map(|damage| damage.replace("TOOL", &tool)).collect();
            assert_mended(&mut host, Mode::Iptables, &damages);
        }
    }
}

#[test]
fn packets_and_what_others_do_change_nothing() {
    for variant in Variant::ALL {
        let mut host = Host::of_variant(variant);
        host.ensure_well(&wanted(Mode::Iptables));
        host.sh("ping -q -c 1 127.0.0.1; ping -q -c 1 ::1");
        let counted = host.sh(&format!("ip6tables-{variant}-save -c -t nat"));
        assert!(
            !counted.contains("[0:0] -A POSTROUTING -m comment"),
            "the packets pass the rules:\n{counted}"
        );
        assert_at_rest(&mut host, Mode::Iptables);
        // As kube-proxy does all the time.
        host.sh(&format!(
            "iptables-{variant} -t nat -N KUBE-SVC; iptables-{variant} -t nat -A KUBE-SVC -j ACCEPT; \
             iptables-{variant} -t nat -A PREROUTING -j KUBE-SVC; nft add table inet foreign"
        ));
        if variant == Variant::Legacy {
            // Legacy tables can only be compared as a whole.
            assert_eq!(host.ensure_well(&wanted(Mode::Iptables)).changes, []);
        }
        assert_at_rest(&mut host, Mode::Iptables);
        host.sh(&format!("iptables-{variant} -t nat -I POSTROUTING -o eth7 -j ACCEPT"));
        assert_eq!(host.ensure_well(&wanted(Mode::Iptables)).changes, []);
        assert_at_rest(&mut host, Mode::Iptables);
    }
}

#[test]
fn a_flushed_table_is_filled_again() {
    for variant in Variant::ALL {
        let mut host = Host::of_variant(variant);
        host.ensure_well(&wanted(Mode::Iptables));
        // Takes what others had there with it, which is not ours to bring back.
        for flush in ["-F", "-t nat -F"] {
            host.sh(&format!("iptables-{variant} {flush}"));
            let outcome = host.ensure_well(&wanted(Mode::Iptables));
            assert!(outcome.drift, "{flush}: {outcome:?}");
            assert_stands(&host, variant);
            assert_at_rest(&mut host, Mode::Iptables);
        }
    }
}

#[test]
fn other_ranges_take_the_place_of_the_old_ones_and_no_look_sees_neither() {
    for variant in Variant::ALL {
        let mut host = Host::of_variant(variant);
        host.ensure_well(&wanted(Mode::Iptables));
        let moved = |index: u8| {
            let mut moved = wanted(Mode::Iptables);
            moved.ranges.v4.as_mut().unwrap().subnet = format!("10.42.{index}.0/24").parse().unwrap();
            moved
        };
        let observer = host.observe(&format!("iptables-{variant}-save -t nat"), "MASQUERADE");
        for index in 10..40 {
            host.ensure_well(&moved(index));
        }
        let rules = observer.counts();
        assert!(rules.len() > 20 && rules.iter().all(|count| *count == 2), "{rules:?}");
        let stands = ours(&host, variant, "", "nat");
        assert!(stands.iter().any(|line| line.contains("10.42.39.0/24")), "{stands:?}");
        assert!(!stands.iter().any(|line| line.contains("10.42.38.0/24")), "{stands:?}");
    }
}
