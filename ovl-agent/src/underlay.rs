//! Which interface the overlay runs on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use rtnetlink::Handle;

use crate::family::{ByFamily, Family};
use crate::netlink::{Interface, addresses, default_route_interface, interfaces};
use crate::node::Underlay;

/// How the operator names the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// `--iface`.
    pub iface: Option<String>,
    /// `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The families of the network.
    pub families: Vec<Family>,
}

/// Finds the interface and its addresses.
pub async fn find(handle: &Handle, choice: &Choice) -> Result<Underlay> {
    let interfaces = interfaces(handle).await?;
    let addresses = addresses(handle).await?;
    let default = default_route_interface(handle).await?;
    let index = match &choice.iface {
        Some(name) => by_name(name, &interfaces)?,
        None => default.context("this node has no default route; name the interface with --iface")?,
    };
    let interface = interfaces.get(&index).context("the interface vanished")?;
    let mut found = ByFamily::default();
    for family in &choice.families {
        let mut mine = addresses.iter().filter(|(ifindex, net)| {
            *ifindex == index && Family::of_net(net) == *family && !is_link_local(net)
        });
        let (_, net) = mine.next().with_context(|| format!("{} has no {family} address", interface.name))?;
        found.set(*family, Some(net.addr()));
    }
    Ok(Underlay {
        name: interface.name.clone(),
        ifindex: index,
        addresses: found,
        mtu: interface.mtu,
        ethernet: interface.ethernet,
    })
}

fn is_link_local(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn by_name(name: &str, interfaces: &BTreeMap<u32, Interface>) -> Result<u32> {
    let Some(interface) = interfaces.values().find(|interface| interface.name == name) else {
        bail!("--iface {name}: there is no such interface");
    };
    Ok(interface.ifindex)
}
