//! The network config: what the operator wrote into the store (FLANNEL.md section 2).

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tracing::warn;

use crate::family::{ByFamily, Family};
use crate::lease::LeaseKey;

mod change;
mod fields;
mod pool;

pub use change::Change;
use fields::Fields;
pub use pool::Pool;
pub(crate) use pool::{from_bits, to_bits};

/// A network config that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The overlay's range of each family it has, and what is given out of it.
    pub pools: ByFamily<Pool>,
    /// Whether the firewall is nftables' own table, and not iptables.
    pub nftables: bool,
    /// How packets travel.
    pub backend: BackendConfig,
}

/// The backend section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendConfig {
    /// A VXLAN device.
    Vxlan(VxlanOptions),
    /// Routes through the peers.
    HostGw,
    /// IP in IP.
    Ipip(IpipOptions),
    /// Bare packets in UDP, carried by the agent itself.
    Udp(UdpOptions),
    /// A lease and nothing else: somebody else moves the packets.
    Alloc,
}

/// Options of the vxlan backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanOptions {
    /// Network identifier, 0 to 9 999 999 (9 999 with IPv6): the device's name must fit 15 characters.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// MTU of the underlay where the operator knows better than the interface.
    pub mtu: Option<u32>,
    /// Whether frames carry a group policy (draft-smith-vxlan-group-policy).
    pub gbp: bool,
    /// Whether the device learns where MACs are from what it receives.
    pub learning: bool,
    /// Whether peers on the same link are routed to without a tunnel.
    pub direct_routing: bool,
}

impl Default for VxlanOptions {
    fn default() -> Self {
        // The port is what the kernel takes when none is named.
        Self { vni: 1, port: 8472, mtu: None, gbp: false, learning: false, direct_routing: false }
    }
}

/// Options of the ipip backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpipOptions {
    /// Whether peers on the same link are routed to without a tunnel.
    pub direct_routing: bool,
}

/// Options of the udp backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// UDP port of all nodes.
    pub port: u16,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { port: 8285 }
    }
}

/// What follows `flannel.` (IPv4) and `flannel-v6.` (IPv6) in 15 characters.
const MAX_VNI: u32 = 9_999_999;
const MAX_VNI_IPV6: u32 = 9_999;

/// Backends of flannel that this version lacks.
const ABSENT: [&str; 4] = ["wireguard", "ipsec", "extension", "tencent-vpc"];

impl Network {
    /// Reads and checks a config.
    ///
    /// # Errors
    /// A sentence that names the field, its value and what it should be.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, ipv4_pool, ipv6_pool)
    }

    /// The same where somebody else gives nodes their subnets, as Kubernetes does: what the config says of them has no
    /// effect, as in flannel.
    ///
    /// # Errors
    /// As [`Network::parse`].
    pub fn parse_for_assigned(text: &str) -> Result<Self> {
        let ipv4 = |fields: &Fields| Ok(Pool::assigned(IpNet::V4(ipv4_range(fields)?)));
        let ipv6 = |fields: &Fields| Ok(Pool::assigned(IpNet::V6(ipv6_range(fields)?)));
        Self::parse_with(text, ipv4, ipv6)
    }

    fn parse_with(
        text: &str,
        ipv4: impl FnOnce(&Fields) -> Result<Pool>,
        ipv6: impl FnOnce(&Fields) -> Result<Pool>,
    ) -> Result<Self> {
        let fields = Fields::parse(text)
            .context("the network config is not a JSON object such as {\"Network\": \"10.42.0.0/16\"}")?;
        let mut pools = ByFamily::default();
        if fields.get("EnableIPv4")?.unwrap_or(true) {
            pools.v4 = Some(ipv4(&fields)?);
        }
        if fields.get("EnableIPv6")?.unwrap_or(false) {
            pools.v6 = Some(ipv6(&fields)?);
        }
        ensure!(
            !pools.is_empty(),
            "EnableIPv4 is false and EnableIPv6 is not true: enable one of them, or leave EnableIPv4 out"
        );
        Ok(Self {
            nftables: fields.get("EnableNFTables")?.unwrap_or(false),
            backend: backend(&fields, pools.v6.is_some())?,
            pools,
        })
    }

    /// The overlay's range of one family.
    pub fn range(&self, family: Family) -> Option<IpNet> {
        self.pools.get(family).map(|pool| pool.range)
    }

    /// What tells this overlay from others on the same node: its IPv4 range, or the IPv6 one where it has no other.
    pub fn name(&self) -> String {
        let first = self.pools.iter().next();
        first.map(|(_, pool)| pool.range.to_string()).unwrap_or_default()
    }

    /// The overlay's ranges.
    pub fn ranges(&self) -> ByFamily<IpNet> {
        self.pools.map(|_, pool| pool.range)
    }

    /// Whether a lease is one that this config would give out: a subnet of each family it has, and of no other.
    pub fn fits(&self, lease: &LeaseKey) -> bool {
        Family::ALL.into_iter().all(|family| match (self.pools.get(family), lease.subnet(family)) {
            (Some(pool), Some(subnet)) => pool.fits(subnet),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        })
    }
}

