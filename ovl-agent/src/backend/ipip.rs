//! `ipip`: a device per family outside whose packets travel in IP, and per peer and family inside one route through the
//! peer's public address (FLANNEL.md 5.4).

use ovl_common::{Encapsulation, Mac, Remote, Travel};

use super::way::outer;
use super::{Desired, Here, IpTunnel, Peer, Route, RouteKey, Tunnel, bpf_prefix, direct, own_address};
use crate::family::{ByFamily, Family};
use crate::network::IpipOptions;
use crate::node::{Node, Underlay};

/// IPv4 in IPv4, and both in IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipip {
    /// Options of the network config.
    pub options: IpipOptions,
    /// What the device of each family outside is.
    pub devices: ByFamily<Device>,
}

/// What carries the packets that are not on the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The kernel's tunnel device: `ipip` over IPv4, `ip6tnl` over IPv6.
    Kernel,
    /// An end of a veth pair, where the kernel has none: the programs wrap whatever is sent by it.
    StandIn,
}

impl Ipip {
    /// The name in leases.
    pub const NAME: &str = "ipip";

    /// The names of the devices.
    pub fn device_names(&self) -> ByFamily<String> {
        self.devices.map(|family, _| Self::device_name(family))
    }

    /// `flannel.ipip` as flannel has it for tunnels over IPv4, `flannel-v6.ipip` for those over IPv6.
    pub fn device_name(family: Family) -> String {
        match family {
            Family::V4 => "flannel.ipip",
            Family::V6 => "flannel-v6.ipip",
        }
        .to_owned()
    }

    /// Whether the programs must work, since nothing else carries packets.
    pub fn needs_programs(&self) -> bool {
        self.devices.iter().any(|(_, device)| *device == Device::StandIn)
    }

    /// What the narrowest of the tunnels carries, bytes.
    pub(super) fn narrowest(underlay: &Underlay) -> u32 {
        let each = underlay.addresses.iter().map(|(family, _)| mtu(family, underlay.mtu));
        each.min().unwrap_or(underlay.mtu)
    }

    /// What programs write and read.
    pub(super) fn tunnels(&self, underlay_mtu: u32) -> ByFamily<Tunnel> {
        self.devices.map(|family, device| Tunnel {
            encapsulation: Encapsulation::Ipip,
            stand_in: *device == Device::StandIn,
            vni: 0,
            port: 0,
            mac: Mac::default(),
            mtu: mtu(family, underlay_mtu),
        })
    }

    /// The devices and their addresses.
    pub(super) fn own_rows(&self, node: &Node, desired: &mut Desired) {
        for (family, device) in self.devices.iter() {
            let Some(local) = node.underlay.addresses.get(family) else { continue };
            let mtu = mtu(family, node.underlay.mtu);
            let tunnel = match device {
                Device::Kernel => IpTunnel::Kernel { local: *local, mtu },
                Device::StandIn => IpTunnel::StandIn { mtu },
            };
            desired.ip_tunnels.insert(Self::device_name(family), tunnel);
        }
        for (inner, subnet) in node.lease.subnets().iter() {
            if let Some(family) = outer(inner, &self.devices, &self.devices) {
                desired.addresses.insert((family, own_address(subnet)), ());
            }
        }
    }

    pub(super) fn peer_rows(&self, peer: &Peer<'_>, here: &Here<'_>, desired: &mut Desired) {
        if peer.way.link.is_some() {
            direct::peer_rows(peer, here, desired);
            return;
        }
        let gateway = peer.way.node;
        let outer = Family::of(gateway);
        let Some(device) = here.overlay.get(outer).cloned() else { return };
        // IPv6 takes no next hop on a device that its routes lead to by another, and a stand-in needs none.
        let route = match self.devices.get(outer) {
            Some(Device::StandIn) if outer == Family::V6 => Route::Device(device),
            _ => Route::Via { gateway, device, onlink: true },
        };
        desired.routes.insert(RouteKey::usual(peer.subnet), route);
        // What the node itself sends by this device has an address of its own, too.
        if let Some(own) = here.node.subnet(Family::of_net(&peer.subnet)) {
            desired.addresses.insert((outer, own_address(&own)), ());
        }
        let remote = Remote {
            node: gateway.into(),
            travel: Travel::Ipip as u8,
            zero_checksum: 0,
            vtep_mac: Mac::default(),
        };
        desired.remotes.insert(bpf_prefix(peer.subnet), remote);
    }
}

