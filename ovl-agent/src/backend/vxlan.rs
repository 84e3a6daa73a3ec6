//! `vxlan`: a device, and per peer one route, one neighbour and one forwarding entry (FLANNEL.md 5.1).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use ovl_common::{Encapsulation, Mac, Prefix, Remote, Travel};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::{Desired, Route, Tunnel, VxlanDevice};
use crate::lease::LeaseAttrs;
use crate::network::VxlanOptions;
use crate::node::Node;

/// What VXLAN over IPv4 adds to an IP packet: 20 (IPv4) + 8 (UDP) + 8 (VXLAN) + 14 (Ethernet) bytes.
const OVERHEAD: u32 = 50;

/// The tunnel as the network config wants it, with this node's MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Options of the network config.
    pub options: VxlanOptions,
    /// This node's tunnel MAC.
    pub mac: Mac,
}

/// `BackendData` of a lease.
#[derive(Deserialize, Serialize)]
struct LeaseData {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    vtep_mac: String,
}

impl Vxlan {
    /// The name in leases.
    pub const NAME: &str = "vxlan";

    /// The name that flannel gives the device, too.
    pub fn device_name(&self) -> String {
        device_name(self.options.vni)
    }

    /// An MTU in the config is the underlay's where the path is narrower than the interface; wider than the interface
    /// it cannot be.
    pub(super) fn mtu(&self, underlay_mtu: u32) -> u32 {
        self.options.mtu.unwrap_or(underlay_mtu).min(underlay_mtu).saturating_sub(OVERHEAD)
    }

    pub(super) fn tunnel(&self, underlay_mtu: u32) -> Tunnel {
        Tunnel {
            encapsulation: Encapsulation::Vxlan,
            vni: self.options.vni,
            port: self.options.port,
            mac: self.mac,
            mtu: self.mtu(underlay_mtu),
        }
    }

    pub(super) fn lease_data(&self) -> Value {
        // Members in this order and no other string member: flannel reads the MAC by splitting the text.
        serde_json::json!({ "VNI": self.options.vni, "VtepMAC": self.mac.to_string() })
    }

    /// The device and its address: the subnet's first, which peers use as the next hop.
    pub(super) fn own_rows(&self, node: &Node, desired: &mut Desired) {
        let device = VxlanDevice {
            vni: self.options.vni,
            port: self.options.port,
            local: node.underlay.ipv4(),
            underlay: node.underlay.ifindex,
            mtu: self.mtu(node.underlay.mtu),
            mac: self.mac,
            learning: false,
        };
        desired.devices.insert(self.device_name(), device);
        desired.addresses.insert(host(node.subnet.addr()), ());
    }

    pub(super) fn peer_rows(
        &self,
        subnet: Ipv4Net,
        attrs: &LeaseAttrs,
        desired: &mut Desired,
    ) -> Result<(), String> {
        let mac = self.peer_mac(attrs)?;
        // One node may hold two leases, the older of which is only waiting for its end.
        if let Some(other) = desired.fdb.get(&mac)
            && *other != attrs.public_ip
        {
            return Err(format!("its VtepMAC {mac} is that of node {other}, too"));
        }
        let gateway = subnet.addr();
        if desired.neighbours.get(&gateway).is_some_and(|other| *other != mac) {
            return Err(format!("another node's lease starts at {gateway}, too"));
        }
        desired.neighbours.insert(gateway, mac);
        desired.fdb.insert(mac, attrs.public_ip);
        desired.routes.insert(subnet, Route { gateway, device: self.device_name(), onlink: true });
        let remote = Remote { node: attrs.public_ip.into(), travel: Travel::Vxlan as u16, vtep_mac: mac };
        desired.remotes.insert(Prefix::new(gateway.into(), subnet.prefix_len()), remote);
        Ok(())
    }

    fn peer_mac(&self, attrs: &LeaseAttrs) -> Result<Mac, String> {
        let data = attrs.backend_data.as_ref().ok_or("it has no BackendData")?;
        let data = LeaseData::deserialize(data)
            .map_err(|error| format!("its BackendData is not vxlan's: {error}"))?;
        if data.vni != self.options.vni {
            return Err(format!("its VNI is {}, this node's is {}", data.vni, self.options.vni));
        }
        let mac: Mac =
            data.vtep_mac.parse().map_err(|error| format!("its VtepMAC '{}' is {error}", data.vtep_mac))?;
        if mac == self.mac {
            return Err(format!("its VtepMAC {mac} is this node's own"));
        }
        if mac.0[0] & 1 != 0 || mac == Mac::default() {
            return Err(format!("its VtepMAC {mac} is not the address of one device"));
        }
        Ok(mac)
    }
}

/// `flannel.<VNI>`.
fn device_name(vni: u32) -> String {
    format!("flannel.{vni}")
}