fn ipv4_range(fields: &Fields) -> Result<Ipv4Net> {
    let range: Ipv4Net =
        fields.require("Network", "an IPv4 range such as 10.42.0.0/16; or set EnableIPv4 to false")?;
    Ok(range.trunc())
}

fn ipv6_range(fields: &Fields) -> Result<Ipv6Net> {
    let range: Ipv6Net =
        fields.require("IPv6Network", "an IPv6 range such as fd42::/48, which EnableIPv6 asks for")?;
    Ok(range.trunc())
}

fn ipv4_pool(fields: &Fields) -> Result<Pool> {
    let min = fields.address::<std::net::Ipv4Addr>("SubnetMin")?;
    let max = fields.address::<std::net::Ipv4Addr>("SubnetMax")?;
    Pool::new("", IpNet::V4(ipv4_range(fields)?), fields.get("SubnetLen")?.unwrap_or(0), min, max)
}

fn ipv6_pool(fields: &Fields) -> Result<Pool> {
    let min = fields.address::<std::net::Ipv6Addr>("IPv6SubnetMin")?;
    let max = fields.address::<std::net::Ipv6Addr>("IPv6SubnetMax")?;
    Pool::new("IPv6", IpNet::V6(ipv6_range(fields)?), fields.get("IPv6SubnetLen")?.unwrap_or(0), min, max)
}

fn backend(fields: &Fields, ipv6: bool) -> Result<BackendConfig> {
    let Some(options) = fields.get::<Fields>("Backend")? else {
        warn!(
            "the network config has no Backend, which means udp, as it does to flannel; write \"Backend\": {{\"Type\": \
             \"vxlan\"}} for one that is several times as fast"
        );
        return Ok(BackendConfig::Udp(UdpOptions::default()));
    };
    let kind: String = options.get("Type").context("in Backend")?.context(
        "Backend.Type is missing; write \"Type\": \"vxlan\", \"host-gw\", \"ipip\", \"udp\" or \"alloc\"",
    )?;
    match kind.to_lowercase().as_str() {
        "vxlan" => Ok(BackendConfig::Vxlan(vxlan(&options, ipv6).context("in Backend")?)),
        "host-gw" => Ok(BackendConfig::HostGw),
        "ipip" => {
            let direct_routing = options.get("DirectRouting").context("in Backend")?.unwrap_or(false);
            Ok(BackendConfig::Ipip(IpipOptions { direct_routing }))
        }
        "udp" => {
            let default = UdpOptions::default();
            let port = options.get("Port").context("in Backend")?.filter(|port| *port != 0);
            Ok(BackendConfig::Udp(UdpOptions { port: port.unwrap_or(default.port) }))
        }
        "alloc" => Ok(BackendConfig::Alloc),
        other if ABSENT.contains(&other) => {
            bail!(
                "Backend.Type '{other}' is one of flannel's that this version lacks; it has vxlan, host-gw, ipip, udp, alloc"
            )
        }
        _ => bail!("Backend.Type '{kind}' is not one of: vxlan, host-gw, ipip, udp, alloc"),
    }
}

