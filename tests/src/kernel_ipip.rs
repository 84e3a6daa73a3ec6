//! A node of the overlay without an agent: the kernel's own devices of IP in IP, set up by hand as flanneld does (FLANNEL.md
//! 5.4), and over IPv6, which flanneld has not, in the same way. Needs a kernel that has them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use crate::links;
use crate::node::Node;
use crate::subnet::{Subnet, SubnetEnv};

/// The name of the device of tunnels over IPv4.
pub const DEVICE: &str = "flannel.ipip";
/// The name of the device of tunnels over IPv6.
pub const DEVICE6: &str = "flannel-v6.ipip";

/// Creates the devices for a node that holds the subnets of `env`, and returns its lease value.
pub fn create(node: &Node, env: &SubnetEnv) -> Result<String> {
    for subnet in env.subnets.iter() {
        let (base, local) = (subnet.base(), local(node, subnet)?);
        let mtu = links::mtu(node.netns(), "eth0")?;
        let (name, options, mtu, host_len) = match local {
            IpAddr::V4(_) => (DEVICE, "type ipip nopmtudisc", mtu - 20, 32),
            // Any family inside; without an option header in front of it.
            IpAddr::V6(_) => (DEVICE6, "type ip6tnl mode any encaplimit none", mtu - 40, 128),
        };
        node.netns().ip(&format!("link add {name} mtu {mtu} {options} local {local}"))?;
        node.netns().ip(&format!("address add {base}/{host_len} dev {name}"))?;
        node.netns().ip(&format!("link set {name} up"))?;
    }
    let public = |ipv4| env.subnets.iter().find(|subnet| subnet.base().is_ipv4() == ipv4);
    let address = |ipv4| public(ipv4).map(|subnet| local(node, subnet)).transpose();
    let ipv4 = address(true)?.context("a node of flannel's ipip has an IPv4 address")?;
    let ipv6 = address(false)?.map_or("null".to_owned(), |ipv6| format!("\"{ipv6}\""));
    Ok(format!(r#"{{"PublicIP":"{ipv4}","PublicIPv6":{ipv6},"BackendType":"ipip"}}"#))
}

/// Makes the subnets of `peer`, which are those of `env`, reachable.
pub fn add_peer(node: &Node, peer: &Node, env: &SubnetEnv) -> Result<()> {
    for subnet in env.subnets.iter() {
        let via = local(peer, subnet)?;
        let device = if via.is_ipv4() { DEVICE } else { DEVICE6 };
        // IPv6 believes that a next hop is on a link only where no route says otherwise.
        let hint = format!("{via}/{} dev {device}", if via.is_ipv4() { 32 } else { 128 });
        if via.is_ipv6() {
            node.netns().ip(&format!("route add {hint}"))?;
        }
        node.netns().ip(&format!("route replace {} via {via} dev {device} onlink", subnet.cidr()))?;
        if via.is_ipv6() {
            node.netns().ip(&format!("route del {hint}"))?;
        }
    }
    Ok(())
}

/// The node's address on the underlay of the family of `subnet`.
fn local(node: &Node, subnet: &Subnet) -> Result<IpAddr> {
    let places = node.addresses();
    let place = if subnet.base().is_ipv4() { places.ipv4() } else { places.ipv6() };
    Ok(place.context("the node has an address of each family of its subnets")?.address)
}