fn host(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::testing::{network, node, view};

    fn vxlan() -> Vxlan {
        Vxlan { options: VxlanOptions { vni: 7, port: 8472, mtu: None }, mac: Mac([0x02, 0, 0, 0, 0, 0x0b]) }
    }

    const PEER: &str = r#"{"PublicIP":"192.0.2.12","BackendType":"vxlan",
        "BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0c"}}"#;
    const PEER_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x0c]);

    #[test]
    fn rows_are_those_that_flannel_would_write() {
        let backend = Backend::Vxlan(vxlan());
        let desired = backend.desired(&node(), network(), &view(&[("10.42.7.0-24", PEER)]));
        let device = &desired.devices["flannel.7"];
        assert_eq!((device.mtu, device.port, device.underlay), (1450, 8472, 7));
        assert_eq!(device.local, Ipv4Addr::from([192, 0, 2, 11]));
        assert_eq!(desired.addresses.keys().next(), Some(&"10.42.3.0/32".parse().expect("valid")));
        let base = Ipv4Addr::from([10, 42, 7, 0]);
        assert_eq!(desired.neighbours.get(&base), Some(&PEER_MAC));
        assert_eq!(desired.fdb.get(&PEER_MAC), Some(&Ipv4Addr::from([192, 0, 2, 12])));
        let route = Route { gateway: base, device: "flannel.7".into(), onlink: true };
        assert_eq!(desired.routes.get(&"10.42.7.0/24".parse().expect("valid")), Some(&route));
        assert_eq!(desired.remotes.values().next().expect("one").vtep_mac, PEER_MAC);
        assert!(desired.rejected.is_empty());
    }

    #[test]
    fn an_mtu_in_the_config_narrows_the_interfaces() {
        for (config, interface, pods) in
            [(None, 1500, 1450), (Some(1400), 1500, 1350), (Some(9000), 1500, 1450)]
        {
            let options = VxlanOptions { mtu: config, ..vxlan().options };
            assert_eq!(Vxlan { options, ..vxlan() }.mtu(interface), pods, "{config:?} on {interface}");
        }
    }

    #[test]
    fn two_leases_of_one_node_are_both_carried() {
        let view = view(&[("10.42.2.0-24", PEER), ("10.42.50.0-24", PEER)]);
        let desired = Backend::Vxlan(vxlan()).desired(&node(), network(), &view);
        assert_eq!((desired.routes.len(), desired.fdb.len(), desired.rejected.len()), (2, 1, 0));
    }

    #[test]
    fn two_leases_that_start_alike_do_not_mix() {
        let other = PEER.replace("192.0.2.12", "192.0.2.13").replace("0c\"", "0d\"");
        let view = view(&[("10.42.7.0-24", PEER), ("10.42.7.0-25", &other)]);
        let desired = Backend::Vxlan(vxlan()).desired(&node(), network(), &view);
        assert_eq!((desired.routes.len(), desired.neighbours.len()), (1, 1));
        let reason = desired.rejected.values().next().expect("one is rejected");
        assert!(reason.contains("starts at 10.42.7.0"), "{reason}");
    }

    #[test]
    fn what_is_told_to_peers_has_flannels_bytes() {
        let text = Backend::Vxlan(vxlan()).attrs([192, 0, 2, 11].into());
        assert_eq!(
            serde_json::to_string(&text).expect("plain data"),
            r#"{"PublicIP":"192.0.2.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0b"}}"#
        );
    }

    #[test]
    fn a_peer_with_bad_data_is_rejected_by_name() {
        let table = [
            ("{}", "BackendData is not vxlan's"),
            (r#"{"VNI":8,"VtepMAC":"02:00:00:00:00:0c"}"#, "its VNI is 8"),
            (r#"{"VNI":7,"VtepMAC":"02:00"}"#, "'02:00' is not a MAC"),
            (r#"{"VNI":7,"VtepMAC":"02:00:00:00:00:0b"}"#, "this node's own"),
            (r#"{"VNI":7,"VtepMAC":"01:00:5e:00:00:01"}"#, "not the address of one device"),
            (r#"{"VNI":7,"VtepMAC":"02:00:00:00:00:0d"}"#, "that of node 192.0.2.13"),
        ];
        for (data, expected) in table {
            let bad = format!(r#"{{"PublicIP":"192.0.2.14","BackendType":"vxlan","BackendData":{data}}}"#);
            let good = r#"{"PublicIP":"192.0.2.13","BackendType":"vxlan",
                "BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:00:0d"}}"#;
            let view = view(&[("10.42.5.0-24", good), ("10.42.9.0-24", &bad)]);
            let desired = Backend::Vxlan(vxlan()).desired(&node(), network(), &view);
            let reason = desired.rejected.values().next().expect(data);
            assert!(reason.contains(expected), "{data}: {reason}");
            assert_eq!(desired.routes.len(), 1, "the good one stands");
        }
    }
}
