//! Leases as flannel writes them: which node holds which subnet, and how to reach it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The subnets of one lease; as text the last part of its key: `10.77.18.0-25` or `10.77.18.0-25&fd77:0:0:5::-64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    /// The IPv4 subnet. The key has no form without one.
    pub ipv4: Ipv4Net,
    /// The IPv6 subnet of a dual-stack node.
    pub ipv6: Option<Ipv6Net>,
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ipv4.addr(), self.ipv4.prefix_len())?;
        match self.ipv6 {
            Some(ipv6) => write!(f, "&{}-{}", ipv6.addr(), ipv6.prefix_len()),
            None => Ok(()),
        }
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
            let (ipv4, ipv6) = match key.split_once('&') {
                Some((ipv4, ipv6)) => (ipv4, Some(ipv6)),
                None => (key, None),
            };
            let (address, length) = split_subnet::<Ipv4Addr>(ipv4)?;
            let ipv4 = Ipv4Net::new(address, length).ok().filter(|net| net.prefix_len() <= 31)?;
            let ipv6 = match ipv6 {
                None => None,
                Some(text) => {
                    let (address, length) = split_subnet::<Ipv6Addr>(text)?;
                    Some(Ipv6Net::new(address, length).ok().filter(|net| net.prefix_len() <= 127)?)
                }
            };
            // Host bits would make two keys of one subnet.
            let exact = ipv4.trunc() == ipv4 && ipv6.is_none_or(|net| net.trunc() == net);
            exact.then_some(Self { ipv4, ipv6 })
        };
        parse().ok_or_else(|| BadKey { key: key.to_owned() })
    }
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
    pub backend_data: Option<Value>,
    /// What the backend tells its peers for IPv6.
    #[serde(rename = "BackendV6Data", default, skip_serializing_if = "Option::is_none")]
    pub backend_v6_data: Option<Value>,
}

fn unset() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

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
        for text in ["10.77.18.0-25", "10.77.18.0-25&fd77:0:0:5::-64", "10.0.0.0-8"] {
            let key: LeaseKey = text.parse().expect(text);
            assert_eq!(key.to_string(), text);
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
            "fd77::-64",
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
