//! The firewall rules in the kernel, in both modes, both families and both variants of iptables, judged with
//! `iptables-save` and `nft`.

pub(crate) mod host;
mod iptables;
mod leftovers;
mod nftables;
mod overlays;
mod position;
pub(crate) mod tools;

use ovl_agent::firewall::{Mode, Outcome};

use host::{Host, Variant, faults_of_children, wanted};

/// A further look changes nothing and starts nothing.
fn assert_at_rest(host: &mut Host, mode: Mode) {
    let before = host.everything();
    let faults = faults_of_children();
    assert_eq!(host.ensure(&wanted(mode)), Outcome::default());
    assert_eq!(faults_of_children(), faults, "a look at rest starts no process");
    assert_eq!(host.everything(), before);
}

/// Does each damage to a host that is as it should be, and expects one look to mend it.
fn assert_mended(host: &mut Host, mode: Mode, damages: &[String]) {
    host.ensure_well(&wanted(mode));
    let whole = host.everything();
    for damage in damages {
        host.sh(damage);
        assert_ne!(host.everything(), whole, "`{damage}` does damage");
        let outcome = host.ensure_well(&wanted(mode));
        assert!(outcome.drift && !outcome.changes.is_empty(), "`{damage}`: {outcome:?}");
        assert_eq!(host.everything(), whole, "after `{damage}`: {outcome:?}");
        assert_at_rest(host, mode);
    }
}

#[test]
fn the_mode_can_be_switched_to_and_fro() {
    for variant in Variant::ALL {
        let mut host = Host::of_variant(variant);
        let foreign = host.everything();
        host.ensure_well(&wanted(Mode::Iptables));
        let in_iptables = host.everything();
        let outcome = host.ensure_well(&wanted(Mode::Nftables));
        assert!(!outcome.drift && outcome.changes.len() == 5, "{outcome:?}");
        assert_eq!(nftables::without_our_table(&host), foreign, "{variant}");
        assert_at_rest(&mut host, Mode::Nftables);
        host.ensure_well(&wanted(Mode::Iptables));
        assert_eq!(host.everything(), in_iptables, "{variant}");
        // An agent that was told while it did not run.
        host.end_agent();
        host.ensure_well(&wanted(Mode::Nftables));
        assert_eq!(nftables::without_our_table(&host), foreign, "{variant}");
    }
}
