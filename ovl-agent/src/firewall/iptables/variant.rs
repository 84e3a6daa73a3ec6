//! Which variant of iptables the rest of the host uses.
//!
//! An ACCEPT in one variant does not overrule a DROP in the other, and a container's `iptables` need not be the
//! host's. Docker's policy, kube-proxy's rules and ours have to be in one place.

use std::collections::BTreeMap;

use super::save::Table;
use super::tools::Variant;

/// Chains that the kubelet makes to be found by tools in containers.
pub(super) const KUBELETS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// What others have in a variant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Whether the kubelet uses it.
    pub(super) kubelet: bool,
    /// Rules and policies that are neither ours nor flannel's.
    pub(super) rules: usize,
}

impl Census {
    /// Adds what stands in `tables`.
    pub(super) fn count(&mut self, tables: &BTreeMap<&str, Table<'_>>) {
        let chains = tables.values().flat_map(Table::chains);
        for (chain, rules) in chains.filter(|(chain, _)| !chain.starts_with("FLANNEL-")) {
            self.kubelet |= KUBELETS.contains(&chain);
            let others =
                rules.iter().filter(|rule| !rule.contains("FLANNEL-") && !rule.contains("\"flanneld "));
            self.rules += others.count();
        }
    }
}

/// The variant to use, of those that are installed: as the wrapper of the Kubernetes images chooses, but once chosen
/// only left where the others are elsewhere.
pub(super) fn choose(current: Option<Variant>, default: Variant, nft: Census, legacy: Census) -> Variant {
    if nft.kubelet != legacy.kubelet {
        return if nft.kubelet { Variant::Nft } else { Variant::Legacy };
    }
    match (current, nft.rules, legacy.rules) {
        (Some(Variant::Nft), 0, 1..) => Variant::Legacy,
        (Some(Variant::Legacy), 1.., 0) => Variant::Nft,
        (Some(current), ..) => current,
        (None, nft, legacy) if nft > legacy => Variant::Nft,
        (None, nft, legacy) if nft < legacy => Variant::Legacy,
        (None, ..) => default,
    }
}

#[cfg(test)]
mod tests {
    use super::super::save::parse;
    use super::*;

    #[test]
    fn the_choice() {
        use Variant::{Legacy, Nft};
        let rules = |rules| Census { kubelet: false, rules };
        let kubelet = |rules| Census { kubelet: true, rules };
        let rows = [
            // The kubelet knows, whatever else there is.
            (None, Nft, rules(9), kubelet(0), Legacy),
            (None, Legacy, kubelet(0), rules(9), Nft),
            (Some(Legacy), Legacy, kubelet(0), rules(9), Nft),
            // Else the many.
            (None, Nft, rules(2), rules(3), Legacy),
            (None, Legacy, rules(3), rules(2), Nft),
            (None, Legacy, kubelet(3), kubelet(2), Nft),
            // Else what the host calls iptables.
            (None, Nft, rules(0), rules(0), Nft),
            (None, Legacy, rules(2), rules(2), Legacy),
            // No swinging to and fro.
            (Some(Nft), Nft, rules(2), rules(30), Nft),
            (Some(Legacy), Nft, rules(2), rules(1), Legacy),
            (Some(Legacy), Nft, rules(0), rules(0), Legacy),
            (Some(Nft), Nft, rules(0), rules(1), Legacy),
            (Some(Legacy), Nft, rules(1), rules(0), Nft),
        ];
        for (current, default, nft, legacy, expected) in rows {
            assert_eq!(
                choose(current, default, nft, legacy),
                expected,
                "{current:?} {default:?} {nft:?} {legacy:?}"
            );
        }
    }

    #[test]
    fn our_own_rules_do_not_count() {
        let ours = "*filter\n:FORWARD DROP [0:0]\n:FLANNEL-FWD - [0:0]\n:OVL-AGENT - [0:0]\n\
                    -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n\
                    -A FORWARD -s 10.0.0.0/8 -m comment --comment \"flanneld forward\" -j ACCEPT\n\
                    -A FLANNEL-FWD -s 10.0.0.0/8 -m comment --comment \"flanneld forward\" -j ACCEPT\n";
        let mut census = Census::default();
        census.count(&parse(ours));
        assert_eq!(census, Census { kubelet: false, rules: 0 });
        census.count(&parse("*mangle\n:KUBE-IPTABLES-HINT - [0:0]\n*nat\n-A DOCKER -i docker0 -j RETURN\n"));
        assert_eq!(census, Census { kubelet: true, rules: 1 });
    }
}
