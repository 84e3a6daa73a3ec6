//! A node of the overlay without an agent: stock kernel VXLAN devices, set up by hand as flanneld does (FLANNEL.md 5.1).

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use crate::families::Families;
use crate::links;
use crate::node::Node;
use crate::subnet::{Subnet, SubnetEnv};

/// The name of the device of IPv4.
pub const DEVICE: &str = "flannel.1";
/// The name of the device of IPv6.
pub const DEVICE6: &str = "flannel-v6.1";

/// What flanneld asks the kernel for beside VNI, MTU, MAC and addresses.
pub const FLANNEL_OPTIONS: &str = "dstport 8472 nolearning ttl auto noudp6zerocsumtx noudp6zerocsumrx";

/// The kernel's VXLAN devices on one node, one per family of its subnets.
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
    /// The MAC address of its VXLAN device of this family.
    pub vtep_mac: String,
    /// Its address on the underlay.
    pub public_ip: IpAddr,
}

impl Peer {
    /// The node that holds `subnet`, with its device already there.
    pub fn of(node: &Node, subnet: &Subnet) -> Result<Self> {
        let base = subnet.base();
        let family = if base.is_ipv4() { node.addresses().ipv4() } else { node.addresses().ipv6() };
        let public_ip = family.map_or(node.address(), |place| place.address);
        let vtep_mac = links::mac(node.netns(), device(base))?;
        Ok(Self { base, prefix_len: subnet.prefix_len, vtep_mac, public_ip })
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
            add_device(node, subnet, options)?;
        }
        Self::found(node, env)
    }

    /// Goes on with the devices that are there.
    pub fn found(node: &'node Node, env: &SubnetEnv) -> Result<Self> {
        let ipv4 = env.subnets.ipv4().map(|subnet| Peer::of(node, subnet)).transpose()?;
        let ipv6 = env.subnets.ipv6().map(|subnet| Peer::of(node, subnet)).transpose()?;
        let own = Families::new(ipv4, ipv6);
        Ok(Self { node, own: own.context("a node holds a subnet")? })
    }

    /// How its peers see it.
    pub fn own(&self) -> &Families<Peer> {
        &self.own
    }

    /// The lease value that tells flannel and us of this node.
    pub fn lease_json(&self) -> String {
        let addresses = self.node.addresses();
        let ipv4 = addresses.ipv4().map_or("0.0.0.0".to_owned(), |place| place.address.to_string());
        let ipv6 = addresses.ipv6().filter(|_| self.own.ipv6().is_some());
        let ipv6 = ipv6.map_or("null".to_owned(), |place| format!("\"{}\"", place.address));
        let data = |member: &str, peer: Option<&Peer>| {
            let data = |peer: &Peer| format!(r#","{member}":{{"VNI":1,"VtepMAC":"{}"}}"#, peer.vtep_mac);
            peer.map(data).unwrap_or_default()
        };
        let (data4, data6) = (data("BackendData", self.own.ipv4()), data("BackendV6Data", self.own.ipv6()));
        format!(r#"{{"PublicIP":"{ipv4}","PublicIPv6":{ipv6},"BackendType":"vxlan"{data4}{data6}}}"#)
    }

    /// Makes a peer's subnet reachable: permanent neighbour, FDB entry, route.
    pub fn add_peer(&self, peer: &Peer) -> Result<()> {
        let Peer { base, prefix_len, vtep_mac, public_ip } = peer;
        let (netns, device) = (self.node.netns(), device(*base));
        netns.ip(&format!("neigh replace {base} lladdr {vtep_mac} nud permanent dev {device}"))?;
        netns.bridge(&format!("fdb replace {vtep_mac} dev {device} dst {public_ip} self permanent"))?;
        netns.ip(&format!("route replace {base}/{prefix_len} via {base} dev {device} onlink proto boot"))?;
        Ok(())
    }

    /// Makes a peer's subnet reachable without the tunnel, as flanneld does with DirectRouting.
    pub fn add_direct_peer(&self, peer: &Peer) -> Result<()> {
        let Peer { base, prefix_len, public_ip, .. } = peer;
        self.node.netns().ip(&format!("route replace {base}/{prefix_len} via {public_ip} proto boot"))?;
        Ok(())
    }
}

/// The device that carries `address`.
pub fn device(address: IpAddr) -> &'static str {
    if address.is_ipv4() { DEVICE } else { DEVICE6 }
}

fn add_device(node: &Node, subnet: &Subnet, options: &str) -> Result<()> {
    let (netns, base) = (node.netns(), subnet.base());
    let name = device(base);
    let (local, overhead, host_len) =
        if base.is_ipv4() { (node.addresses().ipv4(), 50, 32) } else { (node.addresses().ipv6(), 70, 128) };
    let local = local.map_or(node.address(), |place| place.address);
    // Flanneld asks for 50 less with IPv6, too, and the kernel cuts that to what fits.
    let mtu = links::mtu(netns, "eth0")? - overhead;
    netns.ip(&format!(
        "link add {name} mtu {mtu} txqueuelen 0 type vxlan id 1 local {local} dev eth0 {options}"
    ))?;
    netns.sysctl(&[&format!("net.ipv6.conf.{}.accept_ra=0", name.replace('.', "/"))])?;
    netns.ip(&format!("address add {base}/{host_len} dev {name}"))?;
    netns.ip(&format!("link set {name} up"))?;
    Ok(())
}
