//! The rows of FLANNEL.md 5.1, 5.2 and 5.8, one by one, in both families; and `subnet.env` by its bytes.

use std::fs;

use ovl_tests::links;
use ovl_tests::netns::Netns;
use ovl_tests::topology::{Builder, Topology};
use serde_json::{Value, json};

use crate::listing::{Rows, replaced, rows, wait_for_rows};
use crate::overlay::{DUAL, KERNEL, ONLY_IPV4, ONLY_IPV6, Overlay, PINNED, config};

/// A node that holds 10.42.3.0/24 and fd42:0:0:3::/64, and knows leases whose nodes need not exist.
pub(crate) fn one_node(topology: Builder, backend: &str) -> Overlay {
    let mut overlay = Overlay::bare(topology.nodes(1).ipv6(), &config(&[DUAL, PINNED], backend)).unwrap();
    for (key, value) in [BOTH, IPV4_KEY, IPV4_VALUE, IPV6_KEY] {
        overlay.store.put(key, &value.replace("TYPE", kind(backend))).unwrap();
    }
    overlay.agents.push(overlay.start_ready(0, KERNEL).unwrap());
    overlay
}

fn kind(backend: &str) -> &str {
    if backend.contains("vxlan") { "vxlan" } else { "host-gw" }
}

/// A peer of both families, one whose key has IPv4 only, one that has an IPv6 subnet without the rest, and one whose
/// key has IPv6 only.
pub(crate) const BOTH: (&str, &str) = (
    "subnets/10.42.7.0-24&fd42:0:0:7::-64",
    r#"{"PublicIP":"192.0.2.12","PublicIPv6":"2001:db8:c0::12","BackendType":"TYPE","BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:04:12"},"BackendV6Data":{"VNI":7,"VtepMAC":"02:00:00:00:06:12"}}"#,
);
const IPV4_KEY: (&str, &str) = (
    "subnets/10.42.8.0-24",
    r#"{"PublicIP":"192.0.2.13","PublicIPv6":null,"BackendType":"TYPE","BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:04:13"}}"#,
);
const IPV4_VALUE: (&str, &str) = (
    "subnets/10.42.9.0-24&fd42:0:0:9::-64",
    r#"{"PublicIP":"192.0.2.14","PublicIPv6":null,"BackendType":"TYPE","BackendData":{"VNI":7,"VtepMAC":"02:00:00:00:04:14"}}"#,
);

const IPV6_KEY: (&str, &str) = (
    "subnets/fd42:0:0:10::-64",
    r#"{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8:c0::15","BackendType":"TYPE","BackendV6Data":{"VNI":7,"VtepMAC":"02:00:00:00:06:15"}}"#,
);

pub(crate) const VXLAN: &str = r#"{"Type":"vxlan","VNI":7}"#;

/// What flanneld writes for these, with our mark on the routes, for a node whose devices have these MACs.
pub(crate) fn vxlan_rows(netns: &Netns) -> Rows {
    let mac = |device| links::mac(netns, device).unwrap();
    let mut rows = Rows::from([
        format!("device flannel.7 {} mtu 1450 id 7 port 8472 local 192.0.2.11 on eth0", mac("flannel.7")),
        format!(
            "device flannel-v6.7 {} mtu 1430 id 7 port 8472 local 2001:db8:c0::11 on eth0",
            mac("flannel-v6.7")
        ),
        "address 10.42.3.0/32 on flannel.7".into(),
        "address fd42:0:0:3::/128 on flannel-v6.7".into(),
        // For the peer that has no address of its own in IPv6, which flanneld would leave out.
        "address fd42:0:0:3::/128 on flannel.7".into(),
    ]);
    for (base, length, mac, node, device) in [
        ("10.42.7.0", 24, "02:00:00:00:04:12", "192.0.2.12", "flannel.7"),
        ("10.42.8.0", 24, "02:00:00:00:04:13", "192.0.2.13", "flannel.7"),
        ("10.42.9.0", 24, "02:00:00:00:04:14", "192.0.2.14", "flannel.7"),
        ("fd42:0:0:9::", 64, "02:00:00:00:04:14", "192.0.2.14", "flannel.7"),
        ("fd42:0:0:7::", 64, "02:00:00:00:06:12", "2001:db8:c0::12", "flannel-v6.7"),
        ("fd42:0:0:10::", 64, "02:00:00:00:06:15", "2001:db8:c0::15", "flannel-v6.7"),
    ] {
        rows.insert(format!("neighbour {base} {mac} permanent on {device}"));
        rows.insert(format!("fdb {mac} {node} permanent self on {device}"));
        rows.insert(format!("route {base}/{length} via {base} on {device} onlink by 111"));
    }
    rows
}

