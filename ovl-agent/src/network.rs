//! The network config: what the operator wrote into the store (FLANNEL.md section 2).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;

/// A network config that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The overlay's whole range.
    pub ipv4: Ipv4Net,
    /// Length of every node's subnet.
    pub subnet_len: u8,
    /// First subnet that may be given out.
    pub subnet_min: Ipv4Addr,
    /// Last subnet that may be given out.
    pub subnet_max: Ipv4Addr,
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
}

/// Options of the vxlan backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanOptions {
    /// Network identifier, 1 to 9 999 999 (the device name `flannel.<VNI>` must fit 15 characters).
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// MTU of the underlay where the operator knows better than the interface.
    pub mtu: Option<u32>,
}

const DEFAULT_VNI: u32 = 1;
/// What the kernel takes when no port is named.
const DEFAULT_PORT: u16 = 8472;
const MAX_VNI: u32 = 9_999_999;

/// The config as it is written: names in lower case, everything optional.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "enableipv4", default = "yes")]
    enable_ipv4: bool,
    #[serde(rename = "enableipv6", default)]
    enable_ipv6: bool,
    network: Option<String>,
    #[serde(rename = "subnetlen", default)]
    subnet_len: u8,
    #[serde(rename = "subnetmin")]
    subnet_min: Option<Ipv4Addr>,
    #[serde(rename = "subnetmax")]
    subnet_max: Option<Ipv4Addr>,
    backend: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct RawVxlan {
    vni: Option<u32>,
    port: Option<u16>,
    mtu: Option<u32>,
    #[serde(default)]
    directrouting: bool,
    #[serde(default)]
    gbp: bool,
    #[serde(default)]
    learning: bool,
}

fn yes() -> bool {
    true
}

impl Network {
    /// Reads and checks a config.
    ///
    /// # Errors
    /// A sentence that names the field, its value and what it should be.
    pub fn parse(text: &str) -> Result<Self> {
        let fields: BTreeMap<String, Value> =
            serde_json::from_str(text).context("the network config is not a JSON object")?;
        let raw: Raw = from_fields(fields).context("the network config has a field of the wrong type")?;
        ensure!(raw.enable_ipv4, "EnableIPv4 is false; this version carries IPv4 only");
        ensure!(!raw.enable_ipv6, "EnableIPv6 is true; this version carries IPv4 only");
        let network =
            raw.network.context("Network is missing; give the overlay's range, such as 10.42.0.0/16")?;
        let ipv4: Ipv4Net = network
            .parse()
            .with_context(|| format!("Network '{network}' is not an IPv4 range such as 10.42.0.0/16"))?;
        let ipv4 = ipv4.trunc();
        let subnet_len = subnet_len(ipv4, raw.subnet_len)?;
        let (subnet_min, subnet_max) = bounds(ipv4, subnet_len, raw.subnet_min, raw.subnet_max)?;
        let backend = backend(raw.backend)?;
        Ok(Self { ipv4, subnet_len, subnet_min, subnet_max, backend })
    }

    /// Whether a lease of `subnet` is one that this config would give out.
    pub fn fits(&self, subnet: Ipv4Net) -> bool {
        subnet.prefix_len() == self.subnet_len && (self.subnet_min..=self.subnet_max).contains(&subnet.addr())
    }

    /// Every subnet that may be given out, in order.
    pub fn subnets(&self) -> impl Iterator<Item = Ipv4Net> + use<> {
        let step = 1u64 << (32 - u32::from(self.subnet_len));
        let (first, last) = (u64::from(self.subnet_min.to_bits()), u64::from(self.subnet_max.to_bits()));
        let length = self.subnet_len;
        (first..=last)
            .step_by(usize::try_from(step).unwrap_or(usize::MAX))
            .filter_map(move |bits| Ipv4Net::new(Ipv4Addr::from_bits(u32::try_from(bits).ok()?), length).ok())
    }
}

