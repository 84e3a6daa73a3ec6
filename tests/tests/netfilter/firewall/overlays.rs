//! Two overlays in one network namespace.

use nix::sys::signal::Signal;
use ovl_agent::firewall::{Firewall, Mode, Outcome, Wanted};
use ovl_tests::background::Background;
use ovl_tests::wait::wait_for;

use super::host::{Host, Variant, block_on, wanted};
use super::iptables::{expected, ours};
use crate::SOON;

fn second(mode: Mode) -> Wanted {
    let mut wanted = wanted(mode);
    let range = wanted.ranges.v4.as_mut().unwrap();
    range.network = "10.77.0.0/16".parse().unwrap();
    range.subnet = "10.77.3.0/24".parse().unwrap();
    wanted
}

struct Two {
    host: Host,
    agents: [Option<Firewall>; 2],
}

impl Two {
    fn new() -> Self {
        Self { host: Host::new(), agents: [None, None] }
    }

    /// The next look of an agent, which is started where it does not run.
    fn ensure(&mut self, agent: usize, mode: Mode) -> Outcome {
        let firewall = self.agents[agent].take();
        let (firewall, outcome) = self.host.inside(|| {
            let (name, wanted) = [("flannel.1", wanted(mode)), ("flannel.7", second(mode))][agent].clone();
            let mut firewall = firewall.unwrap_or_else(|| Firewall::new(name));
            let outcome = block_on(firewall.ensure(&wanted));
            (firewall, outcome)
        });
        assert_eq!(outcome.errors, [""; 0]);
        self.agents[agent] = Some(firewall);
        outcome
    }

    /// Each looks, until neither finds anything to mend.
    fn assert_peace(&mut self, mode: Mode) {
        for agent in [0, 1, 0, 1] {
            assert_eq!(self.ensure(agent, mode).changes, [], "agent {agent}");
        }
    }
}

#[test]
fn in_iptables_the_second_has_chains_of_its_own() {
    let mut two = Two::new();
    two.ensure(0, Mode::Iptables);
    let first = ours(&two.host, Variant::Nft, "", "nat");
    two.ensure(1, Mode::Iptables);
    two.assert_peace(Mode::Iptables);
    let both = ours(&two.host, Variant::Nft, "", "nat");
    let of_second: Vec<String> = expected("", "nat")
        .iter()
        .filter(|line| !line.contains("OVL"))
        .map(|line| {
            let line = line.replace("10.42.7.0", "10.77.3.0").replace("10.42.0.0", "10.77.0.0");
            line.replace("FLANNEL-POSTRTG", "FLANNEL-POSTRTG-flannel.7")
        })
        .collect();
    let (tagged, plain): (Vec<_>, Vec<_>) = both.into_iter().partition(|line| line.contains("flannel.7"));
    assert_eq!(plain, first);
    assert_eq!(tagged, of_second);

    // Both are started again, in the other order: each finds its rules where it left them.
    two.agents = [None, None];
    assert_eq!(two.ensure(1, Mode::Iptables).changes, []);
    assert_eq!(two.ensure(0, Mode::Iptables).changes, []);
    two.assert_peace(Mode::Iptables);

    // One goes for good.
    two.agents[1] = None;
    two.host.remove_all(false);
    assert_eq!(ours(&two.host, Variant::Nft, "", "nat"), first);
    assert_eq!(two.ensure(0, Mode::Iptables).changes, []);
}

#[test]
fn in_nftables_each_has_its_table() {
    let mut two = Two::new();
    two.ensure(0, Mode::Nftables);
    two.ensure(1, Mode::Nftables);
    two.assert_peace(Mode::Nftables);
    assert_eq!(two.host.sh("nft list tables"), "table inet ovl-flannel.1\ntable inet ovl-flannel.7\n");
    two.agents[0] = None;
    two.host.remove_all(true);
    assert_eq!(two.host.sh("nft list tables"), "table inet ovl-flannel.7\n");
    two.ensure(1, Mode::Iptables);
    assert!(!two.host.sh("nft list tables").contains("ovl"));
}

#[test]
fn beside_a_flanneld_of_another_network_the_chains_are_our_own() {
    let mut two = Two::new();
    let theirs = "-s 10.88.0.0/16 ! -d 224.0.0.0/4 -m comment --comment 'flanneld masq' -j MASQUERADE";
    two.host.sh(&format!(
        "iptables -t nat -N FLANNEL-POSTRTG
         iptables -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG
         iptables -t nat -A FLANNEL-POSTRTG {theirs}"
    ));
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("flanneld");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut flanneld =
        Background::start_unnamed(&two.host.command(program.to_str().unwrap()).arg("infinity")).unwrap();
    let comm = format!("/proc/{}/comm", flanneld.pid().unwrap());
    wait_for("flanneld to run", SOON, || Ok(std::fs::read_to_string(&comm)?.trim() == "flanneld")).unwrap();

    two.ensure(0, Mode::Iptables);
    let nat = two.host.table(Variant::Nft, "", "nat");
    assert!(nat.iter().any(|line| line.starts_with("-A FLANNEL-POSTRTG -s 10.88.0.0/16")), "{nat:#?}");
    assert!(nat.iter().any(|line| line.starts_with("-A FLANNEL-POSTRTG-flannel.1 -s 10.42")), "{nat:#?}");
    assert_eq!(two.ensure(0, Mode::Iptables).changes, []);
    flanneld.stop(Signal::SIGKILL, SOON).unwrap();
    assert_eq!(two.ensure(0, Mode::Iptables).changes, [], "also without it");
}
