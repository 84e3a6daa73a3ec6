//! The subnet a node holds, as flannel's `subnet.env` tells it to the CNI plugin.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The contents of a `subnet.env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The whole overlay network, such as `10.42.0.0/16`.
    pub network: String,
    /// The address of the pod bridge: the subnet's base plus one.
    pub gateway: Ipv4Addr,
    /// The subnet's prefix length.
    pub prefix_len: u8,
    /// The pods' MTU.
    pub mtu: u32,
    /// Whether the agent masquerades; else the CNI plugin should.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// Reads and parses the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Parses `NAME=value` lines.
    pub fn parse(text: &str) -> Result<Self> {
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .with_context(|| format!("there is no {name} in {text:?}"))
        };
        let subnet = value("FLANNEL_SUBNET")?;
        let (gateway, prefix_len) = subnet.split_once('/').context("FLANNEL_SUBNET has no prefix length")?;
        Ok(Self {
            network: value("FLANNEL_NETWORK")?.to_owned(),
            gateway: gateway
                .parse()
                .with_context(|| format!("read the address of FLANNEL_SUBNET={subnet}"))?,
            prefix_len: prefix_len
                .parse()
                .with_context(|| format!("read the length of FLANNEL_SUBNET={subnet}"))?,
            mtu: value("FLANNEL_MTU")?.parse().context("read FLANNEL_MTU")?,
            ip_masq: value("FLANNEL_IPMASQ")? == "true",
        })
    }

    /// A subnet chosen by hand, for nodes without an agent: `base` such as 10.42.9.0.
    pub fn by_hand(network: &str, base: Ipv4Addr, prefix_len: u8, mtu: u32) -> Self {
        let gateway = Ipv4Addr::from_bits(base.to_bits() + 1);
        Self { network: network.to_owned(), gateway, prefix_len, mtu, ip_masq: false }
    }

    /// The subnet's first address, where the overlay device lives.
    pub fn base(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.gateway.to_bits() - 1)
    }

    /// The subnet as `base/len`.
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.base(), self.prefix_len)
    }

    /// The address of pod number `index`, counted from zero.
    pub fn pod_address(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.gateway.to_bits() + 1 + index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_flannel_writes() {
        let text = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        let subnet = SubnetEnv::parse(text).unwrap();
        assert_eq!(subnet, SubnetEnv::by_hand("10.42.0.0/16", Ipv4Addr::new(10, 42, 3, 0), 24, 1450));
        assert_eq!(subnet.cidr(), "10.42.3.0/24");
        assert_eq!(subnet.pod_address(0), Ipv4Addr::new(10, 42, 3, 2));
    }

    #[test]
    fn names_what_is_missing() {
        let error = SubnetEnv::parse("FLANNEL_NETWORK=10.42.0.0/16\n").unwrap_err().to_string();
        assert!(error.contains("FLANNEL_SUBNET"), "{error}");
    }
}
