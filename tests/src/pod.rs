//! A pod: a network namespace plugged into its node's pod bridge, as the CNI bridge plugin does it ([`crate::cni`] has the
//! plugin itself do it).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;

use crate::families::Families;
use crate::links;
use crate::netns::Netns;
use crate::node::{Node, POD_BRIDGE, Traits};
use crate::subnet::SubnetEnv;
use crate::wait::wait_for;

/// A pod; dropping it removes its namespace.
#[derive(Debug)]
pub struct Pod {
    label: String,
    netns: Netns,
    addresses: Families<IpAddr>,
    node: String,
    host_interface: String,
}

impl Pod {
    pub(crate) fn create(
        node: &Node,
        name: &str,
        subnet: &SubnetEnv,
        index: u32,
        traits: Traits,
    ) -> Result<Self> {
        let netns = Netns::create(&format!("{}-{name}", node.netns().name()))?;
        traits.prepare_ipv6(&netns)?;
        let host_interface = format!("veth{index}");
        let mtu = subnet.mtu;
        node.netns().ip(&format!(
            "link add {host_interface} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            netns.name()
        ))?;
        node.netns().ip(&format!("link set {host_interface} master {POD_BRIDGE} up"))?;
        netns.ip("link set eth0 up")?;
        for subnet in subnet.subnets.iter() {
            netns.ip(&format!("address add {}/{} dev eth0", subnet.pod_address(index), subnet.prefix_len))?;
            netns.ip(&format!("route add default via {} dev eth0", subnet.gateway))?;
        }
        let addresses = subnet.subnets.map(|subnet| subnet.pod_address(index));
        if traits.plain_packets {
            links::make_packets_plain(&netns, "eth0")?;
            links::make_packets_plain(node.netns(), &host_interface)?;
        }
        wait_for_port(node.netns(), &host_interface)?;
        announce(&netns)?;
        let label = format!("{}/{name}", node.name());
        Ok(Self { label, netns, addresses, node: node.netns().name().to_owned(), host_interface })
    }

    /// A pod that a CNI plugin has made in `netns`.
    pub(crate) fn made(
        node: &Node,
        name: &str,
        netns: Netns,
        addresses: Families<IpAddr>,
        port: &str,
    ) -> Self {
        let (label, node) = (format!("{}/{name}", node.name()), node.netns().name().to_owned());
        Self { label, netns, addresses, node, host_interface: port.to_owned() }
    }

    /// Node and pod name, such as `node1/a`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The pod's address in the overlay, the IPv4 one where it has one.
    pub fn address(&self) -> IpAddr {
        *self.addresses.first()
    }

    /// The pod's IPv6 address in the overlay.
    pub fn address6(&self) -> Option<Ipv6Addr> {
        match self.addresses.ipv6()? {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        }
    }

    /// The pod's addresses in the overlay.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied()
    }

    /// The network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The name of the veth's end in the node.
    pub fn host_interface(&self) -> &str {
        &self.host_interface
    }

    /// Leaves the pod in place when the guard goes away.
    pub fn keep(&mut self) {
        self.netns.keep();
    }

    /// Removes the pod, and waits for the kernel to have removed its interface from the node: when a namespace is
    /// merely deleted, that happens some time later.
    pub fn remove(self) -> Result<()> {
        crate::command::Cmd::host("ip")
            .args(["-n", &self.node, "link", "delete", &self.host_interface])
            .run()?;
        Ok(())
    }
}

/// A new port forwards nothing until the bridge has noticed its carrier.
fn wait_for_port(node: &Netns, interface: &str) -> Result<()> {
    wait_for(&format!("the bridge to forward for {interface}"), Duration::from_secs(5), || {
        Ok(node.bridge(&format!("link show dev {interface}"))?.contains("state forwarding"))
    })
}

/// Tells the neighbours the new pod's MAC address, as the bridge plugin does: they may remember an earlier pod's.
pub fn announce(pod: &Netns) -> Result<()> {
    pod.sysctl(&["net.ipv4.conf.eth0.arp_notify=1"])?;
    // A device too narrow for IPv6 has nothing of it.
    if links::mtu(pod, "eth0")? >= 1280 {
        pod.sysctl(&["net.ipv6.conf.eth0.ndisc_notify=1"])?;
    }
    // The kernel announces an address when it is set, also when it is the one the device already has.
    pod.ip(&format!("link set eth0 address {}", links::mac(pod, "eth0")?))?;
    Ok(())
}