/// Go's JSON decoder, which flannel uses, matches field names in any case; so operators write them in any case.
fn from_fields<T: serde::de::DeserializeOwned>(fields: BTreeMap<String, Value>) -> serde_json::Result<T> {
    let lowered = fields
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_lowercase(), value))
        .collect();
    serde_json::from_value(Value::Object(lowered))
}

fn subnet_len(network: Ipv4Net, asked: u8) -> Result<u8> {
    let prefix = network.prefix_len();
    if asked == 0 {
        ensure!(prefix <= 28, "Network {network} is too small: it must be a /28 or larger");
        return Ok(if prefix <= 22 { 24 } else { prefix + 2 });
    }
    ensure!(asked <= 30, "SubnetLen {asked} is too long: at most 30");
    ensure!(
        asked >= prefix + 2,
        "SubnetLen {asked} leaves fewer than four subnets in Network {network}: at least {}",
        prefix + 2
    );
    Ok(asked)
}

fn bounds(
    network: Ipv4Net,
    subnet_len: u8,
    min: Option<Ipv4Addr>,
    max: Option<Ipv4Addr>,
) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let size = 1u32 << (32 - u32::from(subnet_len));
    let check = |name: &str, address: Ipv4Addr| -> Result<Ipv4Addr> {
        ensure!(network.contains(&address), "{name} {address} lies outside Network {network}");
        ensure!(
            address.to_bits().is_multiple_of(size),
            "{name} {address} is not the first address of a /{subnet_len} subnet"
        );
        Ok(address)
    };
    let min = match min.filter(|address| !address.is_unspecified()) {
        // The first subnet is skipped, as flannel does, so that no lease starts at the network's own address.
        None => Ipv4Addr::from_bits(network.network().to_bits().wrapping_add(size)),
        Some(address) => check("SubnetMin", address)?,
    };
    let max = match max.filter(|address| !address.is_unspecified()) {
        None => Ipv4Addr::from_bits(network.broadcast().to_bits() - (size - 1)),
        Some(address) => check("SubnetMax", address)?,
    };
    ensure!(min <= max, "SubnetMin {min} is beyond SubnetMax {max}: no subnet is left between them");
    Ok((min, max))
}

fn backend(fields: Option<BTreeMap<String, Value>>) -> Result<BackendConfig> {
    let fields = fields.context(
        "Backend is missing, which for flannel means the udp backend; this version has vxlan and host-gw: \
         write \"Backend\": {\"Type\": \"vxlan\"}",
    )?;
    let kind = fields
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("type"))
        .and_then(|(_, value)| value.as_str())
        .context("Backend.Type is missing; write \"Type\": \"vxlan\" or \"host-gw\"")?
        .to_lowercase();
    match kind.as_str() {
        "vxlan" => Ok(BackendConfig::Vxlan(vxlan(fields)?)),
        "host-gw" => Ok(BackendConfig::HostGw),
        other => bail!("Backend.Type '{other}' is not one of: vxlan, host-gw"),
    }
}

