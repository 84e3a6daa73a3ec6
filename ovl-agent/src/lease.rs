//! Leases as flannel writes them: which node holds which subnet, and how to reach it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::family::{ByFamily, Family};

/// The subnets of one lease, one per family of the network; as text the last part of its key: `10.77.18.0-25` or
/// `10.77.18.0-25&fd77:0:0:5::-64`.
///
/// Flannel has no key for a network without IPv4; ours is `fd77:0:0:5::-64`, which flannel passes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey(ByFamily<IpNet>);

impl LeaseKey {
    /// A lease of these subnets; `None` where there is none at all.
    pub fn new(ipv4: Option<Ipv4Net>, ipv6: Option<Ipv6Net>) -> Option<Self> {
        let subnets = ByFamily { v4: ipv4.map(IpNet::V4), v6: ipv6.map(IpNet::V6) };
        (!subnets.is_empty()).then_some(Self(subnets))
    }

    /// As [`LeaseKey::new`]; a subnet that stands at the wrong family is none.
    pub fn of(subnets: ByFamily<IpNet>) -> Option<Self> {
        let right = |family| subnets.get(family).copied().filter(|net| Family::of_net(net) == family);
        let subnets = ByFamily::from_fn(right);
        (!subnets.is_empty()).then_some(Self(subnets))
    }

    /// The subnets.
    pub fn subnets(&self) -> &ByFamily<IpNet> {
        &self.0
    }

    /// Whether the two have addresses in common, in either family.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|(family, net)| {
            other.subnet(family).is_some_and(|theirs| net.contains(&theirs) || theirs.contains(net))
        })
    }

    /// The subnet of one family.
    pub fn subnet(&self, family: Family) -> Option<IpNet> {
        self.0.get(family).copied()
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (_, net)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "&" };
            write!(f, "{separator}{}-{}", net.addr(), net.prefix_len())?;
        }
        Ok(())
    }
}

/// A key that names no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{key}' names no subnet; expected a form like 10.77.18.0-25 or 10.77.18.0-25&fd77:0:0:5::-64")]
pub struct BadKey {
    key: String,
}

impl FromStr for LeaseKey {
    type Err = BadKey;

    fn from_str(key: &str) -> Result<Self, BadKey> {
        let parse = || -> Option<Self> {
            match key.split_once('&') {
                Some((ipv4, ipv6)) => Self::new(Some(parse_ipv4(ipv4)?), Some(parse_ipv6(ipv6)?)),
                None if key.contains(':') => Self::new(None, Some(parse_ipv6(key)?)),
                None => Self::new(Some(parse_ipv4(key)?), None),
            }
        };
        parse().ok_or_else(|| BadKey { key: key.to_owned() })
    }
}

/// At most 31 bits, as flannel reads it; host bits would make two keys of one subnet.
fn parse_ipv4(text: &str) -> Option<Ipv4Net> {
    let (address, length) = split_subnet::<Ipv4Addr>(text)?;
    Ipv4Net::new(address, length).ok().filter(|net| length <= 31 && net.trunc() == *net)
}

/// At most 127 bits.
fn parse_ipv6(text: &str) -> Option<Ipv6Net> {
    let (address, length) = split_subnet::<Ipv6Addr>(text)?;
    Ipv6Net::new(address, length).ok().filter(|net| length <= 127 && net.trunc() == *net)
}

fn split_subnet<A: FromStr>(text: &str) -> Option<(A, u8)> {
    let (address, length) = text.rsplit_once('-')?;
    // `u8::from_str` takes a plus sign and leading zeros; flannel's keys have neither.
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (length == "0" || !length.starts_with('0'));
    if !canonical {
        return None;
    }
    Some((address.parse().ok()?, length.parse().ok()?))
}

/// The value of a lease, member for member as flannel writes it (FLANNEL.md 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LeaseAttrs {
    /// The node's address on the underlay; 0.0.0.0 where it has none.
    #[serde(rename = "PublicIP", default = "unset")]
    pub public_ip: Ipv4Addr,
    /// The same for IPv6.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Name of the backend; flannel's udp and alloc backends write none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend_type: String,
    /// What the backend tells its peers for IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_data: Option<BackendData>,
    /// What the backend tells its peers for IPv6.
    #[serde(rename = "BackendV6Data", default, skip_serializing_if = "Option::is_none")]
    pub backend_v6_data: Option<BackendData>,
}

fn unset() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

