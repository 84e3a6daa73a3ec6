//! `vxlan`: a device per family, and per peer and family one route, one neighbour and one forwarding entry
//! (FLANNEL.md 5.1).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ovl_common::{Mac, Remote, Travel};
use serde::{Deserialize, Serialize};

use crate::backend::{Desired, OnLink, Route, RouteKey, Tunnel, VxlanDevice, bpf_prefix, direct};
use crate::family::{ByFamily, Family};
use crate::lease::{BackendData, LeaseAttrs};
use crate::network::VxlanOptions;
use crate::node::Node;

/// The tunnels as the network config wants them, with this node's MACs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Options of the network config.
    pub options: VxlanOptions,
    /// This node's tunnel MACs, one per family of the network. The outer packets are of the inner ones' family.
    pub macs: ByFamily<Mac>,
    /// Whether this node's tunnel over IPv6 takes packets whose UDP checksum is zero, which peers that know of it then
    /// send: a program cannot make checksums for what devices cut into segments. A flanneld's device does not, and
    /// cannot be changed; one that we make does.
    pub zero_checksums: bool,
}

/// `BackendData` and `BackendV6Data` of a lease. Members in this order and no other string member: flannel reads the
/// MAC by splitting the text.
#[derive(Deserialize, Serialize)]
struct LeaseData {
    /// Not compared, as flannel doesn't: its older versions write none, or its lower 16 bits.
    #[serde(rename = "VNI", default)]
    vni: u32,
    /// Ours alone; flannel passes over what it does not know.
    #[serde(rename = "UDP6ZeroCsum", default, skip_serializing_if = "std::ops::Not::not")]
    zero_checksums: bool,
    #[serde(rename = "VtepMAC")]
    vtep_mac: String,
}

impl Vxlan {
    /// The name in leases.
    pub const NAME: &str = "vxlan";

    /// The names that flannel gives the devices, too.
    pub fn device_names(&self) -> ByFamily<String> {
        self.macs.map(|family, _| device_name(family, self.options.vni))
    }

    /// An MTU in the config is the underlay's where the path is narrower than the interface; wider than the interface
    /// it cannot be.
    pub(super) fn mtu(&self, family: Family, underlay_mtu: u32) -> u32 {
        self.options.mtu.unwrap_or(underlay_mtu).min(underlay_mtu).saturating_sub(overhead(family))
    }

    /// What programs may write and read: not where tunnel headers carry packets' marks, which they don't know.
    pub(super) fn tunnels(&self, underlay_mtu: u32) -> ByFamily<Tunnel> {
        if self.options.gbp {
            return ByFamily::default();
        }
        self.macs.map(|family, mac| Tunnel {
            vni: self.options.vni,
            port: self.options.port,
            mac: *mac,
            mtu: self.mtu(family, underlay_mtu),
        })
    }

    pub(super) fn lease_data(&self) -> ByFamily<BackendData> {
        ByFamily::from_fn(|family| {
            let mac = self.macs.get(family)?;
            // Two plain members always have a form in JSON.
            let zero_checksums = self.takes_zero_checksums(family);
            BackendData::new(&LeaseData { vni: self.options.vni, zero_checksums, vtep_mac: mac.to_string() })
                .ok()
        })
    }

    /// The devices and their addresses: the subnet's first, which peers use as the next hop.
    pub(super) fn own_rows(&self, node: &Node, desired: &mut Desired) {
        for (family, mac) in self.macs.iter() {
            let (Some(local), Some(subnet)) = (node.underlay.addresses.get(family), node.subnet(family))
            else {
                continue;
            };
            let device = VxlanDevice {
                vni: self.options.vni,
                port: self.options.port,
                local: *local,
                underlay: node.underlay.ifindex,
                mtu: self.mtu(family, node.underlay.mtu),
                mac: *mac,
                learning: self.options.learning,
                gbp: self.options.gbp,
                zero_checksums: self.takes_zero_checksums(family),
            };
            desired.devices.insert(device_name(family, self.options.vni), device);
            desired.addresses.insert(IpNet::from(subnet.addr()), ());
        }
    }

