//! A node of the overlay without an agent: a stock kernel VXLAN device, set up by hand as flannel would.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::links;
use crate::node::Node;
use crate::subnet::SubnetEnv;

/// The device's name.
pub const DEVICE: &str = "flannel.1";

/// The kernel's VXLAN device on one node.
#[derive(Debug)]
pub struct KernelVtep<'node> {
    node: &'node Node,
    mac: String,
}

/// A node as its peers see it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The first address of its subnet.
    pub base: Ipv4Addr,
    /// The prefix length of its subnet.
    pub prefix_len: u8,
    /// The MAC address of its VXLAN device.
    pub vtep_mac: String,
    /// Its address on the underlay.
    pub public_ip: Ipv4Addr,
}

impl<'node> KernelVtep<'node> {
    /// Creates the device for a node that holds `subnet`.
    pub fn create(node: &'node Node, subnet: &SubnetEnv) -> Result<Self> {
        let netns = node.netns();
        netns.ip(&format!(
            "link add {DEVICE} mtu {} type vxlan id 1 dstport 8472 nolearning local {} dev eth0",
            subnet.mtu,
            node.address()
        ))?;
        netns.ip(&format!("address add {}/32 dev {DEVICE}", subnet.base()))?;
        netns.ip(&format!("link set {DEVICE} up"))?;
        Ok(Self { node, mac: links::mac(netns, DEVICE)? })
    }

    /// The device's MAC address, for the lease.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// The lease value that tells flannel and us of this node.
    pub fn lease_json(&self) -> String {
        let (address, mac) = (self.node.address(), &self.mac);
        format!(
            r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        )
    }

    /// Makes a peer's subnet reachable: permanent neighbour, FDB entry, route.
    pub fn add_peer(&self, peer: &Peer) -> Result<()> {
        let Peer { base, prefix_len, vtep_mac, public_ip } = peer;
        let netns = self.node.netns();
        netns.ip(&format!("neigh replace {base} lladdr {vtep_mac} nud permanent dev {DEVICE}"))?;
        netns.bridge(&format!("fdb replace {vtep_mac} dev {DEVICE} dst {public_ip} self permanent"))?;
        netns.ip(&format!("route replace {base}/{prefix_len} via {base} dev {DEVICE} onlink"))?;
        Ok(())
    }
}