fn vxlan(fields: BTreeMap<String, Value>) -> Result<VxlanOptions> {
    let raw: RawVxlan =
        from_fields(fields).context("a vxlan option in Backend has the wrong type or range")?;
    for (name, set) in [("DirectRouting", raw.directrouting), ("GBP", raw.gbp), ("Learning", raw.learning)] {
        ensure!(!set, "Backend.{name} is true, which this version does not support yet; set it to false");
    }
    let vni = raw.vni.unwrap_or(DEFAULT_VNI);
    ensure!((1..=MAX_VNI).contains(&vni), "Backend.VNI {vni} is out of range: 1 to {MAX_VNI}");
    // Flannel leaves out a port of 0 when it asks for the device, and an MTU of 0 is the interface's.
    let port = raw.port.filter(|port| *port != 0).unwrap_or(DEFAULT_PORT);
    Ok(VxlanOptions { vni, port, mtu: raw.mtu.filter(|mtu| *mtu != 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Network {
        Network::parse(text).expect(text)
    }

    fn with_network(network: &str) -> String {
        format!(r#"{{"Network":"{network}","Backend":{{"Type":"vxlan"}}}}"#)
    }

    #[test]
    fn defaults_are_flannels() {
        let table = [
            ("10.3.0.0/16", 24, [10, 3, 1, 0], [10, 3, 255, 0]),
            ("10.3.7.1/16", 24, [10, 3, 1, 0], [10, 3, 255, 0]),
            ("10.9.0.0/24", 26, [10, 9, 0, 64], [10, 9, 0, 192]),
            ("10.9.0.0/28", 30, [10, 9, 0, 4], [10, 9, 0, 12]),
            ("0.0.0.0/0", 24, [0, 0, 1, 0], [255, 255, 255, 0]),
        ];
        for (network, len, min, max) in table {
            let parsed = parse(&with_network(network));
            assert_eq!(parsed.subnet_len, len, "{network}");
            assert_eq!(parsed.subnet_min, Ipv4Addr::from(min), "{network}");
            assert_eq!(parsed.subnet_max, Ipv4Addr::from(max), "{network}");
        }
    }

    #[test]
    fn names_match_in_any_case_and_unknown_ones_are_ignored() {
        let parsed = parse(
            r#"{"network":"10.1.0.0/16","SUBNETLEN":25,"x":1,"backend":{"tYpe":"VXLAN","vni":7,"Port":0}}"#,
        );
        assert_eq!(parsed.subnet_len, 25);
        assert_eq!(parsed.backend, BackendConfig::Vxlan(VxlanOptions { vni: 7, port: 8472, mtu: None }));
    }

    #[test]
    fn subnets_run_from_first_to_last() {
        let parsed = parse(r#"{"Network":"10.9.0.0/24","SubnetLen":26,"Backend":{"Type":"host-gw"}}"#);
        let subnets: Vec<_> = parsed.subnets().map(|net| net.to_string()).collect();
        assert_eq!(subnets, ["10.9.0.64/26", "10.9.0.128/26", "10.9.0.192/26"]);
        assert!(parsed.fits("10.9.0.128/26".parse().expect("valid")));
        assert!(!parsed.fits("10.9.0.0/26".parse().expect("valid")), "before SubnetMin");
        assert!(!parsed.fits("10.9.0.128/27".parse().expect("valid")), "another length");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            (r#"{"Network":7}"#, "wrong type"),
            ("{}", "Network is missing"),
            (r#"{"Network":"10.1.0.0"}"#, "'10.1.0.0' is not an IPv4 range"),
            (r#"{"Network":"fd00::/48"}"#, "'fd00::/48' is not an IPv4 range"),
            (r#"{"Network":"10.9.0.0/29"}"#, "too small"),
            (r#"{"Network":"10.9.0.0/24","SubnetLen":31}"#, "SubnetLen 31 is too long"),
            (r#"{"Network":"10.9.0.0/24","SubnetLen":25}"#, "at least 26"),
            (r#"{"Network":"10.9.0.0/16","SubnetMin":"10.8.0.0"}"#, "SubnetMin 10.8.0.0 lies outside"),
            (r#"{"Network":"10.9.0.0/16","SubnetMax":"10.9.3.1"}"#, "SubnetMax 10.9.3.1 is not the first"),
            (
                r#"{"Network":"10.9.0.0/16","SubnetMin":"10.9.4.0","SubnetMax":"10.9.3.0"}"#,
                "no subnet is left",
            ),
            (r#"{"Network":"10.9.0.0/16"}"#, "Backend is missing"),
            (r#"{"Network":"10.9.0.0/16","Backend":{}}"#, "Backend.Type is missing"),
            (r#"{"Network":"10.9.0.0/16","Backend":{"Type":"gre"}}"#, "'gre' is not one of"),
            (r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#, "VNI 16777216"),
            (r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan","Port":70000}}"#, "wrong type or range"),
            (r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#, "DirectRouting"),
            (r#"{"Network":"10.9.0.0/16","EnableIPv6":true}"#, "EnableIPv6"),
        ];
        for (text, expected) in table {
            let error = format!("{:#}", Network::parse(text).expect_err(text));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
