//! The rows of FLANNEL.md 5.1 and 5.2, one by one, in both families; `subnet.env` by its bytes; and that each row that is
//! deleted or changed by hand comes back.

use std::fs;

use ovl_tests::links;
use ovl_tests::netns::Netns;
use ovl_tests::topology::{Builder, Topology};
use ovl_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::listing::{Rows, replaced, rows, wait_for_rows, without};
use crate::overlay::{DUAL, KERNEL, ONLY_IPV4, ONLY_IPV6, Overlay, PINNED, SOON, config};

/// A node that holds 10.42.3.0/24 and fd42:0:0:3::/64, and knows leases whose nodes need not exist.
fn one_node(topology: Builder, backend: &str) -> Overlay {
    let mut overlay = Overlay::bare(topology.nodes(1).ipv6(), &config(&[DUAL, PINNED], backend)).unwrap();
    for (key, value) in [BOTH, IPV4_KEY, IPV4_VALUE] {
        overlay.store.put(key, &value.replace("TYPE", kind(backend))).unwrap();
    }
    overlay.agents.push(overlay.start_ready(0, KERNEL).unwrap());
    overlay
}

fn kind(backend: &str) -> &str {
    if backend.contains("vxlan") { "vxlan" } else { "host-gw" }
}

/// A peer of both families, one whose key has IPv4 only, and one that has an IPv6 subnet without the rest.
const BOTH: (&str, &str) = (
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

const VXLAN: &str = r#"{"Type":"vxlan","VNI":7}"#;

/// What flanneld writes for these, with our mark on the routes, for a node whose devices have these MACs.
fn vxlan_rows(netns: &Netns) -> Rows {
    let mac = |device| links::mac(netns, device).unwrap();
    let mut rows = Rows::from([
        format!("device flannel.7 {} mtu 1450 id 7 port 8472 local 192.0.2.11 on eth0", mac("flannel.7")),
        format!(
            "device flannel-v6.7 {} mtu 1430 id 7 port 8472 local 2001:db8:c0::11 on eth0",
            mac("flannel-v6.7")
        ),
        "address 10.42.3.0/32 on flannel.7".into(),
        "address fd42:0:0:3::/128 on flannel-v6.7".into(),
    ]);
    for (base, length, mac, node, device) in [
        ("10.42.7.0", 24, "02:00:00:00:04:12", "192.0.2.12", "flannel.7"),
        ("10.42.8.0", 24, "02:00:00:00:04:13", "192.0.2.13", "flannel.7"),
        ("10.42.9.0", 24, "02:00:00:00:04:14", "192.0.2.14", "flannel.7"),
        ("fd42:0:0:7::", 64, "02:00:00:00:06:12", "2001:db8:c0::12", "flannel-v6.7"),
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
            "udp_csum": true, "udp_zero_csum6_tx": false, "udp_zero_csum6_rx": false,
        });
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(&info[name], value, "{name} of {device}");
        }
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
    ]
    .map(|(subnet, gateway)| format!("route {subnet} via {gateway} on eth0 by 111"))
    .into();
    wait_for_rows(overlay.node(0), &wanted, "flannel's routes");
    assert_eq!(overlay.agents[0].subnet().unwrap().mtu, 1500);
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

#[test]
fn each_row_that_is_deleted_or_changed_comes_back() {
    let overlay = one_node(Topology::builder("rows-back"), VXLAN);
    let (node, netns) = (overlay.node(0), overlay.node(0).netns());
    let whole = vxlan_rows(netns);
    wait_for_rows(node, &whole, "flannel's rows");
    // Several at once where they don't hide each other; all for both families.
    let rounds: [&[&str]; 6] = [
        &[
            "ip route del SUBNET",
            "ip neigh replace BASE lladdr 02:00:00:00:00:77 nud permanent dev DEVICE",
            "bridge fdb replace MAC dev DEVICE dst OTHER self permanent",
        ],
        &[
            "ip route replace SUBNET via OTHER dev eth0 proto 111",
            "ip neigh del BASE dev DEVICE",
            "bridge fdb del MAC dev DEVICE dst PEER self",
            "ip address del OWN dev DEVICE",
        ],
        &[
            "ip route add STRAY via OTHER dev eth0 proto 111",
            "ip neigh replace BASE lladdr MAC nud reachable dev DEVICE",
            "bridge fdb append MAC dev DEVICE dst OTHER self permanent",
            "bridge fdb add 02:00:00:00:00:77 dev DEVICE dst OTHER self permanent",
        ],
        &["ip link set DEVICE mtu 1300", "ip link set DEVICE down"],
        &["ip link set DEVICE address 02:00:00:00:00:77"],
        &["ip link del DEVICE"],
    ];
    let words = ["DEVICE", "BASE", "SUBNET", "STRAY", "MAC", "PEER", "OWN", "OTHER"];
    let families = [
        "flannel.7 10.42.7.0 10.42.7.0/24 10.42.77.0/24 02:00:00:00:04:12 192.0.2.12 10.42.3.0/32 192.0.2.77",
        "flannel-v6.7 fd42:0:0:7:: fd42:0:0:7::/64 fd42:0:0:77::/64 02:00:00:00:06:12 2001:db8:c0::12 \
         fd42:0:0:3::/128 2001:db8:c0::77",
    ];
    for round in rounds {
        for (line, family) in round.iter().flat_map(|line| families.map(|family| (line, family))) {
            let values = words.into_iter().zip(family.split_whitespace());
            let line = values.fold((*line).to_owned(), |line, (word, value)| line.replace(word, value));
            let (program, arguments) = line.split_once(' ').unwrap();
            netns.command(program).words(arguments).run().unwrap();
        }
        wait_for_rows(node, &whole, &format!("the rows to be as before {round:?}"));
    }
}

#[test]
fn a_peer_that_changes_or_goes_leaves_nothing_stale() {
    let overlay = one_node(Topology::builder("rows-stale"), VXLAN);
    let node = overlay.node(0);
    let mut wanted = vxlan_rows(node.netns());
    wait_for_rows(node, &wanted, "flannel's rows");
    let (key, value) = BOTH;
    let mut value = value.replace("TYPE", "vxlan");
    for (old, new) in [
        ("02:00:00:00:04:12", "02:00:00:00:04:99"),
        ("02:00:00:00:06:12", "02:00:00:00:06:99"),
        ("192.0.2.12", "192.0.2.99"),
        ("2001:db8:c0::12", "2001:db8:c0::99"),
    ] {
        (value, wanted) = (value.replace(old, new), replaced(&wanted, old, new));
        overlay.store.put(key, &value).unwrap();
        wait_for_rows(node, &wanted, &format!("{new} in place of {old} and nothing else"));
    }
    let mut without_ipv6: Value = serde_json::from_str(&value).unwrap();
    without_ipv6.as_object_mut().unwrap().remove("BackendV6Data");
    overlay.store.put(key, &without_ipv6.to_string()).unwrap();
    wanted = without(&wanted, &["fd42:0:0:7::", "2001:db8:c0::99"]);
    wait_for_rows(node, &wanted, "the rows of IPv6 to go");
    overlay.store.delete(key).unwrap();
    wanted = without(&wanted, &["10.42.7.0", "192.0.2.99"]);
    wait_for_rows(node, &wanted, "all rows of the peer to go");
    wait_for("status to name what cannot be programmed", SOON, || {
        Ok(overlay.agents[0].status()?["rejected"].to_string().contains("10.42.9.0"))
    })
    .unwrap();
    assert_eq!(rows(node).unwrap(), wanted);
}
