//! The table: what stands, who mends it, who removes it.

use std::time::{Duration, Instant};

use ovl_agent::family::ByFamily;
use ovl_agent::firewall::{Marking, Mode, Outcome, Verification};
use ovl_tests::artifacts;

use super::{ensure, ensure_well, marking};
use crate::firewall::host::{Host, block_on, faults_of_children, wanted};
use crate::firewall::tools::inside_with;

/// As nft 1.0 prints it.
const TABLE: &str = "\
table inet ovl-verify/flannel.1 {
	chain verify {
		ct state established ct status ! expected,snat,dnat,0x40,dying,0x2000 meta mark set meta mark | 0x08000000 return
		meta mark & 0x08000000 != 0x00000000 meta mark set meta mark & 0xf7ffffff
	}

	chain forward {
		type filter hook forward priority 2000000000; policy accept;
		ip saddr 10.42.0.0/16 ip daddr 10.42.0.0/16 goto verify
		ip6 saddr fd42::/48 ip6 daddr fd42::/48 goto verify
	}
}
";
const NAME: &str = "inet ovl-verify/flannel.1";

fn new_in(host: &Host) -> Verification {
    host.inside(|| Verification::new("flannel.1"))
}

fn ensure_in(host: &Host, verification: &mut Verification, wanted: &Marking) -> Outcome {
    host.inside(|| ensure_well(verification, wanted))
}

fn cleanup(host: &Host, args: &str) -> String {
    let files = tempfile::tempdir().unwrap();
    let command =
        host.command(artifacts::agent_binary().unwrap().to_str().unwrap()).arg("cleanup").words(args);
    let command = command.arg("--subnet-file").arg(files.path().join("subnet.env"));
    command.arg("--socket").arg(files.path().join("agent.sock")).run().unwrap()
}

#[test]
fn it_stands_and_a_further_look_costs_next_to_nothing() {
    let host = Host::new();
    let mut verification = new_in(&host);
    let outcome = ensure_in(&host, &mut verification, &marking());
    assert_eq!(outcome.changes[0].to_string(), format!("table {NAME}: was missing"));
    assert_eq!(host.sh("nft list ruleset"), TABLE);
    for others in ["true", "nft add table inet foreign", "iptables -A FORWARD -j ACCEPT"] {
        host.sh(others);
        let faults = faults_of_children();
        assert_eq!(ensure_in(&host, &mut verification, &marking()), Outcome::default(), "after {others}");
        assert_eq!(faults_of_children(), faults, "no process after {others}");
    }
    let looks = 1000u32;
    let each = host.inside(|| {
        let start = Instant::now();
        (0..looks).for_each(|_| _ = ensure(&mut verification, &marking()));
        start.elapsed() / looks
    });
    println!("a look at rest takes {each:?}");
    assert!(each < Duration::from_millis(5), "{each:?}");

    let only_v6 = Marking { bit: 1, networks: ByFamily { v4: None, ..marking().networks } };
    assert!(!ensure_in(&host, &mut verification, &only_v6).drift);
    let stands = host.sh(&format!("nft list table {NAME}"));
    assert!(!stands.contains("ip saddr") && stands.contains("meta mark | 0x00000001"), "{stands}");
    let nothing = Marking { networks: ByFamily::default(), ..marking() };
    assert_eq!(ensure_in(&host, &mut verification, &nothing).changes.len(), 1);
    assert!(!host.sh("nft list tables").contains("ovl"));
    assert_eq!(ensure_in(&host, &mut verification, &nothing), Outcome::default());
}

#[test]
fn whatever_is_done_to_it_is_mended() {
    let host = Host::new();
    let mut verification = new_in(&host);
    ensure_in(&host, &mut verification, &marking());
    let rule = |chain: &str, index: usize| {
        format!("nft -a list chain {NAME} {chain} | grep -o 'handle [0-9]*$' | sed -n '{index}p'")
    };
    for damage in [
        format!("nft delete table {NAME}"),
        format!("nft flush table {NAME}"),
        format!("nft flush chain {NAME} forward"),
        format!("nft delete rule {NAME} verify $({})", rule("verify", 2)),
        format!("nft insert rule {NAME} verify accept"),
        format!("nft replace rule {NAME} verify $({}) meta mark set 1", rule("verify", 3)),
        format!("nft chain {NAME} forward '{{ policy drop; }}'"),
        format!("nft add table {NAME} '{{ flags dormant; }}'"),
        format!("nft add chain {NAME} other"),
        "nft flush ruleset".to_owned(),
    ] {
        host.sh(&damage);
        assert_ne!(host.sh("nft list ruleset"), TABLE, "`{damage}` does damage");
        let outcome = ensure_in(&host, &mut verification, &marking());
        assert!(outcome.drift && outcome.changes.len() == 1, "`{damage}`: {outcome:?}");
        assert_eq!(host.sh("nft list ruleset"), TABLE, "after `{damage}`");
        assert_eq!(ensure_in(&host, &mut verification, &marking()), Outcome::default(), "after `{damage}`");
    }
}