#[test]
fn vxlan_devices_and_rows_are_flannels() {
    let overlay = one_node(Topology::builder("rows"), VXLAN);
    let (node, netns) = (overlay.node(0), overlay.node(0).netns());
    wait_for_rows(node, &vxlan_rows(netns), "flannel's rows");
    let lease = overlay.store.get("subnets/10.42.3.0-24&fd42:0:0:3::-64").unwrap();
    let lease: Value = serde_json::from_str(&lease).unwrap();
    for (device, data) in [("flannel.7", "BackendData"), ("flannel-v6.7", "BackendV6Data")] {
        let link = &links::ip_json(netns, &format!("link show dev {device}")).unwrap()[0];
        let info = &link["linkinfo"]["info_data"];
        let wanted = json!({
            "learning": false, "ttl": 0, "ageing": 300, "port_range": {"low": 0, "high": 0},
            "udp_csum": true, "udp_zero_csum6_tx": false, "udp_zero_csum6_rx": data == "BackendV6Data",
        });
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(&info[name], value, "{name} of {device}");
        }
        // Ours takes what programs cannot make a checksum for, and tells peers so; flannel does not know the member.
        assert_eq!(lease[data].get("UDP6ZeroCsum").is_some(), data == "BackendV6Data");
        assert_eq!(info.get("gbp"), None);
        assert_eq!(link.get("txqlen").and_then(Value::as_u64).unwrap_or(0), 0, "{link:#}");
        assert_eq!(lease[data]["VtepMAC"], link["address"], "peers are told the MAC of {device}");
        let path = format!("net.ipv6.conf.{}.accept_ra", device.replace('.', "/"));
        assert_eq!(netns.command("sysctl").args(["-n", &path]).run().unwrap().trim(), "0");
    }
    assert_eq!((&lease["PublicIP"], &lease["PublicIPv6"]), (&json!("192.0.2.11"), &json!("2001:db8:c0::11")));
}

#[test]
fn host_gw_rows_are_flannels() {
    let overlay = one_node(Topology::builder("rows-gw"), r#"{"Type":"host-gw"}"#);
    let wanted: Rows = [
        ("10.42.7.0/24", "192.0.2.12"),
        ("10.42.8.0/24", "192.0.2.13"),
        ("10.42.9.0/24", "192.0.2.14"),
        ("fd42:0:0:7::/64", "2001:db8:c0::12"),
        ("fd42:0:0:10::/64", "2001:db8:c0::15"),
    ]
    .map(|(subnet, gateway)| format!("route {subnet} via {gateway} on eth0 by 111"))
    .into();
    let node = overlay.node(0);
    wait_for_rows(node, &wanted, "flannel's routes");
    assert_eq!(overlay.agents[0].subnet().unwrap().mtu, 1500);
    for line in [
        "route del 10.42.7.0/24",
        "route del fd42:0:0:7::/64",
        "route replace 10.42.7.0/24 via 192.0.2.77 proto 111",
        "route replace fd42:0:0:7::/64 via 2001:db8:c0::77 proto 111",
    ] {
        node.netns().ip(line).unwrap();
        wait_for_rows(node, &wanted, &format!("the routes to be as before `{line}`"));
    }
}

#[test]
fn alloc_is_a_lease_and_nothing_else() {
    let overlay = one_node(Topology::builder("rows-alloc"), r#"{"Type":"alloc"}"#);
    let lease = overlay.store.get("subnets/10.42.3.0-24&fd42:0:0:3::-64").unwrap();
    assert_eq!(lease.trim(), r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8:c0::11"}"#);
    overlay.agents[0].wait_for_peers(4).unwrap();
    assert_eq!(rows(overlay.node(0)).unwrap(), Rows::new());
    assert_eq!(overlay.agents[0].subnet().unwrap().mtu, 1500);
}

#[test]
fn options_of_the_config_show_on_the_devices() {
    let backend = r#"{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400,"GBP":true,"Learning":true}"#;
    let overlay = one_node(Topology::builder("rows-opt"), backend);
    let netns = overlay.node(0).netns();
    let plain = vxlan_rows(netns);
    let wanted = replaced(&replaced(&plain, "mtu 1430", "mtu 1330"), "mtu 1450", "mtu 1350");
    wait_for_rows(
        overlay.node(0),
        &replaced(&wanted, "port 8472", "port 4789"),
        "the rows with these options",
    );
    assert_eq!(overlay.agents[0].subnet().unwrap().mtu, 1330);
    for device in ["flannel.7", "flannel-v6.7"] {
        let link = &links::ip_json(netns, &format!("link show dev {device}")).unwrap()[0];
        let info = &link["linkinfo"]["info_data"];
        assert_eq!((&info["learning"], &info["gbp"]), (&json!(true), &json!(true)), "{device}: {info:#}");
    }
}

#[test]
fn subnet_env_has_flannels_bytes() {
    let ipv4 = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.3.1/24\n";
    let ipv6 = "FLANNEL_IPV6_NETWORK=fd42::/48\nFLANNEL_IPV6_SUBNET=fd42:0:0:3::1/64\n";
    let vxlan = r#"{"Type":"vxlan"}"#;
    let host_gw = r#"{"Type":"host-gw"}"#;
    let builder = || Topology::builder("env").nodes(1);
    let table = [
        (builder(), ONLY_IPV4, vxlan, "", format!("{ipv4}FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n")),
        (
            builder().ipv6(),
            DUAL,
            vxlan,
            " --ip-masq",
            format!("{ipv4}{ipv6}FLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"),
        ),
        (
            builder().ipv6(),
            DUAL,
            host_gw,
            "",
            format!("{ipv4}{ipv6}FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"),
        ),
        (
            builder().ipv6_only(),
            ONLY_IPV6,
            vxlan,
            "",
            format!("{ipv6}FLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n"),
        ),
    ];
    for (topology, families, backend, args, wanted) in table {
        let overlay = Overlay::bare(topology, &config(&[families, PINNED], backend)).unwrap();
        let agent = overlay.start_ready(0, &format!("{KERNEL}{args}")).unwrap();
        assert_eq!(fs::read_to_string(agent.subnet_file()).unwrap(), wanted);
    }
}