/// The largest packet that fits behind an outer header without options: of 20 (IPv4) or 40 (IPv6) bytes.
fn mtu(family: Family, underlay_mtu: u32) -> u32 {
    let header = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    underlay_mtu.saturating_sub(header)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::testing::{desired, network, node, view};
    use crate::backend::{Backend, OnLink};

    fn ipip(device: Device, direct_routing: bool) -> Backend {
        let devices = ByFamily { v4: Some(device), v6: Some(device) };
        Backend::Ipip(Ipip { options: IpipOptions { direct_routing }, devices })
    }

    const PEER: (&str, &str) = (
        "10.42.7.0-24&fd42:0:0:7::-64",
        r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12","BackendType":"ipip"}"#,
    );

    fn route(desired: &Desired, subnet: &str) -> Option<Route> {
        desired.routes.get(&RouteKey::usual(subnet.parse().expect(subnet))).cloned()
    }

    fn via(gateway: &str, device: &str, onlink: bool) -> Route {
        Route::Via { gateway: gateway.parse().expect(gateway), device: device.into(), onlink }
    }

    #[test]
    fn rows_are_those_that_flannel_would_write_in_both_families() {
        let desired = desired(&ipip(Device::Kernel, false), &[PEER]);
        let [v4, v6] = ["192.0.2.11", "2001:db8::11"].map(|local| local.parse().expect(local));
        assert_eq!(desired.ip_tunnels["flannel.ipip"], IpTunnel::Kernel { local: v4, mtu: 1480 });
        assert_eq!(desired.ip_tunnels["flannel-v6.ipip"], IpTunnel::Kernel { local: v6, mtu: 1460 });
        let addresses: Vec<_> =
            desired.addresses.keys().map(|(family, net)| (*family, net.to_string())).collect();
        let own = [(Family::V4, "10.42.3.0/32".to_owned()), (Family::V6, "fd42:0:0:3::/128".to_owned())];
        assert_eq!(addresses, own);
        assert_eq!(route(&desired, "10.42.7.0/24"), Some(via("192.0.2.12", "flannel.ipip", true)));
        assert_eq!(route(&desired, "fd42:0:0:7::/64"), Some(via("2001:db8::12", "flannel-v6.ipip", true)));
        for remote in desired.remotes.values() {
            assert_eq!(remote.travel, Travel::Ipip as u8);
        }
        assert_eq!(desired.remotes.len(), 2);
        let others = (desired.devices.len(), desired.neighbours.len(), desired.fdb.len());
        assert_eq!((others, desired.rejected.len()), ((0, 0, 0), 0));
    }

    #[test]
    fn a_stand_in_differs_in_the_device_and_has_no_ipv6_next_hops() {
        let (kernel, stand_in) = (ipip(Device::Kernel, false), ipip(Device::StandIn, false));
        let mut rows = desired(&stand_in, &[PEER]);
        assert_eq!(rows.ip_tunnels["flannel.ipip"], IpTunnel::StandIn { mtu: 1480 });
        let expected = desired(&kernel, &[PEER]);
        rows.ip_tunnels.clone_from(&expected.ip_tunnels);
        assert_eq!(route(&rows, "10.42.7.0/24"), Some(via("192.0.2.12", "flannel.ipip", true)));
        let into = Some(Route::Device("flannel-v6.ipip".into()));
        assert_eq!(route(&rows, "fd42:0:0:7::/64"), into, "the next hop would have to be on its link");
        rows.routes.clone_from(&expected.routes);
        assert_eq!(rows, expected);
        assert!(stand_in.tunnels(1500).iter().all(|(_, tunnel)| tunnel.stand_in));
        assert!(stand_in.needs_programs() && !kernel.needs_programs());
    }

    #[test]
    fn leases_and_mtu_are_flannels() {
        let backend = ipip(Device::Kernel, false);
        let mut node = node();
        let json = serde_json::to_string(&backend.attrs(&node.public_ips)).expect("plain data");
        assert_eq!(json, r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11","BackendType":"ipip"}"#);
        assert_eq!(backend.mtu(&node.underlay), 1460, "pods have the narrower of the two");
        node.underlay.addresses.v6 = None;
        assert_eq!(backend.mtu(&node.underlay), 1480);
        assert_eq!(backend.rules_name(&network()), "flannel.ipip");
    }

    #[test]
    fn families_are_crossed_only_where_linux_has_the_routes() {
        let only = |v4: Option<&str>, v6: Option<&str>| {
            let v4 = v4.map(|ip| format!(r#""PublicIP":"{ip}","#)).unwrap_or_default();
            let v6 = v6.map(|ip| format!(r#""PublicIPv6":"{ip}","#)).unwrap_or_default();
            format!(r#"{{{v4}{v6}"BackendType":"ipip"}}"#)
        };
        let attrs = only(None, Some("2001:db8::12"));
        let rows = desired(&ipip(Device::Kernel, false), &[(PEER.0, &attrs)]);
        assert_eq!(route(&rows, "10.42.7.0/24"), Some(via("2001:db8::12", "flannel-v6.ipip", true)));
        assert_eq!(rows.addresses.len(), 3, "the IPv4 address is on both devices");
        let attrs = only(Some("192.0.2.12"), None);
        let rows = desired(&ipip(Device::Kernel, false), &[(PEER.0, &attrs)]);
        assert_eq!(route(&rows, "fd42:0:0:7::/64"), None);
        let reason = rows.rejected.values().next().expect("IPv6 has no way");
        assert!(reason.contains("ipip cannot carry IPv6 over IPv4"), "{reason}");
    }

    #[test]
    fn direct_routing_takes_peers_on_the_link_past_the_tunnel() {
        let link: Arc<str> = "eth0".into();
        let on_link = OnLink::from([("192.0.2.12".parse().expect("an address"), link)]);
        for (is_asked, expected) in
            [(false, via("192.0.2.12", "flannel.ipip", true)), (true, via("192.0.2.12", "eth0", false))]
        {
            let backend = ipip(Device::Kernel, is_asked);
            assert_eq!(backend.wants_on_link(), is_asked);
            let rows = backend.desired(&node(), &network(), &view(&[PEER]), &on_link);
            assert_eq!(route(&rows, "10.42.7.0/24"), Some(expected));
            assert_eq!(route(&rows, "fd42:0:0:7::/64"), Some(via("2001:db8::12", "flannel-v6.ipip", true)));
        }
    }
}