#[test]
fn it_is_replaced_without_a_gap() {
    let host = Host::new();
    let mut verification = new_in(&host);
    ensure_in(&host, &mut verification, &marking());
    let observer = host.observe(&format!("nft list table {NAME}"), "goto");
    for bit in 0..30 {
        ensure_in(&host, &mut verification, &Marking { bit: 1 << bit, ..marking() });
    }
    let rules = observer.counts();
    assert!(rules.len() > 20 && rules.iter().all(|count| *count == 2), "{rules:?}");
}

#[test]
fn it_goes_when_it_is_not_wanted_and_nothing_else_does() {
    let mut host = Host::new();
    host.ensure_well(&wanted(Mode::Nftables));
    let without = host.sh("nft list ruleset");
    let mut verification = new_in(&host);
    let remove = |verification: &mut Verification| host.inside(|| block_on(verification.remove()));
    let faults = faults_of_children();
    assert_eq!(remove(&mut verification), Outcome::default());
    assert_eq!(faults_of_children(), faults, "nothing to remove takes no process");
    for _ in 0..2 {
        ensure_in(&host, &mut verification, &marking());
        let outcome = remove(&mut verification);
        assert!(outcome.errors.is_empty() && outcome.changes.len() == 1, "{outcome:?}");
        assert_eq!(host.sh("nft list ruleset"), without);
    }
    // That of an agent that ran before.
    ensure_in(&host, &mut verification, &marking());
    let mut verification = new_in(&host);
    assert_eq!(remove(&mut verification).changes.len(), 1);
    assert_eq!(host.sh("nft list ruleset"), without);
}

#[test]
fn cleanup_takes_what_no_agent_uses() {
    let host = Host::new();
    let mut first = new_in(&host);
    let mut second = host.inside(|| Verification::new("flannel.7"));
    ensure_in(&host, &mut first, &marking());
    ensure_in(&host, &mut second, &marking());
    let tables = || host.sh("nft list tables");
    for _ in 0..2 {
        assert_eq!(ensure_in(&host, &mut first, &marking()), Outcome::default());
        assert_eq!(ensure_in(&host, &mut second, &marking()), Outcome::default());
    }
    assert_eq!(tables(), "table inet ovl-verify/flannel.1\ntable inet ovl-verify/flannel.7\n");

    drop(second);
    let planned = cleanup(&host, "--dry-run");
    assert_eq!(
        planned,
        "would remove the firewall rules in table inet ovl-verify/flannel.1\n\
         would remove the firewall rules in table inet ovl-verify/flannel.7\n",
        "a dry run tells what would go once the agents are stopped"
    );
    assert_eq!(
        cleanup(&host, ""),
        "removed the firewall rules in table inet ovl-verify/flannel.7\n\
         the lease in the store is left to expire\n",
        "the first agent's are in use"
    );
    assert_eq!(tables(), "table inet ovl-verify/flannel.1\n");
    assert_eq!(ensure_in(&host, &mut first, &marking()), Outcome::default());
    drop(first);
    cleanup(&host, "");
    assert_eq!(tables(), "");
    assert_eq!(cleanup(&host, ""), "nothing to remove\n");
}

#[test]
fn beside_an_overlay_of_a_similar_name_it_has_its_own() {
    let mut host = Host::new();
    let mut verification = host.inside(|| Verification::new("x"));
    ensure_in(&host, &mut verification, &marking());
    host.inside(|| {
        for overlay in ["verify-x", "verify/x"] {
            let mut firewall = ovl_agent::firewall::Firewall::new(overlay);
            assert_eq!(block_on(firewall.ensure(&wanted(Mode::Nftables))).errors, [""; 0]);
        }
    });
    host.ensure_well(&wanted(Mode::Iptables));
    assert_eq!(ensure_in(&host, &mut verification, &marking()), Outcome::default());
}

#[test]
fn without_nft_the_error_says_what_that_means() {
    let host = Host::new();
    inside_with(&host, "true", || {
        let mut verification = Verification::new("flannel.1");
        let outcome = ensure(&mut verification, &marking());
        assert_eq!(outcome.changes, []);
        let [error] = &outcome.errors[..] else { panic!("{outcome:?}") };
        for part in
            ["the fast path stays unused", "nft is not installed; install nftables", "--fast-path always"]
        {
            assert!(error.contains(part), "{error}");
        }
        let again = ensure(&mut verification, &marking());
        assert_eq!(again.errors, outcome.errors, "told again");
        assert_eq!(block_on(verification.remove()), Outcome::default(), "there is nothing to remove");
    });
    // An nft or a kernel that refuses the rules.
    let script = "printf '#!/bin/sh\\necho Error: no such thing >&2; exit 1' > nft; chmod +x nft";
    inside_with(&host, script, || {
        let outcome = ensure(&mut Verification::new("flannel.1"), &marking());
        assert!(outcome.errors[0].contains("Error: no such thing"), "{outcome:?}");
    });
}
