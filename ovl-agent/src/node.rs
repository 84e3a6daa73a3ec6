//! This node, as the backends need to know it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// This node's place on the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Name of the interface.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its address.
    pub address: Ipv4Addr,
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
    /// The address that peers send to: the underlay's, unless a NAT stands between.
    pub public_ip: Ipv4Addr,
    /// The subnet it holds.
    pub subnet: Ipv4Net,
}
