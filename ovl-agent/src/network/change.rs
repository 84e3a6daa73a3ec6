//! What a changed network config means for an agent that runs.

use super::{BackendConfig, Network};

/// What to do about a changed config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that matters has changed.
    None,
    /// It is taken over as it is; the names of the fields that changed.
    Live(Vec<&'static str>),
    /// The agents of all nodes have to be restarted for these fields. Until then nothing of the change is applied:
    /// half a config is none.
    Restart(Vec<&'static str>),
}

impl Change {
    /// What turns `old` into `new`.
    pub fn between(old: &Network, new: &Network) -> Self {
        let mut restart = differing([
            ("Network or its subnets", old.pools.v4 != new.pools.v4),
            ("IPv6Network or its subnets", old.pools.v6 != new.pools.v6),
        ]);
        let mut live = differing([("EnableNFTables", old.nftables != new.nftables)]);
        match (&old.backend, &new.backend) {
            (BackendConfig::Vxlan(old), BackendConfig::Vxlan(new)) => {
                // What the kernel changes on a living device, and what is no matter of the device.
                live.extend(differing([
                    ("Backend.MTU", old.mtu != new.mtu),
                    ("Backend.DirectRouting", old.direct_routing != new.direct_routing),
                    ("Backend.Learning", old.learning != new.learning),
                ]));
                restart.extend(differing([
                    ("Backend.VNI", old.vni != new.vni),
                    ("Backend.Port", old.port != new.port),
                    ("Backend.GBP", old.gbp != new.gbp),
                ]));
            }
            (BackendConfig::Ipip(old), BackendConfig::Ipip(new)) => {
                live.extend(differing([("Backend.DirectRouting", old.direct_routing != new.direct_routing)]));
            }
            (BackendConfig::Udp(old), BackendConfig::Udp(new)) => {
                restart.extend(differing([("Backend.Port", old.port != new.port)]));
            }
            (old, new) if old == new => {}
            _ => restart.push("Backend.Type"),
        }
        if !restart.is_empty() {
            Self::Restart(restart)
        } else if live.is_empty() {
            Self::None
        } else {
            Self::Live(live)
        }
    }
}

fn differing<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#;

    #[test]
    fn every_field_is_either_applied_or_named() {
        let table = [
            (OLD, Change::None),
            (
                r#"{"Network":"10.1.3.0/16","x":1,"Backend":{"Type":"VXLAN","VNI":7,"Port":8472}}"#,
                Change::None,
            ),
            (
                r#"{"Network":"10.1.0.0/16","EnableNFTables":true,
                    "Backend":{"Type":"vxlan","VNI":7,"MTU":1400,"DirectRouting":true,"Learning":true}}"#,
                Change::Live(vec![
                    "EnableNFTables",
                    "Backend.MTU",
                    "Backend.DirectRouting",
                    "Backend.Learning",
                ]),
            ),
            (
                r#"{"Network":"10.2.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48",
                    "Backend":{"Type":"vxlan","VNI":8,"Port":4789,"GBP":true,"MTU":1400}}"#,
                Change::Restart(vec![
                    "Network or its subnets",
                    "IPv6Network or its subnets",
                    "Backend.VNI",
                    "Backend.Port",
                    "Backend.GBP",
                ]),
            ),
            (
                r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.9.0","Backend":{"Type":"vxlan","VNI":7}}"#,
                Change::Restart(vec!["Network or its subnets"]),
            ),
            (
                r#"{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}"#,
                Change::Restart(vec!["Backend.Type"]),
            ),
        ];
        let udp = |port| format!(r#"{{"Network":"10.1.0.0/16","Backend":{{"Type":"udp","Port":{port}}}}}"#);
        let [old, new] = [7890, 7891].map(|port| Network::parse(&udp(port)).expect("valid"));
        assert_eq!(Change::between(&old, &new), Change::Restart(vec!["Backend.Port"]));
        let ipip = |direct| {
            format!(r#"{{"Network":"10.1.0.0/16","Backend":{{"Type":"ipip","DirectRouting":{direct}}}}}"#)
        };
        let [old, new] = [false, true].map(|direct| Network::parse(&ipip(direct)).expect("valid"));
        assert_eq!(Change::between(&old, &new), Change::Live(vec!["Backend.DirectRouting"]));
        let old = Network::parse(OLD).expect("valid");
        for (text, change) in table {
            assert_eq!(Change::between(&old, &Network::parse(text).expect(text)), change, "{text}");
        }
    }
}
