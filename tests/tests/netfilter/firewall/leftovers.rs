//! What a flanneld that ran before left, and what `ovl-agent cleanup` takes away.

use ovl_agent::firewall::Mode;

use super::assert_at_rest;
use super::host::{Host, RANGES, Variant, wanted};
use super::iptables::{assert_stands, expected};
use super::nftables::without_our_table;

/// The rules as flanneld writes them, with another subnet.
fn flannel_in_iptables(host: &Host, variant: Variant) {
    for (six, (_, subnet)) in [("", RANGES[0]), ("6", RANGES[1])] {
        for table in ["nat", "filter"] {
            let mut lines = vec![format!("*{table}")];
            let rules = expected(six, table).into_iter().filter(|line| !line.contains("OVL"));
            lines.extend(rules.map(|line| {
                line.replace(subnet, if six.is_empty() { "10.42.9.0/24" } else { "fd77:0:0:9::/64" })
            }));
            lines.push("COMMIT\n".to_owned());
            let script = lines.join("\n");
            host.sh(&format!("ip{six}tables-{variant}-restore --noflush <<'END'\n{script}END"));
        }
    }
}

fn flannel_in_nftables(host: &Host) {
    for (table, ip, network) in
        [("ip flannel-ipv4", "ip", RANGES[0].0), ("ip6 flannel-ipv6", "ip6", RANGES[1].0)]
    {
        host.sh(&format!(
            "nft -f - <<'END'\ntable {table} {{\n comment \"rules for it\"\n chain postrtg {{\n \
             type nat hook postrouting priority srcnat;\n {ip} saddr {network} masquerade\n }}\n \
             chain forward {{\n type filter hook forward priority filter;\n {ip} saddr {network} accept\n }}\n}}\nEND"
        ));
    }
}

#[test]
fn flannels_rules_become_ours() {
    for variant in Variant::ALL {
        for flannels in [variant, variant.other()] {
            let mut host = Host::of_variant(variant);
            flannel_in_iptables(&host, flannels);
            flannel_in_nftables(&host);
            let outcome = host.ensure_well(&wanted(Mode::Iptables));
            assert_stands(&host, variant);
            assert!(!host.everything().contains("flannel-ipv"), "{outcome:?}");
            assert_at_rest(&mut host, Mode::Iptables);
        }
    }
}

#[test]
fn rules_of_a_flannel_without_chains_go() {
    let mut host = Host::of_variant(Variant::Nft);
    let foreign = "-A FORWARD -s 10.42.0.0/16 -m comment --comment \"not flanneld forward\" -j ACCEPT";
    host.sh(&format!("iptables {foreign}"));
    host.sh("iptables -A FORWARD -s 10.42.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT");
    host.sh(
        "iptables -t nat -A POSTROUTING -s 10.42.0.0/16 -m comment --comment 'flanneld masq' -j MASQUERADE",
    );
    host.ensure_well(&wanted(Mode::Iptables));
    let filter = host.table(Variant::Nft, "", "filter");
    assert!(filter.iter().any(|line| line == foreign), "{filter:?}");
    host.sh(&format!("iptables -D{}", &foreign[2..]));
    assert_stands(&host, Variant::Nft);
}

#[test]
fn nftables_mode_leaves_nothing_of_flannel() {
    for variant in Variant::ALL {
        let mut host = Host::of_variant(variant);
        let foreign = host.everything();
        flannel_in_iptables(&host, variant);
        flannel_in_iptables(&host, variant.other());
        flannel_in_nftables(&host);
        host.ensure_well(&wanted(Mode::Nftables));
        let left = without_our_table(&host);
        assert!(!left.to_lowercase().contains("flannel") && left.contains("eth9"), "{left}");
        if variant == Variant::Legacy {
            // nft shows the tables that the other variant now has, empty.
            continue;
        }
        assert_eq!(
            left.lines().filter(|line| line.contains("eth9")).count(),
            foreign.lines().filter(|line| line.contains("eth9")).count()
        );
    }
}

#[test]
fn cleanup_removes_ours_and_only_ours() {
    for variant in Variant::ALL {
        for mode in [Mode::Iptables, Mode::Nftables] {
            let mut host = Host::of_variant(variant);
            let foreign = host.everything();
            host.ensure_well(&wanted(mode));
            let with_ours = host.everything();
            assert_eq!(host.remove_all(true).changes, [], "of an agent that runs");
            assert_eq!(host.everything(), with_ours);
            host.end_agent();
            let outcome = host.remove_all(false);
            assert!(!outcome.changes.is_empty() && outcome.errors.is_empty(), "{outcome:?}");
            assert_eq!(host.everything(), foreign);

            host.ensure_well(&wanted(mode));
            let planned = host.remove_by_force(true).changes;
            assert_eq!(host.everything(), with_ours, "a dry run changes nothing");
            let outcome = host.remove_by_force(false);
            assert!(!planned.is_empty() && outcome.changes == planned, "{outcome:?}, {planned:?}");
            assert_eq!(host.everything(), foreign, "of an agent that runs, by force");
            host.ensure_well(&wanted(mode));
            assert_eq!(host.everything(), with_ours, "the agent makes them again");
        }
    }
}

#[test]
fn cleanup_removes_what_flannel_left_only_when_told() {
    for variant in Variant::ALL {
        let host = Host::of_variant(variant);
        let foreign = host.everything();
        flannel_in_iptables(&host, variant);
        flannel_in_nftables(&host);
        let with_flannel = host.everything();
        assert_eq!(host.remove_all(false).changes, []);
        assert_eq!(host.everything(), with_flannel);
        let outcome = host.remove_all(true);
        assert!(outcome.errors.is_empty(), "{outcome:?}");
        assert_eq!(host.everything(), foreign);
    }
}
