use super::*;
use crate::backend::testing::node;
use crate::backend::{HostGw, OnLink, Vxlan};
use crate::network::VxlanOptions;
use crate::node::Node;
use ovl_common::Mac;

/// One letter per family: `46`, `4`, `6` or nothing.
fn ends(families: &str) -> ByFamily<()> {
    ByFamily { v4: families.contains('4').then_some(()), v6: families.contains('6').then_some(()) }
}

#[test]
fn the_own_family_comes_first_and_both_nodes_must_have_it() {
    const V4: Option<Family> = Some(Family::V4);
    const V6: Option<Family> = Some(Family::V6);
    // What one node has, what the other has, what carries IPv4, what carries IPv6.
    let table = [
        ("46", "46", V4, V6),
        ("46", "4", V4, V4),
        ("46", "6", V6, V6),
        ("4", "4", V4, V4),
        ("6", "6", V6, V6),
        ("4", "6", None, None),
        ("", "46", None, None),
    ];
    for (one, other, ipv4, ipv6) in table {
        for (ours, theirs) in [(one, other), (other, one)] {
            let outer = |inner| outer(inner, &ends(ours), &ends(theirs));
            assert_eq!((outer(Family::V4), outer(Family::V6)), (ipv4, ipv6), "{ours} and {theirs}");
        }
    }
}

fn vxlan(direct_routing: bool) -> Backend {
    let macs = ByFamily { v4: Some(Mac([2; 6])), v6: Some(Mac([2; 6])) };
    let options = VxlanOptions { direct_routing, ..VxlanOptions::default() };
    Backend::Vxlan(Vxlan { options, macs, zero_checksums: true })
}

/// What carries IPv4 and IPv6 between a node and the node of a lease, `=` behind what is routed.
fn ways(backend: &Backend, ours: &str, lease: &str) -> [String; 2] {
    let ours = ends(ours);
    let all = node().public_ips;
    let public_ips = ByFamily::from_fn(|family| ours.get(family).and(all.get(family).copied()));
    let node = Node { public_ips, ..node() };
    let link = |ip: &str| (ip.parse().expect(ip), Arc::from("eth0"));
    let on_link = OnLink::from([link("192.0.2.12"), link("2001:db8::12")]);
    let attrs: LeaseAttrs = serde_json::from_str(lease).expect(lease);
    let here = backend.here(&node, &on_link);
    Family::ALL.map(|inner| match backend.way(inner, &attrs, &here) {
        Ok(Way { node, link }) => format!("{node}{}", if link.is_some() { "=" } else { "" }),
        Err(reason) => reason,
    })
}

const BOTH: &str = r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12",
    "BackendData":{"VtepMAC":"02:00:00:00:00:0c"},"BackendV6Data":{"VtepMAC":"02:00:00:00:06:0c"}}"#;
const IPV4: &str =
    r#"{"PublicIP":"192.0.2.12","PublicIPv6":null,"BackendData":{"VtepMAC":"02:00:00:00:00:0c"}}"#;
const IPV6: &str = r#"{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::12",
    "BackendV6Data":{"VtepMAC":"02:00:00:00:06:0c"}}"#;
/// A node of a tunnel over IPv4 that says what else its interface has.
const NO_DATA: &str = r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12",
    "BackendData":{"VtepMAC":"02:00:00:00:00:0c"}}"#;

#[test]
fn every_backend_goes_where_it_can() {
    let (tunnel, direct, host_gw) = (vxlan(false), vxlan(true), Backend::HostGw(HostGw));
    let (v4, v6, v4_direct, v6_direct) = ("192.0.2.12", "2001:db8::12", "192.0.2.12=", "2001:db8::12=");
    let table = [
        (&tunnel, "46", BOTH, v4, v6),
        (&tunnel, "46", IPV4, v4, v4),
        (&tunnel, "46", IPV6, v6, v6),
        (&tunnel, "6", BOTH, v6, v6),
        (&tunnel, "4", BOTH, v4, v4),
        (&tunnel, "46", NO_DATA, v4, v4),
        (&direct, "46", BOTH, v4_direct, v6_direct),
        (&direct, "46", IPV6, v6_direct, v6_direct),
        // IPv6 is not routed through IPv4: it takes the tunnel.
        (&direct, "46", IPV4, v4_direct, v4),
        (&direct, "4", BOTH, v4_direct, v4),
        (&host_gw, "46", BOTH, v4_direct, v6_direct),
        (&host_gw, "46", IPV6, v6_direct, v6_direct),
        (&host_gw, "6", BOTH, v6_direct, v6_direct),
        (&host_gw, "46", NO_DATA, v4_direct, v6_direct),
    ];
    for (backend, ours, lease, ipv4, ipv6) in table {
        assert_eq!(ways(backend, ours, lease), [ipv4, ipv6], "{} {ours} {lease}", backend.name());
    }
}

#[test]
fn where_there_is_no_way_it_is_said_why() {
    let (tunnel, host_gw) = (vxlan(false), Backend::HostGw(HostGw));
    let nothing = r#"{"PublicIP":"0.0.0.0"}"#;
    let no_data = r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12"}"#;
    let table = [
        (&tunnel, "46", nothing, Family::V4, "it has no public IPv4 address"),
        (&tunnel, "46", nothing, Family::V6, "it has no public IPv6 address"),
        (&tunnel, "46", no_data, Family::V6, "it has no BackendV6Data"),
        (&tunnel, "4", IPV6, Family::V4, "at 2001:db8::12 only, and this node at 192.0.2.11 only; start one"),
        (&tunnel, "6", IPV4, Family::V6, "at 192.0.2.12 only, and this node at 2001:db8::11 only; start one"),
        (&host_gw, "4", IPV6, Family::V4, "--underlay-family both"),
        (
            &host_gw,
            "46",
            IPV4,
            Family::V6,
            "no IPv6 routes through IPv4 next hops; give the node an IPv6 address",
        ),
    ];
    for (backend, ours, lease, inner, expected) in table {
        let ways = ways(backend, ours, lease);
        let reason = &ways[usize::from(inner == Family::V6)];
        assert!(reason.contains(expected), "{} {ours} {lease}: {reason}", backend.name());
    }
}
