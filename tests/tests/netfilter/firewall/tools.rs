//! Which variant of iptables is used, and what happens where tools are missing.

use ovl_agent::family::ByFamily;
use ovl_agent::firewall::{Firewall, Mode, Outcome, Wanted, bridge_warning};
use ovl_tests::command::Cmd;

use super::host::{Host, Variant, block_on, faults_of_children, wanted};
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
    host.sh("iptables-legacy -t mangle -X KUBE-IPTABLES-HINT");
    host.ensure_well(&wanted(Mode::Iptables));
    assert_stands(&host, Variant::Legacy);
    host.sh("iptables-nft -t mangle -N KUBE-IPTABLES-HINT");
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

/// One look on `host` while /usr/sbin holds only what `script` put into the directory it runs in.
fn ensure_with(host: &Host, script: &str, wanted: &Wanted) -> Outcome {
    inside_with(host, script, || block_on(Firewall::new("flannel.1").ensure(wanted)))
}

/// Does `work` on a thread that sees such a /usr/sbin.
pub(crate) fn inside_with<T: Send>(host: &Host, script: &str, work: impl FnOnce() -> T + Send) -> T {
    let sbin = tempfile::tempdir().unwrap();
    Cmd::host("sh").args(["-e", "-c", "cd \"$0\"; eval \"$1\""]).arg(sbin.path()).arg(script).run().unwrap();
    host.inside(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        Cmd::host("mount").words("--make-rprivate /").run().unwrap();
        Cmd::host("mount").arg("--bind").arg(sbin.path()).arg("/usr/sbin").run().unwrap();
        work()
    })
}

const NFT: &str = "cp /usr/sbin/nft .";
const IPTABLES: &str = "cp -P /usr/sbin/iptables* /usr/sbin/xtables* .";
const BOTH_IPTABLES: &str = "cp -P /usr/sbin/iptables* /usr/sbin/ip6tables* /usr/sbin/xtables* .";

/// An nft that refuses what it does not know.
const OLD_NFT: &str = r#"
    cp /usr/sbin/nft new-nft
    printf '#!/bin/sh\ninput=$(cat); case $input in *fully-random*) echo no such thing >&2; exit 1;; esac
        echo "$input" | new-nft "$@"' > nft
    chmod +x nft"#;

/// An nft that notes that it wrote, and after which somebody does `then`.
fn nft_and(then: &str) -> String {
    format!(
        r#"
    cp /usr/sbin/nft real-nft
    cat > nft << 'END'
#!/bin/sh
real-nft "$@" || exit 1
if [ "$1" = -f ]; then echo >> /usr/sbin/writes; {then}; fi
END
    chmod +x nft"#
    )
}

/// How often it wrote.
fn writes() -> usize {
    std::fs::read_to_string("/usr/sbin/writes").unwrap().lines().count()
}

/// Tools of both variants that note how they are called, one line a process.
const NOTED: &str = r#"
    cp /usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi .
    cp /usr/sbin/nft real-nft
    printf '#!/bin/sh\necho nft "$@" >> /usr/sbin/called; exec real-nft "$@"' > nft
    for name in iptables ip6tables; do
        for variant in "" -nft -legacy; do
            for does in "" -save -restore; do
                printf '#!/bin/sh\necho %s "$@" >> /usr/sbin/called; exec xtables-%s-multi %s "$@"' \
                    $name$variant$does $(test "$variant" = -legacy && echo legacy || echo nft) $name$does \
                    > $name$variant$does
            done
        done
    done
    chmod +x nft ip*"#;

/// iptables from before there were variants, which knows no option to wait.
const OLD_IPTABLES: &str = r#"
    cp /usr/sbin/xtables-legacy-multi .
    for six in "" 6; do
        printf '#!/bin/sh\n[ "$1" = -V ] && echo iptables v1.6.1' > ip${six}tables
        printf '#!/bin/sh\n[ "$*" = --noflush ] && exec xtables-legacy-multi ip'$six'tables-restore "$@"' > ip${six}tables-restore
        printf '#!/bin/sh\nexec xtables-legacy-multi ip'$six'tables-save "$@"' > ip${six}tables-save
    done
    chmod +x ip*"#;

