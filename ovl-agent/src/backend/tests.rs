use super::testing::desired;
use super::*;

const HOST_GW: Backend = Backend::HostGw(HostGw);

#[test]
fn a_lease_that_cannot_be_a_peer_is_rejected_by_name() {
    let table = [
        ("10.9.1.0-24", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "outside the network"),
        ("10.42.3.0-25", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "overlaps"),
        ("10.42.0.0-16", r#"{"PublicIP":"192.0.2.12","BackendType":"host-gw"}"#, "overlaps"),
        ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12","BackendType":"vxlan"}"#, "its backend is 'vxlan'"),
        ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12"}"#, "its backend is ''"),
        ("10.42.7.0-24", r#"{"PublicIP":"0.0.0.0","BackendType":"host-gw"}"#, "no public IPv4 address"),
        ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.11","BackendType":"host-gw"}"#, "this node's own"),
        ("10.42.7.0-24", r#"{"PublicIP":"224.0.0.1","BackendType":"host-gw"}"#, "not an address"),
        ("fd43::-64", r#"{"PublicIPv6":"2001:db8::12","BackendType":"host-gw"}"#, "outside the network"),
        ("fd42:0:0:7::-64", r#"{"PublicIPv6":"::1","BackendType":"host-gw"}"#, "not an address"),
        ("fd42:0:0:7::-64", r#"{"PublicIPv6":"2001:db8::11","BackendType":"host-gw"}"#, "own"),
    ];
    for (key, attrs, expected) in table {
        let good = ("10.42.8.0-24", r#"{"PublicIP":"192.0.2.18","BackendType":"host-gw"}"#);
        let desired = desired(&HOST_GW, &[(key, attrs), good]);
        let reason = desired.rejected.values().next().expect(key);
        assert!(reason.contains(expected), "{key} {attrs}: {reason}");
        assert_eq!(desired.routes.len(), 1, "the good one stands");
    }
}

#[test]
fn a_peer_is_programmed_for_the_families_it_has() {
    let both = r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8::12","BackendType":"host-gw"}"#;
    let table: [(&str, &str, &[&str], usize); 4] = [
        ("10.42.7.0-24&fd42:0:0:7::-64", both, &["10.42.7.0/24", "fd42:0:0:7::/64"], 0),
        ("10.42.7.0-24", both, &["10.42.7.0/24"], 0),
        ("fd42:0:0:7::-64", both, &["fd42:0:0:7::/64"], 0),
        (
            "10.42.7.0-24&fd42:0:0:7::-64",
            r#"{"PublicIP":"192.0.2.12","PublicIPv6":null,"BackendType":"host-gw"}"#,
            &["10.42.7.0/24"],
            1,
        ),
    ];
    for (key, attrs, routes, rejected) in table {
        let desired = desired(&HOST_GW, &[(key, attrs)]);
        let have: Vec<String> = desired.routes.keys().map(ToString::to_string).collect();
        assert_eq!(have, routes, "{key} {attrs}");
        assert_eq!(desired.rejected.len(), rejected, "{key} {attrs}");
    }
}

#[test]
fn our_own_lease_is_no_peer_and_alloc_has_none() {
    let own = ("10.42.3.0-24&fd42:0:0:3::-64", r#"{"PublicIP":"192.0.2.11","BackendType":"host-gw"}"#);
    assert_eq!(desired(&HOST_GW, &[own]), desired(&HOST_GW, &[]));
    let peer = ("10.42.7.0-24", r#"{"PublicIP":"192.0.2.12"}"#);
    assert_eq!(desired(&Backend::Alloc, &[peer]), Desired::default());
    let attrs = Backend::Alloc.attrs(&testing::node().public_ips);
    let json = serde_json::to_string(&attrs).expect("plain data");
    assert_eq!(json, r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11"}"#);
}

#[test]
fn a_node_that_cannot_take_part_is_told_why() {
    let node = testing::node();
    let dual = testing::network();
    let mut only_ipv4 = dual.clone();
    only_ipv4.pools.v6 = None;
    let narrow = Underlay { mtu: 1200, ..node.underlay.clone() };
    let error = HOST_GW.check(&narrow, &dual, &node.public_ips).expect_err("too narrow").to_string();
    assert!(error.contains("less than the 1280 that IPv6 needs"), "{error}");
    let ipv4 = ByFamily { v6: None, ..node.public_ips };
    HOST_GW.check(&narrow, &only_ipv4, &ipv4).expect("wide enough for IPv4");
    let behind_nat = ByFamily { v4: "203.0.113.1".parse().ok(), v6: None };
    let error = HOST_GW.check(&node.underlay, &only_ipv4, &behind_nat).expect_err("NAT").to_string();
    assert!(error.contains("203.0.113.1") && error.contains("192.0.2.11"), "{error}");
    let error = HOST_GW.check(&node.underlay, &dual, &ipv4).expect_err("IPv6 over IPv4").to_string();
    assert!(error.contains("no IPv6 routes through IPv4 next hops"), "{error}");
    let ipv6 = ByFamily { v4: None, ..node.public_ips };
    HOST_GW.check(&node.underlay, &dual, &ipv6).expect("IPv4 over IPv6 is routed");
}