impl LeaseAttrs {
    /// The node's address of one family on the underlay.
    pub fn public_ip(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => Some(self.public_ip).filter(|ip| !ip.is_unspecified()).map(IpAddr::V4),
            Family::V6 => self.public_ipv6.filter(|ip| !ip.is_unspecified()).map(IpAddr::V6),
        }
    }

    /// The node's addresses on the underlay.
    pub fn public_ips(&self) -> ByFamily<IpAddr> {
        ByFamily::from_fn(|family| self.public_ip(family))
    }

    /// The same with other addresses where there are any: those that an operator wrote in the place of the node's.
    #[must_use]
    pub fn overwritten_by(&self, public_ips: &ByFamily<IpAddr>) -> Self {
        let mut attrs = self.clone();
        for (_, public_ip) in public_ips.iter() {
            match public_ip {
                IpAddr::V4(ip) => attrs.public_ip = *ip,
                IpAddr::V6(ip) => attrs.public_ipv6 = Some(*ip),
            }
        }
        attrs
    }

    /// What the backend tells its peers for one family.
    pub fn backend_data(&self, family: Family) -> Option<&BackendData> {
        match family {
            Family::V4 => self.backend_data.as_ref(),
            Family::V6 => self.backend_v6_data.as_ref(),
        }
    }

    /// The address that says whose lease it is: the IPv4 one, which is the only one that flannel compares, or the IPv6
    /// one where there is no other.
    pub fn identity(&self) -> Option<IpAddr> {
        self.public_ip(Family::V4).or(self.public_ip(Family::V6))
    }
}

/// What a backend tells its peers: any JSON, kept as the text it came as. Parsed, ten thousand of them would take
/// several times the memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BackendData(Box<RawValue>);

impl BackendData {
    /// `value` as JSON.
    ///
    /// # Errors
    /// Where it has no form in JSON.
    pub fn new(value: &impl Serialize) -> serde_json::Result<Self> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// `text`, which must be JSON, as it is.
    ///
    /// # Errors
    /// Where it is none.
    pub fn from_text(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text).map(Self)
    }

    /// The JSON as text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Reads it.
    ///
    /// # Errors
    /// Where it is no `T`.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(self.0.get())
    }
}

impl PartialEq for BackendData {
    /// Text by text: the same JSON written otherwise is a change, which costs one look.
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for BackendData {}

/// A subnet and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The subnet.
    pub key: LeaseKey,
    /// Its holder.
    pub attrs: LeaseAttrs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_written_as_flannel_does() {
        for text in ["10.77.18.0-25", "10.77.18.0-25&fd77:0:0:5::-64", "10.0.0.0-8", "fd77:0:0:5::-64"] {
            let key: LeaseKey = text.parse().expect(text);
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn leases_overlap_in_either_family() {
        let dual = "10.1.4.0-24&fd00:0:0:1::-64";
        let table = [
            ("10.1.4.0-24", true),
            ("10.1.4.128-25&fd00:0:0:2::-64", true),
            ("10.1.0.0-16", true),
            ("10.1.5.0-24&fd00:0:0:1::-64", true),
            ("fd00::-48", true),
            ("10.1.5.0-24&fd00:0:0:2::-64", false),
            ("10.1.5.0-24", false),
            ("fd00:0:0:2::-64", false),
        ];
        let dual: LeaseKey = dual.parse().expect(dual);
        for (text, overlaps) in table {
            let other: LeaseKey = text.parse().expect(text);
            assert_eq!((dual.overlaps(&other), other.overlaps(&dual)), (overlaps, overlaps), "{text}");
        }
    }

    #[test]
    fn other_keys_are_refused_by_name() {
        let refused = [
            "",
            "10.77.18.0",
            "10.77.18.0-",
            "10.77.18.0-33",
            "10.77.18.0-32",
            "10.77.18.1-24",
            "10.77.18.0-+24",
            "10.77.18.0-024",
            "10.77.18-24",
            "10.77.18.0/24",
            "fd77::1-64",
            "fd77::-64&10.77.18.0-24",
            "10.77.18.0-24&",
            "10.77.18.0-24&fd77::1-64",
            "10.77.18.0-24&fd77::-128",
            "x10.77.18.0-24",
            "10.77.18.0-24 ",
        ];
        for text in refused {
            let error = text.parse::<LeaseKey>().expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_value_without_a_backend_has_the_bytes_that_flannel_asserts() {
        let attrs = LeaseAttrs {
            public_ip: [1, 2, 3, 4].into(),
            public_ipv6: None,
            backend_type: String::new(),
            backend_data: None,
            backend_v6_data: None,
        };
        let json = serde_json::to_string(&attrs).expect("plain data");
        assert_eq!(json, r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#);
        assert_eq!(serde_json::from_str::<LeaseAttrs>(&json).expect("just written"), attrs);
    }

    #[test]
    fn a_vxlan_value_has_flannels_members_in_flannels_order() {
        let text = concat!(
            r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11","BackendType":"vxlan","#,
            r#""BackendData":{"VNI":7,"VtepMAC":"d2:41:0a:9c:55:e1"},"#,
            r#""BackendV6Data":{"VNI":7,"VtepMAC":"86:0f:11:3b:72:04"}}"#
        );
        let attrs: LeaseAttrs = serde_json::from_str(text).expect("flannel's own");
        assert_eq!(serde_json::to_string(&attrs).expect("plain data"), text);
    }
}
