//! This node, as the backends need to know it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::family::{ByFamily, Family};
use crate::lease::LeaseKey;

/// This node's place on the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Name of the interface.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its address of each family that the network has.
    pub addresses: ByFamily<IpAddr>,
    /// Its MTU, bytes of IP packet.
    pub mtu: u32,
    /// Whether its packets have an Ethernet header, which the programs read.
    pub ethernet: bool,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its place on the underlay.
    pub underlay: Underlay,
    /// The addresses that peers send to: the underlay's, unless a NAT stands between.
    pub public_ips: ByFamily<IpAddr>,
    /// The subnets it holds.
    pub lease: LeaseKey,
}

impl Node {
    /// The subnet it holds of one family.
    pub fn subnet(&self, family: Family) -> Option<IpNet> {
        self.lease.subnet(family)
    }

    /// Whether `address` is one that peers or its own interface know it by.
    pub fn is_known_as(&self, address: IpAddr) -> bool {
        let family = Family::of(address);
        let is_ours = |addresses: &ByFamily<IpAddr>| addresses.get(family) == Some(&address);
        is_ours(&self.public_ips) || is_ours(&self.underlay.addresses)
    }
}
