//! A node of the overlay without an agent: stock kernel VXLAN devices, set up by hand as flanneld does (FLANNEL.md 5.1).

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use crate::families::Families;
use crate::links;
use crate::node::Node;
use crate::subnet::{Subnet, SubnetEnv};

/// The name of the device of tunnels over IPv4.
pub const DEVICE: &str = "flannel.1";
/// The name of the device of tunnels over IPv6.
pub const DEVICE6: &str = "flannel-v6.1";

/// What flanneld asks the kernel for beside VNI, MTU, MAC and addresses.
pub const FLANNEL_OPTIONS: &str = "dstport 8472 nolearning ttl auto noudp6zerocsumtx noudp6zerocsumrx";

/// The kernel's VXLAN devices on one node: one per family of its subnets, or one for all of them.
#[derive(Debug)]
pub struct KernelVtep<'node> {
    node: &'node Node,
    own: Families<Peer>,
}

/// A node as its peers see it, for one family.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The first address of its subnet.
    pub base: IpAddr,
    /// The prefix length of its subnet.
    pub prefix_len: u8,
    /// The MAC address of its VXLAN device that this family takes.
    pub vtep_mac: String,
    /// Its address on the underlay, whose family says which device that is.
    pub public_ip: IpAddr,
}

impl Peer {
    /// The node that holds `subnet`, with its device already there.
    pub fn of(node: &Node, subnet: &Subnet) -> Result<Self> {
        Self::at(own_family(node, subnet.base()), node, subnet)
    }

    /// The same where the subnet's packets are sent to this address of the node, of whatever family.
    pub fn at(public_ip: IpAddr, node: &Node, subnet: &Subnet) -> Result<Self> {
        let vtep_mac = links::mac(node.netns(), device(public_ip))?;
        Ok(Self { base: subnet.base(), prefix_len: subnet.prefix_len, vtep_mac, public_ip })
    }
}

impl<'node> KernelVtep<'node> {
    /// Creates the devices for a node that holds the subnets of `env`.
    pub fn create(node: &'node Node, env: &SubnetEnv) -> Result<Self> {
        Self::with_options(node, env, FLANNEL_OPTIONS)
    }

    /// The same with other words for `ip link add … type vxlan` than [`FLANNEL_OPTIONS`].
    pub fn with_options(node: &'node Node, env: &SubnetEnv, options: &str) -> Result<Self> {
        for subnet in env.subnets.iter() {
            let local = own_family(node, subnet.base());
            add_device(node, local, options)?;
            give_address(node, subnet, local)?;
        }
        Self::found(node, env)
    }

    /// One device for all subnets of `env`, whose tunnels start at `local`, an address of either family.
    pub fn over(local: IpAddr, node: &'node Node, env: &SubnetEnv) -> Result<Self> {
        add_device(node, local, FLANNEL_OPTIONS)?;
        env.subnets.iter().try_for_each(|subnet| give_address(node, subnet, local))?;
        Self::with(node, env, |subnet| Peer::at(local, node, subnet))
    }

    /// Goes on with the devices that are there.
    pub fn found(node: &'node Node, env: &SubnetEnv) -> Result<Self> {
        Self::with(node, env, |subnet| Peer::of(node, subnet))
    }

    fn with(
        node: &'node Node,
        env: &SubnetEnv,
        mut own: impl FnMut(&Subnet) -> Result<Peer>,
    ) -> Result<Self> {
        let ipv4 = env.subnets.ipv4().map(&mut own).transpose()?;
        let ipv6 = env.subnets.ipv6().map(&mut own).transpose()?;
        let own = Families::new(ipv4, ipv6);
        Ok(Self { node, own: own.context("a node holds a subnet")? })
    }

    /// How its peers see it.
    pub fn own(&self) -> &Families<Peer> {
        &self.own
    }

