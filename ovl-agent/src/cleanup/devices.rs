//! Devices of overlays.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{InfoKind, LinkMessage};

use super::{Leftover, Removal};
use crate::netlink::{LinkFacts, absent_is_success, links};

/// What of a device tells whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    ifindex: u32,
    name: String,
    alias: String,
    kind: Option<InfoKind>,
}

impl Device {
    /// Whether it is to go.
    fn is_leftover(&self, flannel: bool) -> bool {
        self.is_ours() || (flannel && self.is_flannels())
    }

    /// A device of a tunnel, a TUN device or what stands in for one, with the alias that the tables set: `ovl` and the network.
    fn is_ours(&self) -> bool {
        let network = self.alias.strip_prefix("ovl ").map(str::parse::<IpNet>);
        let is_made = matches!(
            self.kind,
            Some(InfoKind::Vxlan | InfoKind::Tun | InfoKind::IpIp | InfoKind::Ip6Tnl | InfoKind::Veth)
        );
        is_made && matches!(network, Some(Ok(_)))
    }

    /// A device with a name that flanneld gives, and of the kind that it makes (FLANNEL.md 5).
    fn is_flannels(&self) -> bool {
        let number = |prefix| {
            let digits = self.name.strip_prefix(prefix);
            digits.is_some_and(|digits: &str| {
                !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        let kind = if number("flannel.") || number("flannel-v6.") {
            InfoKind::Vxlan
        } else if number("flannel") {
            InfoKind::Tun
        } else if self.name == "flannel.ipip" {
            InfoKind::IpIp
        } else if self.name == "flannel-wg" || self.name == "flannel-wg-v6" {
            InfoKind::Wireguard
        } else {
            return false;
        };
        self.kind == Some(kind)
    }
}

/// All devices of the namespace, and which of them are to go.
#[derive(Debug)]
pub(super) struct Devices {
    names: BTreeMap<u32, String>,
    leftovers: Vec<Device>,
}

impl Devices {
    /// The device's name, or its number where it is new.
    pub(super) fn name(&self, ifindex: u32) -> String {
        self.names.get(&ifindex).cloned().unwrap_or_else(|| format!("#{ifindex}"))
    }

    /// Those that are to go.
    pub(super) fn going(&self) -> BTreeSet<u32> {
        self.leftovers.iter().map(|device| device.ifindex).collect()
    }

    /// Those that are to go. What hangs on them goes along: addresses, routes, neighbours, forwarding entries.
    pub(super) fn leftovers(self) -> Vec<Leftover> {
        let leftovers = self.leftovers.into_iter().map(|device| Leftover {
            what: format!("device {} and what hangs on it", device.name),
            how: Removal::Device(device.ifindex),
        });
        leftovers.collect()
    }
}

pub(super) async fn find(handle: &Handle, flannel: bool) -> Result<Devices> {
    let devices: Vec<Device> = links(handle).await?.iter().map(device).collect();
    let names = devices.iter().map(|device| (device.ifindex, device.name.clone())).collect();
    let leftovers = devices.into_iter().filter(|device| device.is_leftover(flannel)).collect();
    Ok(Devices { names, leftovers })
}

pub(super) async fn remove(handle: &Handle, ifindex: u32) -> Result<()> {
    absent_is_success(handle.link().del(ifindex).execute().await)
}

fn device(message: &LinkMessage) -> Device {
    let facts = LinkFacts::of(message);
    Device {
        ifindex: facts.ifindex,
        name: facts.name.to_owned(),
        alias: facts.alias.to_owned(),
        kind: facts.kind().cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_kind_and_alias_or_name() {
        use InfoKind::{Dummy, Ip6Tnl, IpIp, Tun, Veth, Vxlan, Wireguard};
        // Ours, and flannel's.
        let table = [
            ("flannel.1", "ovl 10.42.0.0/16", Vxlan, true, true),
            ("flannel-v6.1", "ovl fd42::/48", Vxlan, true, true),
            ("renamed", "ovl 10.42.0.0/16", Vxlan, true, false),
            ("flannel0", "ovl 10.42.0.0/16", Tun, true, true),
            ("flannel.ipip", "ovl 10.42.0.0/16", IpIp, true, true),
            ("flannel-v6.ipip", "ovl 10.42.0.0/16", Ip6Tnl, true, false),
            ("flannel.ipip", "ovl 10.42.0.0/16", Veth, true, false),
            ("flannel.1", "", Vxlan, false, true),
            ("flannel.4096", "somebody's", Vxlan, false, true),
            ("flannel-v6.7", "", Vxlan, false, true),
            ("flannel.ipip", "", IpIp, false, true),
            ("flannel0", "", Tun, false, true),
            ("flannel-wg", "", Wireguard, false, true),
            ("flannel-wg-v6", "", Wireguard, false, true),
            // Others.
            ("flannel.1", "ovl 10.42.0.0/16", Dummy, false, false),
            ("dummy", "ovl 10.42.0.0/16", Dummy, false, false),
            ("vxlan5", "ovl", Vxlan, false, false),
            ("vxlan5", "ovl cluster", Vxlan, false, false),
            ("flannel.", "", Vxlan, false, false),
            ("flannel.1x", "", Vxlan, false, false),
            ("flannel0", "", Vxlan, false, false),
            ("flannel", "", Tun, false, false),
            ("flannel-wg1", "", Wireguard, false, false),
            ("cni0", "", InfoKind::Bridge, false, false),
        ];
        for (name, alias, kind, ours, flannels) in table {
            let device = Device { ifindex: 1, name: name.into(), alias: alias.into(), kind: Some(kind) };
            assert_eq!((device.is_ours(), device.is_flannels()), (ours, flannels), "{device:?}");
        }
    }
}
