//! Which interface the overlay runs on.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use ipnet::Ipv4Net;
use rtnetlink::Handle;

use crate::family::ByFamily;
use crate::netlink::{Interface, addresses, default_route_interface, interfaces};
use crate::node::Underlay;

/// How the operator names the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// `--iface`.
    pub iface: Option<String>,
    /// `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
}

/// Finds the interface and its address, by the rules of FLANNEL.md section 8 that concern IPv4 and one interface.
pub async fn find(handle: &Handle, choice: &Choice) -> Result<Underlay> {
    let interfaces = interfaces(handle).await?;
    let addresses = addresses(handle).await?;
    let default = default_route_interface(handle).await?;
    select(choice, &interfaces, &addresses, default)
}

fn select(
    choice: &Choice,
    interfaces: &BTreeMap<u32, Interface>,
    addresses: &[(u32, Ipv4Net)],
    default: Option<u32>,
) -> Result<Underlay> {
    let owner =
        |address: Ipv4Addr| addresses.iter().find(|(_, net)| net.addr() == address).map(|(index, _)| *index);
    let (ifindex, address) = match (&choice.iface, choice.public_ip) {
        (Some(iface), _) => match iface.parse::<Ipv4Addr>() {
            Ok(address) => {
                let index = owner(address).with_context(|| {
                    format!("--iface {address}: no interface of this node has that address")
                })?;
                (index, Some(address))
            }
            Err(_not_an_address) => (by_name(iface, interfaces)?, None),
        },
        (None, Some(public_ip)) => {
            let index = owner(public_ip).with_context(|| {
                format!(
                    "--public-ip {public_ip}: no interface of this node has that address; behind a NAT, name the \
                     interface with --iface too"
                )
            })?;
            (index, Some(public_ip))
        }
        (None, None) => {
            let index = default.context(
                "this node has no default route to tell its underlay interface by; name it with --iface",
            )?;
            (index, None)
        }
    };
    let interface =
        interfaces.get(&ifindex).context("the underlay interface vanished while it was looked up")?;
    let address = match address {
        Some(address) => address,
        None => first_address(ifindex, addresses).with_context(|| {
            format!("interface {} has no IPv4 address; give it one or choose another", interface.name)
        })?,
    };
    Ok(Underlay {
        name: interface.name.clone(),
        ifindex,
        addresses: ByFamily { v4: Some(address.into()), v6: None },
        mtu: interface.mtu,
        ethernet: interface.ethernet,
    })
}

fn by_name(name: &str, interfaces: &BTreeMap<u32, Interface>) -> Result<u32> {
    let Some(interface) = interfaces.values().find(|interface| interface.name == name) else {
        let names: Vec<&str> = interfaces.values().map(|interface| interface.name.as_str()).collect();
        bail!("--iface {name}: there is no such interface; this node has {}", names.join(", "));
    };
    Ok(interface.ifindex)
}

/// The kernel's first address, a link-local one only where there is no other.
fn first_address(ifindex: u32, addresses: &[(u32, Ipv4Net)]) -> Option<Ipv4Addr> {
    let mut mine: Vec<Ipv4Addr> =
        addresses.iter().filter(|(index, _)| *index == ifindex).map(|(_, net)| net.addr()).collect();
    mine.sort_by_key(Ipv4Addr::is_link_local);
    mine.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ifindex: u32, name: &str) -> (u32, Interface) {
        let interface = Interface {
            ifindex,
            name: name.into(),
            mtu: 1500,
            mac: ovl_common::Mac::default(),
            ethernet: true,
            veth: false,
            peer_elsewhere: false,
            bridge: None,
        };
        (ifindex, interface)
    }

    fn choose(iface: Option<&str>, public_ip: Option<[u8; 4]>, default: Option<u32>) -> Result<Underlay> {
        let interfaces = BTreeMap::from([
            interface(1, "lo"),
            interface(2, "eth0"),
            interface(3, "eth1"),
            interface(4, "bare"),
        ]);
        let addresses: Vec<(u32, Ipv4Net)> =
            [(1, "127.0.0.1/8"), (2, "169.254.1.1/16"), (2, "192.0.2.11/24"), (3, "198.51.100.5/24")]
                .map(|(index, net)| (index, net.parse().expect(net)))
                .into();
        let choice = Choice { iface: iface.map(Into::into), public_ip: public_ip.map(Into::into) };
        select(&choice, &interfaces, &addresses, default)
    }

    #[test]
    fn the_interface_is_found_as_flannel_finds_it() {
        let table = [
            (Some("eth1"), None, Some(2), "eth1", [198, 51, 100, 5]),
            (Some("eth0"), None, None, "eth0", [192, 0, 2, 11]),
            (Some("169.254.1.1"), None, None, "eth0", [169, 254, 1, 1]),
            (None, Some([198, 51, 100, 5]), Some(2), "eth1", [198, 51, 100, 5]),
            (None, None, Some(3), "eth1", [198, 51, 100, 5]),
            (Some("eth0"), Some([203, 0, 113, 9]), None, "eth0", [192, 0, 2, 11]),
        ];
        for (iface, public_ip, default, name, address) in table {
            let underlay = choose(iface, public_ip, default).expect(name);
            assert_eq!((underlay.name.as_str(), underlay.ipv4()), (name, address.into()));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            (Some("eth7"), None, None, "this node has lo, eth0, eth1, bare"),
            (Some("10.9.9.9"), None, None, "--iface 10.9.9.9"),
            (None, Some([203, 0, 113, 9]), Some(2), "--public-ip 203.0.113.9"),
            (None, None, None, "no default route"),
            (Some("bare"), None, None, "bare has no IPv4 address"),
        ];
        for (iface, public_ip, default, expected) in table {
            let error = choose(iface, public_ip, default).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