    pub(super) fn peer_rows(
        &self,
        subnet: IpNet,
        public_ip: IpAddr,
        attrs: &LeaseAttrs,
        (overlay, on_link, underlay): (&ByFamily<Arc<str>>, &OnLink, &Arc<str>),
        desired: &mut Desired,
    ) -> Result<(), String> {
        let family = Family::of(public_ip);
        let (mac, zero_checksum) = self.peer_device(family, attrs).inspect_err(|_| {
            // Garbage says nothing; a lease without data says that there is none.
            if attrs.backend_data(family).is_some() {
                desired.kept.insert(subnet);
            }
        })?;
        if self.options.direct_routing
            && let Some(device) = on_link.get(&public_ip)
        {
            direct::peer_rows(subnet, public_ip, (device, underlay), desired);
            return Ok(());
        }
        // One node may hold two leases, the older of which is only waiting for its end.
        if let Some(other) = desired.fdb.get(&(family, mac))
            && *other != public_ip
        {
            return Err(format!("its VtepMAC {mac} is that of node {other}, too"));
        }
        let gateway = subnet.addr();
        if desired.neighbours.get(&gateway).is_some_and(|other| *other != mac) {
            return Err(format!("another node's lease starts at {gateway}, too"));
        }
        desired.neighbours.insert(gateway, mac);
        desired.fdb.insert((family, mac), public_ip);
        if let Some(device) = overlay.get(family).cloned() {
            desired.routes.insert(RouteKey::usual(subnet), Route::Via { gateway, device, onlink: true });
        }
        if !self.options.gbp {
            let remote = Remote {
                node: public_ip.into(),
                travel: Travel::Vxlan as u8,
                zero_checksum: u8::from(zero_checksum),
                vtep_mac: mac,
            };
            desired.remotes.insert(bpf_prefix(subnet), remote);
        }
        Ok(())
    }

    fn takes_zero_checksums(&self, family: Family) -> bool {
        family == Family::V6 && self.zero_checksums
    }

    /// A peer's MAC, and whether it takes packets without UDP checksums.
    fn peer_device(&self, family: Family, attrs: &LeaseAttrs) -> Result<(Mac, bool), String> {
        let name = match family {
            Family::V4 => "BackendData",
            Family::V6 => "BackendV6Data",
        };
        let data = attrs.backend_data(family).ok_or_else(|| format!("it has no {name}"))?;
        let data: LeaseData = data.read().map_err(|error| format!("its {name} is not vxlan's: {error}"))?;
        let mac: Mac =
            data.vtep_mac.parse().map_err(|error| format!("its VtepMAC '{}' is {error}", data.vtep_mac))?;
        if self.macs.get(family) == Some(&mac) {
            return Err(format!("its VtepMAC {mac} is this node's own"));
        }
        if mac.0[0] & 1 != 0 || mac == Mac::default() {
            return Err(format!("its VtepMAC {mac} is not the address of one device"));
        }
        Ok((mac, data.zero_checksums))
    }
}

/// `flannel.<VNI>` and `flannel-v6.<VNI>`.
fn device_name(family: Family, vni: u32) -> String {
    match family {
        Family::V4 => format!("flannel.{vni}"),
        Family::V6 => format!("flannel-v6.{vni}"),
    }
}