fn vxlan(options: &Fields, ipv6: bool) -> Result<VxlanOptions> {
    let default = VxlanOptions::default();
    let vni = options.get("VNI")?.unwrap_or(default.vni);
    let max = if ipv6 { MAX_VNI_IPV6 } else { MAX_VNI };
    ensure!(vni <= max, "VNI {vni} is out of range: 0 to {max}, as it is part of the device's name");
    Ok(VxlanOptions {
        vni,
        // Flannel leaves out a port of 0 when it asks for the device, and an MTU of 0 is the interface's.
        port: options.get("Port")?.filter(|port| *port != 0).unwrap_or(default.port),
        mtu: options.get("MTU")?.filter(|mtu| *mtu != 0),
        gbp: options.get("GBP")?.unwrap_or(false),
        learning: options.get("Learning")?.unwrap_or(false),
        direct_routing: options.get("DirectRouting")?.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Network {
        Network::parse(text).expect(text)
    }

    #[test]
    fn the_documented_example_is_read() {
        let network = parse(
            r#"{ "Network": "10.77.0.0/16", "SubnetLen": 25, "SubnetMin": "10.77.16.0", "SubnetMax": "10.77.127.128",
                "EnableIPv6": true, "IPv6Network": "fd77:0:0::/48", "EnableNFTables": true,
                "Backend": { "Type": "vxlan", "VNI": 7, "Port": 8472, "DirectRouting": true, "MTU": 1500 } }"#,
        );
        let ipv4 = network.pools.v4.as_ref().expect("IPv4");
        assert_eq!((ipv4.range.to_string(), ipv4.subnet_len), ("10.77.0.0/16".into(), 25));
        assert_eq!(
            (ipv4.min.to_string(), ipv4.max.to_string()),
            ("10.77.16.0".into(), "10.77.127.128".into())
        );
        let ipv6 = network.pools.v6.as_ref().expect("IPv6");
        assert_eq!((ipv6.range.to_string(), ipv6.subnet_len), ("fd77::/48".into(), 64));
        assert!(network.nftables);
        let options =
            VxlanOptions { vni: 7, mtu: Some(1500), direct_routing: true, ..VxlanOptions::default() };
        assert_eq!(network.backend, BackendConfig::Vxlan(options));
    }

    #[test]
    fn everything_has_flannels_default() {
        let network = parse(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#);
        assert!(!network.nftables && network.pools.v6.is_none());
        let options = VxlanOptions {
            vni: 1,
            port: 8472,
            mtu: None,
            gbp: false,
            learning: false,
            direct_routing: false,
        };
        assert_eq!(network.backend, BackendConfig::Vxlan(options));
    }

    #[test]
    fn names_match_in_any_case_unknown_ones_are_ignored_and_the_last_one_wins() {
        let network = parse(
            r#"{"network":"10.0.0.0/8","NETWORK":"10.1.0.0/16","SUBNETLEN":25,"x":1,"subnetlen":null,
                "backend":{"tYpe":"VXLAN","vni":7,"Port":0,"Directrouting":true}}"#,
        );
        assert_eq!(network.range(Family::V4).expect("there").to_string(), "10.1.0.0/16");
        assert_eq!(network.pools.v4.as_ref().expect("there").subnet_len, 25);
        let options = VxlanOptions { vni: 7, direct_routing: true, ..VxlanOptions::default() };
        assert_eq!(network.backend, BackendConfig::Vxlan(options));
    }

    #[test]
    fn a_lease_fits_with_a_subnet_of_each_family_and_no_other() {
        let both = parse(
            r#"{"Network":"10.9.0.0/24","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"alloc"}}"#,
        );
        let table = [
            ("10.9.0.128-26&fc00:0:0:1::-64", true),
            ("10.9.0.128-26", false),
            ("fc00:0:0:1::-64", false),
            ("10.9.0.0-26&fc00:0:0:1::-64", false),
            ("10.9.0.128-27&fc00:0:0:1::-64", false),
            ("10.9.0.128-26&fc00:0:0:1::-65", false),
            ("10.9.0.128-26&fc00::-64", false),
        ];
        for (key, fits) in table {
            assert_eq!(both.fits(&key.parse().expect(key)), fits, "{key}");
        }
        let ipv6 = parse(
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"alloc"}}"#,
        );
        assert!(ipv6.fits(&"fc00:0:0:1::-64".parse().expect("valid")));
        assert!(!ipv6.fits(&"10.9.0.128-26&fc00:0:0:1::-64".parse().expect("valid")));
    }

    #[test]
    fn what_kubernetes_assigns_needs_no_subnets_in_the_config() {
        let text = r#"{"Network":"10.42.3.0/30","SubnetLen":7,"SubnetMin":"192.0.2.1","EnableIPv6":true,
            "IPv6Network":"fd42::/127","IPv6SubnetLen":1,"Backend":{"Type":"vxlan"}}"#;
        Network::parse(text).expect_err("no room for subnets");
        let network = Network::parse_for_assigned(text).expect("ranges and a backend");
        assert_eq!(network.ranges().to_string(), "10.42.3.0/30, fd42::/127");
        for (key, fits) in [("10.42.3.0-30&fd42::-127", true), ("10.42.4.0-30&fd42::-127", false)] {
            assert_eq!(network.fits(&key.parse().expect(key)), fits, "{key}");
        }
        let missing = Network::parse_for_assigned("{}").expect_err("no range").to_string();
        assert!(missing.contains("Network is missing"), "{missing}");
    }

    #[test]
    fn udp_is_what_flannel_takes_where_nothing_is_named() {
        let table = [
            (r#"{"Network":"10.1.0.0/16"}"#, 8285),
            (r#"{"Network":"10.1.0.0/16","Backend":{"Type":"UDP"}}"#, 8285),
            (r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":0}}"#, 8285),
            (r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":7890}}"#, 7890),
        ];
        for (text, port) in table {
            assert_eq!(parse(text).backend, BackendConfig::Udp(UdpOptions { port }), "{text}");
        }
    }

    #[test]
    fn ipip_has_one_option() {
        for (options, direct_routing) in [("", false), (r#","DirectRouting":true,"MTU":1400"#, true)] {
            let text = format!(r#"{{"Network":"10.1.0.0/16","Backend":{{"Type":"ipip"{options}}}}}"#);
            assert_eq!(parse(&text).backend, BackendConfig::Ipip(IpipOptions { direct_routing }), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            (r#"{"Network":7}"#, "Network is 7"),
            (r#"{"Network":null}"#, "Network is null"),
            ("{}", "Network is missing"),
            (r#"{"Network":"10.1.0.0"}"#, "Network is \"10.1.0.0\""),
            (r#"{"Network":"fd00::/48"}"#, "Network is \"fd00::/48\""),
            (r#"{"Network":"10.9.0.0/24","SubnetLen":"26"}"#, "SubnetLen is \"26\""),
            (r#"{"Network":"10.9.0.0/24","SubnetLen":-1}"#, "SubnetLen is -1"),
            (r#"{"Network":"10.9.0.0/24","EnableIPv4":1}"#, "EnableIPv4 is 1"),
            (r#"{"Network":"10.9.0.0/24","SubnetMin":"fd00::"}"#, "SubnetMin is \"fd00::\""),
            (r#"{"Network":"10.9.0.0/16","Backend":"vxlan"}"#, "Backend is \"vxlan\""),
            (r#"{"Network":"10.9.0.0/16","Backend":{}}"#, "Backend.Type is missing"),
            (r#"{"Network":"10.9.0.0/16","Backend":{"Type":"gre"}}"#, "'gre' is not one of"),
            (r#"{"Network":"10.9.0.0/16","Backend":{"Type":"wireguard"}}"#, "that this version lacks"),
            (r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan","VNI":10000000}}"#, "VNI 10000000"),
            (r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan","Port":70000}}"#, "Port is 70000"),
            (r#"{"EnableIPv4":false}"#, "enable one of them"),
            (r#"{"Network":"10.9.0.0/16","EnableIPv6":true}"#, "IPv6Network is missing"),
            (r#"{"Network":"10.9.0.0/16","EnableIPv6":true,"IPv6Network":"10.1.0.0/16"}"#, "IPv6Network is"),
            (
                r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan","VNI":10000}}"#,
                "0 to 9999,",
            ),
        ];
        for (text, expected) in table {
            let error = format!("{:#}", Network::parse(text).expect_err(text));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
