//! The node's CNI configuration (`--cni-conf`): what flannel's plugin would delegate to the plugins `bridge`, `host-local`
//! and `portmap` (FLANNEL.md 6.2), written out, so that flannel's plugin is not needed.

use serde_json::{Value, json};

use crate::subnet_env::SubnetEnv;

/// As flannel's own file has it. Every runtime and plugin of Kubernetes' supported versions reads it.
const VERSION: &str = "0.3.1";
/// The network's name in flannel's own file. `host-local` keeps its addresses in a folder of that name: under another,
/// pods that flannel's plugin made would keep addresses that are given out again.
const NAME: &str = "cbr0";

/// The file's text, a network configuration list, for pods on `bridge`.
///
/// Gateways are the subnets' first addresses, by which flannel's plugin and `host-local` have them, too.
pub fn conflist(env: &SubnetEnv, bridge: &str) -> String {
    let families =
        || env.networks.iter().filter_map(|(family, range)| Some((range, env.subnets.get(family)?)));
    // A set of ranges for each family: a pod gets an address of every set.
    let ranges: Vec<Value> = families().map(|(_, subnet)| json!([{ "subnet": subnet }])).collect();
    let routes: Vec<Value> = families().map(|(range, _)| json!({ "dst": range })).collect();
    let list = json!({
        "cniVersion": VERSION,
        "name": NAME,
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "mtu": env.mtu,
                "isGateway": true,
                "isDefaultGateway": true,
                // A node that gets another subnet would otherwise have no new pods until somebody removes the bridge.
                "forceAddress": true,
                // A pod that reaches itself by its service comes back on the port it came from.
                "hairpinMode": true,
                // Somebody has to.
                "ipMasq": !env.ip_masq,
                "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::ByFamily;

    fn env(networks: [&str; 2], subnets: [&str; 2]) -> SubnetEnv {
        let nets = |[v4, v6]: [&str; 2]| ByFamily { v4: v4.parse().ok(), v6: v6.parse().ok() };
        SubnetEnv { networks: nets(networks), subnets: nets(subnets), mtu: 1430, ip_masq: true }
    }

    fn parsed(env: &SubnetEnv) -> Value {
        serde_json::from_str(&conflist(env, "cni0")).expect("JSON")
    }

    #[test]
    fn each_family_has_a_set_of_ranges_and_a_route() {
        let table = [
            (
                ["10.77.0.0/16", "fd77::/48"],
                ["10.77.18.0/25", "fd77:0:0:5::/64"],
                json!([[{"subnet": "10.77.18.0/25"}], [{"subnet": "fd77:0:0:5::/64"}]]),
                json!([{"dst": "10.77.0.0/16"}, {"dst": "fd77::/48"}]),
            ),
            (
                ["10.77.0.0/16", ""],
                ["10.77.18.0/25", ""],
                json!([[{"subnet": "10.77.18.0/25"}]]),
                json!([{"dst": "10.77.0.0/16"}]),
            ),
            (
                ["", "fd77::/48"],
                ["", "fd77:0:0:5::/64"],
                json!([[{"subnet": "fd77:0:0:5::/64"}]]),
                json!([{"dst": "fd77::/48"}]),
            ),
        ];
        for (networks, subnets, ranges, routes) in table {
            let list = parsed(&env(networks, subnets));
            let ipam = &list["plugins"][0]["ipam"];
            assert_eq!((&ipam["ranges"], &ipam["routes"]), (&ranges, &routes), "{networks:?}");
        }
    }

    #[test]
    fn it_says_what_flannels_plugin_delegates() {
        let list = parsed(&env(["10.77.0.0/16", ""], ["10.77.18.0/25", ""]));
        assert_eq!(list["name"], "cbr0", "where host-local has the addresses of pods that are there already");
        let bridge = &list["plugins"][0];
        assert_eq!(
            (&bridge["type"], &bridge["bridge"], &bridge["mtu"]),
            (&json!("bridge"), &json!("cni0"), &json!(1430))
        );
        assert_eq!((&bridge["isGateway"], &bridge["ipMasq"]), (&json!(true), &json!(false)));
        assert_eq!(list["plugins"][1]["capabilities"]["portMappings"], true);
    }

    #[test]
    fn somebody_masquerades() {
        let ours = env(["10.77.0.0/16", ""], ["10.77.18.0/25", ""]);
        let theirs = SubnetEnv { ip_masq: false, ..ours };
        assert_eq!(parsed(&theirs)["plugins"][0]["ipMasq"], true);
    }
}
