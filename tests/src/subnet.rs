//! The subnets a node holds, as flannel's `subnet.env` tells them to the CNI plugin.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::families::Families;

/// The contents of a `subnet.env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The node's subnet of each family.
    pub subnets: Families<Subnet>,
    /// The pods' MTU.
    pub mtu: u32,
    /// Whether the agent masquerades; else the CNI plugin should.
    pub ip_masq: bool,
}

/// A node's subnet of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The whole overlay network, such as `10.42.0.0/16`.
    pub network: String,
    /// The address of the pod bridge: the subnet's base plus one.
    pub gateway: IpAddr,
    /// The subnet's prefix length.
    pub prefix_len: u8,
}

impl SubnetEnv {
    /// Reads and parses the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Parses `NAME=value` lines.
    pub fn parse(text: &str) -> Result<Self> {
        let find = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let value = |name: &str| find(name).with_context(|| format!("there is no {name} in {text:?}"));
        let subnet = |infix: &str| -> Result<Option<Subnet>> {
            let (network, subnet) = (format!("FLANNEL{infix}_NETWORK"), format!("FLANNEL{infix}_SUBNET"));
            if find(&network).is_none() && find(&subnet).is_none() {
                return Ok(None);
            }
            Ok(Some(Subnet::with_gateway(value(&network)?, value(&subnet)?)?))
        };
        let subnets = Families::new(subnet("")?, subnet("_IPV6")?);
        Ok(Self {
            subnets: subnets.with_context(|| format!("there is no FLANNEL_SUBNET in {text:?}"))?,
            mtu: value("FLANNEL_MTU")?.parse().context("read FLANNEL_MTU")?,
            ip_masq: value("FLANNEL_IPMASQ")? == "true",
        })
    }

    /// An IPv4 subnet chosen by hand, for nodes without an agent: `("10.42.0.0/16", "10.42.9.0/24", 1450)`.
    pub fn by_hand(network: &str, subnet: &str, mtu: u32) -> Result<Self> {
        Ok(Self { subnets: Families::Ipv4(Subnet::by_hand(network, subnet)?), mtu, ip_masq: false })
    }

    /// The same with an IPv6 subnet beside the IPv4 one: `("fd42::/48", "fd42:0:0:9::/64")`.
    pub fn with_ipv6(self, network: &str, subnet: &str) -> Result<Self> {
        let ipv6 = Some(Subnet::by_hand(network, subnet)?);
        let subnets = Families::new(self.subnets.ipv4().cloned(), ipv6);
        Ok(Self { subnets: subnets.context("an IPv6 subnet is a subnet")?, ..self })
    }

    /// The first address of the subnet, IPv4's where there is IPv4; the overlay device has it.
    pub fn base(&self) -> IpAddr {
        self.subnets.first().base()
    }

    /// The subnet as `base/len`, IPv4's where there is IPv4.
    pub fn cidr(&self) -> String {
        self.subnets.first().cidr()
    }

    /// The IPv6 subnet.
    pub fn ipv6(&self) -> Option<&Subnet> {
        self.subnets.ipv6()
    }

    /// The lease's key in a store, below the prefix: `subnets/10.42.9.0-24&fd42:0:0:9::-64`.
    pub fn lease_key(&self) -> String {
        let parts: Vec<_> =
            self.subnets.iter().map(|subnet| format!("{}-{}", subnet.base(), subnet.prefix_len)).collect();
        format!("subnets/{}", parts.join("&"))
    }
}

impl Subnet {
    /// From an address in the subnet, as `FLANNEL_SUBNET` has it.
    fn with_gateway(network: &str, gateway: &str) -> Result<Self> {
        let context = || format!("read the subnet {gateway:?}");
        let (address, prefix_len) = gateway.split_once('/').with_context(context)?;
        Ok(Self {
            network: network.to_owned(),
            gateway: address.parse().with_context(context)?,
            prefix_len: prefix_len.parse().with_context(context)?,
        })
    }

    fn by_hand(network: &str, subnet: &str) -> Result<Self> {
        let subnet = Self::with_gateway(network, subnet)?;
        Ok(Self { gateway: moved(subnet.gateway, 1), ..subnet })
    }

    /// The first address, where the overlay device lives.
    pub fn base(&self) -> IpAddr {
        moved(self.gateway, -1)
    }

    /// The subnet as `base/len`.
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.base(), self.prefix_len)
    }

    /// The address of pod number `index`, counted from zero.
    pub fn pod_address(&self, index: u32) -> IpAddr {
        moved(self.gateway, 1 + index.cast_signed())
    }
}

/// The address `steps` further on.
fn moved(address: IpAddr, steps: i32) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().wrapping_add_signed(steps)).into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits().wrapping_add_signed(steps.into())).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_flannel_writes() {
        let text = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        let subnet = SubnetEnv::parse(text).unwrap();
        assert_eq!(subnet, SubnetEnv::by_hand("10.42.0.0/16", "10.42.3.0/24", 1450).unwrap());
        assert_eq!(
            (subnet.cidr(), subnet.lease_key()),
            ("10.42.3.0/24".into(), "subnets/10.42.3.0-24".into())
        );
        assert_eq!(subnet.subnets.first().pod_address(0), Ipv4Addr::new(10, 42, 3, 2));
    }

    #[test]
    fn reads_both_families() {
        let text = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.3.1/24\nFLANNEL_IPV6_NETWORK=fd42::/48\n\
            FLANNEL_IPV6_SUBNET=fd42:0:0:3::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n";
        let subnet = SubnetEnv::parse(text).unwrap();
        assert!(subnet.ip_masq);
        assert_eq!(subnet.lease_key(), "subnets/10.42.3.0-24&fd42:0:0:3::-64");
        assert_eq!(subnet.ipv6().unwrap().pod_address(0), "fd42:0:0:3::2".parse::<IpAddr>().unwrap());
        let by_hand = SubnetEnv::by_hand("10.42.0.0/16", "10.42.3.0/24", 1430).unwrap();
        let by_hand = by_hand.with_ipv6("fd42::/48", "fd42:0:0:3::/64").unwrap();
        assert_eq!(subnet, SubnetEnv { ip_masq: true, ..by_hand });
    }

    #[test]
    fn names_what_is_missing() {
        let error = SubnetEnv::parse("FLANNEL_NETWORK=10.42.0.0/16\n").unwrap_err().to_string();
        assert!(error.contains("FLANNEL_SUBNET"), "{error}");
    }
}
