//! What the rules say, and how each tool writes it.
//!
//! One list for both modes, so that they can't differ: flannel's nftables mode got its fourth rule wrong, which made
//! the sixth unreachable.

use ipnet::IpNet;

use super::Range;
use crate::family::Family;

/// kube-proxy's mark for "masquerade this yourself".
const KUBE_MARK: &str = "0x4000";

/// A rule of one of our chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    marked: bool,
    source: Option<Side>,
    destination: Option<Side>,
    verdict: Verdict,
}

/// What an address is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    In(IpNet),
    NotIn(IpNet),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Return,
    Accept,
    Masquerade,
}

/// The masquerade rules, in flannel's order (`iptables.go`, masqRules).
pub(super) fn masquerade(range: &Range) -> Vec<Rule> {
    let Range { network, subnet } = *range;
    let rule = |source, destination, verdict| Rule { marked: false, source, destination, verdict };
    vec![
        // kube-proxy masquerades what it marked; a second translation would break pods that reach themselves.
        Rule { marked: true, source: None, destination: None, verdict: Verdict::Return },
        // Pod to pod keeps its addresses.
        rule(Some(Side::In(subnet)), Some(Side::In(network)), Verdict::Return),
        rule(Some(Side::In(network)), Some(Side::In(subnet)), Verdict::Return),
        // So do clients from outside that reach a pod of this node.
        rule(Some(Side::NotIn(network)), Some(Side::In(subnet)), Verdict::Return),
        // Pod to outside.
        rule(Some(Side::In(network)), Some(Side::NotIn(multicast(network))), Verdict::Masquerade),
        // Host, or outside through this node, to a pod of another node: the answer has to come back here.
        rule(Some(Side::NotIn(network)), Some(Side::In(network)), Verdict::Masquerade),
    ]
}

/// The rules that let the overlay through hosts that forward nothing by default, such as Docker's.
pub(super) fn forward(range: &Range) -> Vec<Rule> {
    let network = Some(Side::In(range.network));
    let rule = |source, destination| Rule { marked: false, source, destination, verdict: Verdict::Accept };
    vec![rule(network, None), rule(None, network)]
}

fn multicast(network: IpNet) -> IpNet {
    use std::net::{Ipv4Addr, Ipv6Addr};
    match Family::of_net(&network) {
        Family::V4 => IpNet::new_assert(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        Family::V6 => IpNet::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    }
}

impl Rule {
    /// As `iptables-save` prints it after `-A CHAIN`.
    pub(super) fn iptables(&self, comment: &str, random_fully: bool) -> String {
        let mut words = Vec::new();
        for (option, side) in [("-s", self.source), ("-d", self.destination)] {
            match side {
                Some(Side::In(net)) => words.push(format!("{option} {net}")),
                Some(Side::NotIn(net)) => words.push(format!("! {option} {net}")),
                None => {}
            }
        }
        if self.marked {
            words.push(format!("-m mark --mark {KUBE_MARK}/{KUBE_MARK}"));
        }
        words.push(format!("-m comment --comment \"{comment}\" -j"));
        words.push(match self.verdict {
            Verdict::Return => "RETURN".to_owned(),
            Verdict::Accept => "ACCEPT".to_owned(),
            Verdict::Masquerade if random_fully => "MASQUERADE --random-fully".to_owned(),
            Verdict::Masquerade => "MASQUERADE".to_owned(),
        });
        words.join(" ")
    }

    /// As `nft` reads it in a table of the family `inet`.
    pub(super) fn nft(&self, random_fully: bool) -> String {
        let mut words = Vec::new();
        if self.marked {
            words.push(format!("meta mark & {KUBE_MARK} == {KUBE_MARK}"));
        }
        for (field, side) in [("saddr", self.source), ("daddr", self.destination)] {
            let (operator, net) = match side {
                Some(Side::In(net)) => ("", net),
                Some(Side::NotIn(net)) => ("!= ", net),
                None => continue,
            };
            let header = match Family::of_net(&net) {
                Family::V4 => "ip",
                Family::V6 => "ip6",
            };
            words.push(format!("{header} {field} {operator}{net}"));
        }
        words.push(match self.verdict {
            Verdict::Return => "return".to_owned(),
            Verdict::Accept => "accept".to_owned(),
            Verdict::Masquerade if random_fully => "masquerade fully-random".to_owned(),
            Verdict::Masquerade => "masquerade".to_owned(),
        });
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(network: &str, subnet: &str) -> Range {
        Range { network: network.parse().expect("a network"), subnet: subnet.parse().expect("a subnet") }
    }

    fn iptables(rules: &[Rule], comment: &str, random_fully: bool) -> Vec<String> {
        rules.iter().map(|rule| rule.iptables(comment, random_fully)).collect()
    }

    fn nft(rules: &[Rule], random_fully: bool) -> Vec<String> {
        rules.iter().map(|rule| rule.nft(random_fully)).collect()
    }

    #[test]
    fn masquerade_in_iptables_words() {
        let rules = iptables(&masquerade(&range("10.42.0.0/16", "10.42.7.0/24")), "flanneld masq", true);
        assert_eq!(
            rules,
            [
                r#"-m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s 10.42.7.0/24 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s 10.42.0.0/16 -d 10.42.7.0/24 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"! -s 10.42.0.0/16 -d 10.42.7.0/24 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s 10.42.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully"#,
                r#"! -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully"#,
            ]
        );
        let rules = iptables(&masquerade(&range("fd77::/48", "fd77:0:0:5::/64")), "flanneld masq", false);
        assert_eq!(
            rules,
            [
                r#"-m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s fd77:0:0:5::/64 -d fd77::/48 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s fd77::/48 -d fd77:0:0:5::/64 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"! -s fd77::/48 -d fd77:0:0:5::/64 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s fd77::/48 ! -d ff00::/8 -m comment --comment "flanneld masq" -j MASQUERADE"#,
                r#"! -s fd77::/48 -d fd77::/48 -m comment --comment "flanneld masq" -j MASQUERADE"#,
            ]
        );
    }

    #[test]
    fn masquerade_in_nft_words() {
        assert_eq!(
            nft(&masquerade(&range("10.42.0.0/16", "10.42.7.0/24")), true),
            [
                "meta mark & 0x4000 == 0x4000 return",
                "ip saddr 10.42.7.0/24 ip daddr 10.42.0.0/16 return",
                "ip saddr 10.42.0.0/16 ip daddr 10.42.7.0/24 return",
                "ip saddr != 10.42.0.0/16 ip daddr 10.42.7.0/24 return",
                "ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
                "ip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 masquerade fully-random",
            ]
        );
        let v6 = nft(&masquerade(&range("fd77::/48", "fd77:0:0:5::/64")), false);
        assert_eq!(v6[1], "ip6 saddr fd77:0:0:5::/64 ip6 daddr fd77::/48 return");
        assert_eq!(v6[4], "ip6 saddr fd77::/48 ip6 daddr != ff00::/8 masquerade");
    }

    #[test]
    fn forwarding_in_both() {
        let v4 = forward(&range("10.42.0.0/16", "10.42.7.0/24"));
        assert_eq!(
            iptables(&v4, "flanneld forward", true),
            [
                r#"-s 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT"#,
                r#"-d 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT"#,
            ]
        );
        let v6 = forward(&range("fd77::/48", "fd77:0:0:5::/64"));
        assert_eq!(nft(&v6, true), ["ip6 saddr fd77::/48 accept", "ip6 daddr fd77::/48 accept"]);
    }
}