    /// The lease value that tells flannel and us of this node.
    pub fn lease_json(&self) -> String {
        let end = |is_ipv4| self.own.iter().find(|peer| peer.public_ip.is_ipv4() == is_ipv4);
        let (ipv4, ipv6) = (end(true), end(false));
        let address = |peer: &Peer| format!("\"{}\"", peer.public_ip);
        let data = |member: &str, peer: Option<&Peer>| {
            let data = |peer: &Peer| format!(r#","{member}":{{"VNI":1,"VtepMAC":"{}"}}"#, peer.vtep_mac);
            peer.map(data).unwrap_or_default()
        };
        let (data4, data6) = (data("BackendData", ipv4), data("BackendV6Data", ipv6));
        let ipv4 = ipv4.map_or("\"0.0.0.0\"".to_owned(), address);
        let ipv6 = ipv6.map_or("null".to_owned(), address);
        format!(r#"{{"PublicIP":{ipv4},"PublicIPv6":{ipv6},"BackendType":"vxlan"{data4}{data6}}}"#)
    }

    /// Makes a peer's subnet reachable: permanent neighbour, FDB entry, route.
    pub fn add_peer(&self, peer: &Peer) -> Result<()> {
        let Peer { base, prefix_len, vtep_mac, public_ip } = peer;
        let (netns, device) = (self.node.netns(), device(*public_ip));
        netns.ip(&format!("neigh replace {base} lladdr {vtep_mac} nud permanent dev {device}"))?;
        netns.bridge(&format!("fdb replace {vtep_mac} dev {device} dst {public_ip} self permanent"))?;
        netns.ip(&format!("route replace {base}/{prefix_len} via {base} dev {device} onlink proto boot"))?;
        Ok(())
    }

    /// Makes a peer's subnet reachable without the tunnel, as flanneld does with DirectRouting.
    pub fn add_direct_peer(&self, peer: &Peer) -> Result<()> {
        let Peer { base, prefix_len, public_ip, .. } = peer;
        let family = if base.is_ipv4() && public_ip.is_ipv6() { "inet6 " } else { "" };
        let via = format!("via {family}{public_ip}");
        self.node.netns().ip(&format!("route replace {base}/{prefix_len} {via} dev eth0 proto boot"))?;
        Ok(())
    }
}

/// The device of tunnels of the family of `address`.
pub fn device(address: IpAddr) -> &'static str {
    if address.is_ipv4() { DEVICE } else { DEVICE6 }
}

/// The node's address on the underlay of the family of `base`, or of the one it has.
fn own_family(node: &Node, base: IpAddr) -> IpAddr {
    let family = if base.is_ipv4() { node.addresses().ipv4() } else { node.addresses().ipv6() };
    family.map_or(node.address(), |place| place.address)
}

fn add_device(node: &Node, local: IpAddr, options: &str) -> Result<()> {
    let (netns, name) = (node.netns(), device(local));
    // Flanneld asks for 50 less with IPv6, too, and the kernel cuts that to what fits.
    let mtu = links::mtu(netns, "eth0")? - if local.is_ipv4() { 50 } else { 70 };
    netns.ip(&format!(
        "link add {name} mtu {mtu} txqueuelen 0 type vxlan id 1 local {local} dev eth0 {options}"
    ))?;
    // A device too narrow for IPv6 has nothing of it.
    if mtu >= 1280 {
        netns.sysctl(&[&format!("net.ipv6.conf.{}.accept_ra=0", name.replace('.', "/"))])?;
    }
    netns.ip(&format!("link set {name} up"))?;
    Ok(())
}

/// The subnet's first address on the device whose tunnels start at `local`.
fn give_address(node: &Node, subnet: &Subnet, local: IpAddr) -> Result<()> {
    let (base, name) = (subnet.base(), device(local));
    let host_len = if base.is_ipv4() { 32 } else { 128 };
    node.netns().ip(&format!("address add {base}/{host_len} dev {name}"))?;
    Ok(())
}