#[test]
fn a_mode_needs_only_its_own_tools() {
    let outcome = ensure_with(&Host::new(), NFT, &wanted(Mode::Nftables));
    assert!(outcome.errors.is_empty() && outcome.changes.len() == 1, "{outcome:?}");
    // What flannel's other mode left takes nft to remove.
    for left in ["true", "nft add table ip flannel-ipv4"] {
        let host = Host::new();
        host.sh(left);
        let outcome = ensure_with(&host, BOTH_IPTABLES, &wanted(Mode::Iptables));
        assert!(outcome.errors.is_empty() && outcome.changes.len() == 4, "{left}: {outcome:?}");
    }
    let both = wanted(Mode::Iptables);
    let only_v4 = Wanted { ranges: ByFamily { v6: None, ..both.ranges }, ..both };
    let outcome = ensure_with(&Host::new(), IPTABLES, &only_v4);
    assert!(outcome.errors.is_empty() && outcome.changes.len() == 2, "{outcome:?}");
}

#[test]
fn a_start_starts_only_processes_that_it_needs() {
    let both = wanted(Mode::Iptables);
    let only_v4 = Wanted { ranges: ByFamily { v6: None, ..both.ranges }, ..both };
    let host = Host::new();
    let started = || {
        inside_with(&host, NOTED, || {
            let outcome = block_on(Firewall::new("flannel.1").ensure(&only_v4));
            assert_eq!(outcome.errors, [""; 0], "{outcome:?}");
            let called = std::fs::read_to_string("/usr/sbin/called").unwrap();
            let mut called: Vec<_> = called.lines().map(str::to_owned).collect();
            // Families are looked at at the same time.
            called.sort();
            called
        })
    };
    // Once more after the writing; of IPv6 something could have been left.
    let first = [
        "ip6tables -V",
        "ip6tables-save",
        "iptables -V",
        "iptables-restore --noflush --wait=5",
        "iptables-restore --noflush --wait=5",
        "iptables-save",
        "iptables-save",
    ];
    assert_eq!(started(), first);
    let again = ["ip6tables -V", "ip6tables-save", "iptables -V", "iptables-save"];
    assert_eq!(started(), again);
    // Somebody has legacy rules.
    host.sh("iptables-legacy -A FORWARD -i eth9 -j DROP");
    let called = started();
    assert!(called.contains(&"iptables-legacy-save".to_owned()), "{called:?}");
    // Both families' rules go into one variant.
    assert!(called.contains(&"ip6tables-legacy -V".to_owned()), "{called:?}");
}

#[test]
fn a_missing_tool_is_named_and_holds_up_no_other() {
    let outcome = ensure_with(&Host::new(), IPTABLES, &wanted(Mode::Iptables));
    assert_eq!(outcome.changes.len(), 2, "{outcome:?}");
    assert!(outcome.errors.len() == 1 && outcome.errors[0].contains("need ip6tables, which"), "{outcome:?}");
    let outcome = ensure_with(&Host::new(), IPTABLES, &wanted(Mode::Nftables));
    assert!(outcome.errors.len() == 1 && outcome.errors[0].contains("nft is not installed"), "{outcome:?}");
    // The rules of one family in one variant and those of the other in the other would be of no use.
    let host = Host::of_variant(Variant::Legacy);
    let outcome =
        ensure_with(&host, &format!("{BOTH_IPTABLES}; rm ip6tables-legacy*"), &wanted(Mode::Iptables));
    assert_eq!(outcome.changes.len(), 2, "{outcome:?}");
    assert!(
        outcome.errors.len() == 1 && outcome.errors[0].contains("install ip6tables-legacy"),
        "{outcome:?}"
    );
}

