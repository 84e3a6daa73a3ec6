//! Which variant of iptables is used, and what happens where tools are missing.

use ovl_agent::family::ByFamily;
use ovl_agent::firewall::{Firewall, Mode, Outcome, Wanted, bridge_warning};
use ovl_tests::command::Cmd;

use super::host::{Host, Variant, block_on, wanted};
use super::iptables::assert_stands;

#[test]
fn the_rules_follow_the_hosts_to_the_other_variant() {
    let mut host = Host::new();
    host.ensure_well(&wanted(Mode::Iptables));
    assert_stands(&host, Variant::Nft);
    // The kubelet starts later, with the other variant.
    host.sh("iptables-legacy -t mangle -N KUBE-IPTABLES-HINT");
    host.ensure_well(&wanted(Mode::Iptables));
    assert_stands(&host, Variant::Legacy);
    host.sh("iptables-nft -t mangle -N KUBE-IPTABLES-HINT; iptables-legacy -t mangle -X KUBE-IPTABLES-HINT");
    host.ensure_well(&wanted(Mode::Iptables));
    assert_stands(&host, Variant::Nft);
}

#[test]
fn looking_makes_no_legacy_tables() {
    let mut host = Host::new();
    host.ensure_well(&wanted(Mode::Iptables));
    host.ensure_well(&wanted(Mode::Nftables));
    host.remove_all(true);
    assert_eq!(host.sh("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names"), "");
}

/// One look on a host that has only those programs in /usr/sbin which match the shell pattern `programs`.
fn ensure_with(programs: &str, wanted: &Wanted) -> Outcome {
    let host = Host::new();
    let sbin = tempfile::tempdir().unwrap();
    let copy = format!("cp -P {programs} {}", sbin.path().display());
    Cmd::host("sh").arg("-c").arg(format!("cd /usr/sbin && {copy}")).run().unwrap();
    host.inside(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        Cmd::host("mount").words("--make-rprivate /").run().unwrap();
        Cmd::host("mount").arg("--bind").arg(sbin.path()).arg("/usr/sbin").run().unwrap();
        block_on(Firewall::new("flannel.1").ensure(wanted))
    })
}

#[test]
fn a_mode_needs_only_its_own_tools() {
    let outcome = ensure_with("nft", &wanted(Mode::Nftables));
    assert!(outcome.errors.is_empty() && outcome.changes.len() == 1, "{outcome:?}");
    let outcome = ensure_with("iptables* xtables* ip6tables*", &wanted(Mode::Iptables));
    assert!(outcome.errors.is_empty() && outcome.changes.len() == 4, "{outcome:?}");
    let both = wanted(Mode::Iptables);
    let only_v4 = Wanted { ranges: ByFamily { v6: None, ..both.ranges }, ..both };
    let outcome = ensure_with("iptables* xtables*", &only_v4);
    assert!(outcome.errors.is_empty() && outcome.changes.len() == 2, "{outcome:?}");
}

#[test]
fn a_missing_tool_is_named_and_holds_up_no_other() {
    let outcome = ensure_with("iptables* xtables*", &wanted(Mode::Iptables));
    assert_eq!(outcome.changes.len(), 2, "{outcome:?}");
    assert!(
        outcome.errors.len() == 1 && outcome.errors[0].contains("ip6tables, which is not installed"),
        "{outcome:?}"
    );
    let outcome = ensure_with("iptables* xtables*", &wanted(Mode::Nftables));
    assert!(outcome.errors.len() == 1 && outcome.errors[0].contains("nft is not installed"), "{outcome:?}");
}

#[test]
fn bridges_that_pass_the_rules_by_are_reported() {
    let host = Host::new();
    host.inside(|| {
        let sysctl = |value: u8| {
            Cmd::host("sysctl")
                .words(&format!("-q -w net.bridge.bridge-nf-call-iptables={value}"))
                .run()
                .unwrap();
        };
        sysctl(1);
        assert_eq!(bridge_warning(&wanted(Mode::Iptables)), None);
        sysctl(0);
        let warning = bridge_warning(&wanted(Mode::Iptables)).unwrap();
        assert!(warning.contains("net.bridge.bridge-nf-call-iptables is not 1"), "{warning}");
        assert_eq!(bridge_warning(&wanted(Mode::Nftables)), None);
    });
}
