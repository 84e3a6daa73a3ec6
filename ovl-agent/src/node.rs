//! This node, as the backends need to know it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::family::ByFamily;

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

impl Underlay {
    /// Its IPv4 address, which every network of this version has.
    pub fn ipv4(&self) -> Ipv4Addr {
        match self.addresses.v4 {
            Some(IpAddr::V4(address)) => address,
            Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
        }
    }
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its place on the underlay.
    pub underlay: Underlay,
    /// The address that peers send to: the underlay's, unless a NAT stands between.
    pub public_ip: Ipv4Addr,
    /// The subnet it holds.
    pub subnet: Ipv4Net,
}
