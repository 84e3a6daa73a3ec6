use std::net::IpAddr;

use ipnet::IpNet;

use super::*;
use crate::backend::testing::{desired, network, node, view};
use crate::backend::{Backend, Desired, OnLink};
use crate::node::Underlay;

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
    let addresses: Vec<_> = desired.addresses.keys().copied().collect();
    assert_eq!(addresses, [(Family::V4, net("10.42.3.0/32")), (Family::V6, net("fd42:0:0:3::/128"))]);
    assert_eq!(desired.neighbours.get(&(Family::V4, ip("10.42.7.0"))), Some(&MAC));
    assert_eq!(desired.neighbours.get(&(Family::V6, ip("fd42:0:0:7::"))), Some(&MAC6));
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

/// Where a route leads, on which device its next hop is a neighbour and where the own address is.
#[test]
fn rows_of_the_other_family_hang_on_the_device_that_carries_it() {
    let ipv6 = DUAL.replace("\"192.0.2.12\"", "\"0.0.0.0\"").replace("\"BackendData", "\"Other");
    let without_data = DUAL.replace("BackendV6Data", "Other");
    for (peer, outer, name, node, mac) in [
        (PEER, Family::V4, "flannel.7", "192.0.2.12", MAC),
        (without_data.as_str(), Family::V4, "flannel.7", "192.0.2.12", MAC),
        (ipv6.as_str(), Family::V6, "flannel-v6.7", "2001:db8::12", MAC6),
    ] {
        let desired = rows(&[("10.42.7.0-24&fd42:0:0:7::-64", peer)]);
        assert!(desired.rejected.is_empty(), "{:?}", desired.rejected);
        assert_eq!(desired.fdb.iter().collect::<Vec<_>>(), [(&(outer, mac), &ip(node))]);
        for (subnet, gateway, own) in [
            ("10.42.7.0/24", "10.42.7.0", "10.42.3.0/32"),
            ("fd42:0:0:7::/64", "fd42:0:0:7::", "fd42:0:0:3::/128"),
        ] {
            let route = Route::Via { gateway: ip(gateway), device: name.into(), onlink: true };
            assert_eq!(desired.routes.get(&RouteKey::usual(net(subnet))), Some(&route));
            assert_eq!(desired.neighbours.get(&(outer, ip(gateway))), Some(&mac));
            assert!(desired.addresses.contains_key(&(outer, net(own))));
            let remote = desired.remotes[&bpf_prefix(net(subnet))];
            assert_eq!((remote.node, remote.vtep_mac), (ip(node).into(), mac));
        }
        assert_eq!((desired.neighbours.len(), desired.addresses.len()), (2, 3), "and nothing else");
    }
}

#[test]
fn a_node_that_uses_one_family_outside_has_one_device() {
    for (family, name, pods) in [(Family::V4, "flannel.7", 1450), (Family::V6, "flannel-v6.7", 1430)] {
        let mut node = node();
        for ends in [&mut node.public_ips, &mut node.underlay.addresses] {
            ends.set(family.other(), None);
        }
        let mut one = vxlan();
        one.macs.set(family.other(), None);
        let backend = Backend::Vxlan(one);
        let leases = view(&[("10.42.7.0-24&fd42:0:0:7::-64", DUAL)]);
        let desired = backend.desired(&node, &network(), &leases, &OnLink::new());
        assert_eq!(desired.devices.keys().collect::<Vec<_>>(), [name]);
        assert!(desired.addresses.keys().all(|(device, _)| *device == family));
        assert_eq!((desired.addresses.len(), desired.routes.len(), desired.rejected.len()), (2, 2, 0));
        assert_eq!(backend.mtu(&node.underlay), pods);
        assert_eq!(backend.rules_name(&network()), "flannel.7", "as in every start");
        let attrs = backend.attrs(&node.public_ips);
        assert_eq!(
            Family::ALL.map(|has| attrs.public_ip(has).is_some()),
            Family::ALL.map(|has| has == family)
        );
        assert_eq!(
            Family::ALL.map(|has| attrs.backend_data(has).is_some()),
            Family::ALL.map(|has| has == family)
        );
    }
}

#[test]
fn a_number_too_long_for_the_devices_name_is_refused() {
    let long = Vxlan { options: VxlanOptions { vni: 10_000, ..vxlan().options }, ..vxlan() };
    let error = long.check_names().expect_err("17 characters").to_string();
    assert!(error.contains("flannel-v6.10000"), "{error}");
    let ipv4 = Vxlan { macs: ByFamily { v6: None, ..long.macs }, ..long };
    ipv4.check_names().expect("fits");
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
        let pods = Backend::Vxlan(vxlan).mtu(&Underlay { mtu: interface, ..node().underlay });
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