/// What VXLAN adds to an IP packet, bytes: 20 (IPv4) or 40 (IPv6) + 8 (UDP) + 8 (VXLAN) + 14 (Ethernet). Flannel
/// leaves out that IPv6's header is longer.
fn overhead(family: Family) -> u32 {
    match family {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::{desired, network, node, view};
    use crate::backend::{Backend, Desired};

    fn vxlan() -> Vxlan {
        let macs = ByFamily { v4: Some(Mac([2, 0, 0, 0, 0, 0x0b])), v6: Some(Mac([2, 0, 0, 0, 6, 0x0b])) };
        Vxlan { options: VxlanOptions { vni: 7, ..VxlanOptions::default() }, macs, zero_checksums: true }
    }

    fn rows(leases: &[(&str, &str)]) -> Desired {
        desired(&Backend::Vxlan(vxlan()), leases)
    }

    const PEER: &str = r#"{"PublicIP":"192.0.2.12","BackendType":"vxlan",
        "BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0c"}}"#;
    const DUAL: &str = r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12","BackendType":"vxlan",
        "BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0c"},
        "BackendV6Data":{"VNI":7,"VtepMAC":"02:00:00:00:06:0c"}}"#;
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x0c]);
    const MAC6: Mac = Mac([2, 0, 0, 0, 6, 0x0c]);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    #[test]
    fn rows_are_those_that_flannel_would_write() {
        let desired = rows(&[("10.42.7.0-24&fd42:0:0:7::-64", DUAL)]);
        let device = &desired.devices["flannel.7"];
        assert_eq!((device.mtu, device.port, device.underlay), (1450, 8472, 7));
        assert_eq!((device.local, device.learning, device.gbp), (ip("192.0.2.11"), false, false));
        let device = &desired.devices["flannel-v6.7"];
        assert_eq!((device.mtu, device.local), (1430, ip("2001:db8::11")));
        let addresses: Vec<IpNet> = desired.addresses.keys().copied().collect();
        assert_eq!(addresses, [net("10.42.3.0/32"), net("fd42:0:0:3::/128")]);
        assert_eq!(desired.neighbours.get(&ip("10.42.7.0")), Some(&MAC));
        assert_eq!(desired.neighbours.get(&ip("fd42:0:0:7::")), Some(&MAC6));
        assert_eq!(desired.fdb.get(&(Family::V4, MAC)), Some(&ip("192.0.2.12")));
        assert_eq!(desired.fdb.get(&(Family::V6, MAC6)), Some(&ip("2001:db8::12")));
        for (subnet, gateway, device) in
            [("10.42.7.0/24", "10.42.7.0", "flannel.7"), ("fd42:0:0:7::/64", "fd42:0:0:7::", "flannel-v6.7")]
        {
            let route = Route::Via { gateway: ip(gateway), device: device.into(), onlink: true };
            assert_eq!(desired.routes.get(&RouteKey::usual(net(subnet))), Some(&route));
        }
        for (subnet, mac) in [("10.42.7.0/24", MAC), ("fd42:0:0:7::/64", MAC6)] {
            assert_eq!(desired.remotes[&bpf_prefix(net(subnet))].vtep_mac, mac);
        }
        assert!(desired.rejected.is_empty());
    }

    #[test]
    fn a_tunnel_that_carries_marks_is_the_kernels() {
        let gbp = Vxlan { options: VxlanOptions { gbp: true, ..vxlan().options }, ..vxlan() };
        let peer = (
            "10.42.7.0-24",
            r#"{"PublicIP":"192.0.2.12","BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0c"}}"#,
        );
        let remotes = |vxlan: Vxlan| desired(&Backend::Vxlan(vxlan), &[peer]).remotes.len();
        assert_eq!((remotes(vxlan()), remotes(gbp.clone())), (1, 0));
        assert!(gbp.tunnels(1500).is_empty() && !vxlan().tunnels(1500).is_empty());
    }

    #[test]
    fn a_peer_of_one_family_is_carried_in_that_one() {
        let desired = rows(&[("10.42.7.0-24&fd42:0:0:7::-64", PEER)]);
        assert_eq!((desired.routes.len(), desired.fdb.len(), desired.rejected.len()), (1, 1, 1));
        let without_data = DUAL.replace("BackendV6Data", "Other");
        let desired = rows(&[("10.42.7.0-24&fd42:0:0:7::-64", &without_data)]);
        assert_eq!((desired.routes.len(), desired.fdb.len()), (1, 1));
        assert!(desired.rejected.values().all(|reason| reason == "it has no BackendV6Data"));
    }

    #[test]
    fn a_peer_on_the_link_is_routed_to_where_the_config_wants_it() {
        let on_link = OnLink::from([(ip("192.0.2.12"), "eth0".into())]);
        let leases = view(&[("10.42.7.0-24&fd42:0:0:7::-64", DUAL)]);
        for direct_routing in [false, true] {
            let options = VxlanOptions { direct_routing, ..vxlan().options };
            let backend = Backend::Vxlan(Vxlan { options, ..vxlan() });
            let desired = backend.desired(&node(), &network(), &leases, &on_link);
            let direct = Route::Via { gateway: ip("192.0.2.12"), device: "eth0".into(), onlink: false };
            let is_direct = desired.routes.get(&RouteKey::usual(net("10.42.7.0/24"))) == Some(&direct);
            assert_eq!(is_direct, direct_routing);
            assert_eq!(desired.fdb.contains_key(&(Family::V4, MAC)), !direct_routing);
            assert!(desired.fdb.contains_key(&(Family::V6, MAC6)), "that address is not on the link");
        }
    }

    #[test]
    fn an_mtu_in_the_config_narrows_the_interfaces() {
        let table = [
            (None, 1500, 1450, 1430),
            (Some(1400), 1500, 1350, 1330),
            (Some(9000), 1500, 1450, 1430),
            (None, 9000, 8950, 8930),
        ];
        for (config, interface, ipv4, ipv6) in table {
            let vxlan = Vxlan { options: VxlanOptions { mtu: config, ..vxlan().options }, ..vxlan() };
            assert_eq!(vxlan.mtu(Family::V4, interface), ipv4, "{config:?} on {interface}");
            assert_eq!(vxlan.mtu(Family::V6, interface), ipv6, "{config:?} on {interface}");
            let pods = Backend::Vxlan(vxlan).mtu(&network(), interface);
            assert_eq!(pods, ipv6, "pods have the narrower of the two");
        }
    }

    #[test]
    fn a_peer_of_an_older_flannel_is_carried() {
        for data in [r#"{"VtepMAC":"02:00:00:00:00:0c"}"#, r#"{"VNI":4464,"VtepMAC":"02:00:00:00:00:0c"}"#] {
            let peer = format!(r#"{{"PublicIP":"192.0.2.12","BackendType":"vxlan","BackendData":{data}}}"#);
            assert_eq!(rows(&[("10.42.7.0-24", &peer)]).routes.len(), 1, "{data}");
        }
    }

    #[test]
    fn two_leases_of_one_node_are_both_carried() {
        let desired = rows(&[("10.42.2.0-24", PEER), ("10.42.50.0-24", PEER)]);
        assert_eq!((desired.routes.len(), desired.fdb.len(), desired.rejected.len()), (2, 1, 0));
    }

    #[test]
    fn two_leases_that_start_alike_do_not_mix() {
        let other = PEER.replace("192.0.2.12", "192.0.2.13").replace("0c\"", "0d\"");
        let desired = rows(&[("10.42.7.0-24", PEER), ("10.42.7.0-25", &other)]);
        assert_eq!((desired.routes.len(), desired.neighbours.len()), (1, 1));
        let reason = desired.rejected.values().next().expect("one is rejected");
        assert!(reason.contains("starts at 10.42.7.0"), "{reason}");
    }

    #[test]
    fn what_is_told_to_peers_has_flannels_bytes() {
        let backend = Backend::Vxlan(vxlan());
        let both = node().public_ips;
        let json = |ips| serde_json::to_string(&backend.attrs(&ips)).expect("plain data");
        assert_eq!(
            json(both),
            concat!(
                r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11","BackendType":"vxlan","#,
                r#""BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0b"},"#,
                r#""BackendV6Data":{"VNI":7,"UDP6ZeroCsum":true,"VtepMAC":"02:00:00:00:06:0b"}}"#
            )
        );
        let ipv4 = Vxlan { macs: ByFamily { v6: None, ..vxlan().macs }, ..vxlan() };
        let attrs = Backend::Vxlan(ipv4).attrs(&ByFamily { v6: None, ..both });
        assert_eq!(
            serde_json::to_string(&attrs).expect("plain data"),
            concat!(
                r#"{"PublicIP":"192.0.2.11","PublicIPv6":null,"BackendType":"vxlan","#,
                r#""BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0b"}}"#
            )
        );
    }

    #[test]
    fn a_peer_with_bad_data_is_rejected_by_name() {
        let table = [
            ("{}", "BackendData is not vxlan's"),
            (r#"{"VNI":"x","VtepMAC":"02:00:00:00:00:0c"}"#, "BackendData is not vxlan's"),
            (r#"{"VNI":7,"VtepMAC":"02:00"}"#, "'02:00' is not a MAC"),
            (r#"{"VNI":7,"VtepMAC":"02:00:00:00:00:0b"}"#, "this node's own"),
            (r#"{"VNI":7,"VtepMAC":"01:00:5e:00:00:01"}"#, "not the address of one device"),
            (r#"{"VNI":7,"VtepMAC":"02:00:00:00:00:0d"}"#, "that of node 192.0.2.13"),
        ];
        for (data, expected) in table {
            let bad = format!(r#"{{"PublicIP":"192.0.2.14","BackendType":"vxlan","BackendData":{data}}}"#);
            let good = r#"{"PublicIP":"192.0.2.13","BackendType":"vxlan",
                "BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0d"}}"#;
            let desired = rows(&[("10.42.5.0-24", good), ("10.42.9.0-24", &bad)]);
            let reason = desired.rejected.values().next().expect(data);
            assert!(reason.contains(expected), "{data}: {reason}");
            assert_eq!(desired.routes.len(), 1, "the good one stands");
            let is_kept = desired.kept.contains(&net("10.42.9.0/24"));
            assert_eq!(is_kept, !expected.contains("that of node"), "what stands for it stays: {data}");
        }
    }
}