#[test]
fn an_error_is_told_again_and_again_but_not_tried_before_something_changes() {
    let host = Host::new();
    inside_with(&host, &format!("{NFT}; {IPTABLES}"), || {
        let mut firewall = Firewall::new("flannel.1");
        let mut ensure = |wanted: &Wanted| block_on(firewall.ensure(wanted));
        let both = wanted(Mode::Iptables);
        let errors = ensure(&both).errors;
        assert!(errors.len() == 1 && errors[0].contains("need ip6tables, which"), "{errors:?}");
        let again = || Outcome { errors: errors.clone(), ..Outcome::default() };

        let faults = faults_of_children();
        assert_eq!(ensure(&both), again());
        assert_eq!(faults_of_children(), faults, "a look at rest starts no process");
        Cmd::host("nft").words("add table inet foreign").run().unwrap();
        let faults = faults_of_children();
        assert_eq!(ensure(&both), again());
        assert_eq!(faults_of_children(), faults, "others' rules are none of its business");

        Cmd::host("iptables").words("-F FLANNEL-FWD").run().unwrap();
        let mended = ensure(&both);
        assert_eq!((mended.changes.len(), &mended.errors), (1, &errors), "{mended:?}");
        assert_eq!(ensure(&both), again());

        let link = "for end in '' -save -restore; do ln -s xtables-nft-multi /usr/sbin/ip6tables$end; done";
        Cmd::host("sh").args(["-c", link]).run().unwrap();
        assert_eq!(ensure(&both), again(), "it is not looked for all the time");
        let outcome = ensure(&Wanted { forward: false, ..both });
        assert!(outcome.errors.is_empty() && outcome.changes.len() == 2, "{outcome:?}");
    });
}

#[test]
fn a_table_is_learned_while_others_write_theirs_all_the_time() {
    let others = "real-nft add table inet others; real-nft delete table inet others";
    let intruder =
        "[ $(wc -l < /usr/sbin/writes) != 1 ] || real-nft insert rule inet ovl-flannel.1 forward drop";
    // How many changes, and how many writes it takes to be certain.
    for (then, changes, expected) in [(others.to_owned(), 1, 2), (format!("{others}; {intruder}"), 2, 3)] {
        let host = Host::new();
        inside_with(&host, &nft_and(&then), || {
            let mut firewall = Firewall::new("flannel.1");
            let mut ensure = || block_on(firewall.ensure(&wanted(Mode::Nftables)));
            let outcome = ensure();
            assert_eq!((writes(), &outcome.errors), (expected, &vec![]), "{outcome:?}");
            assert_eq!(outcome.changes.len(), changes, "{outcome:?}");
            let table = || Cmd::host("real-nft").words("list table inet ovl-flannel.1").run().unwrap();
            let whole = table();
            assert!(whole.contains("masquerade") && !whole.contains("drop"), "{whole}");
            assert_eq!((ensure(), writes()), (Outcome::default(), expected));

            Cmd::host("real-nft").words("flush table inet ovl-flannel.1").run().unwrap();
            assert!(ensure().drift);
            assert_eq!((table(), writes()), (whole, expected + 1), "what was learned is known");
        });
    }
}

#[test]
fn old_tools_get_what_they_know() {
    let host = Host::new();
    let outcome = ensure_with(&host, OLD_NFT, &wanted(Mode::Nftables));
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    let rules = host.sh("nft list table inet ovl-flannel.1");
    assert!(rules.contains("daddr != 224.0.0.0/4 masquerade\n"), "{rules}");

    let host = Host::new();
    let outcome = ensure_with(&host, OLD_IPTABLES, &wanted(Mode::Iptables));
    assert!(outcome.errors.is_empty() && outcome.changes.len() == 4, "{outcome:?}");
    let rules = host.table(Variant::Legacy, "", "nat");
    assert!(rules.iter().any(|rule| rule.ends_with("-j MASQUERADE")), "{rules:?}");
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
