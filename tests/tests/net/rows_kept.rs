//! Each row that is deleted or changed by hand comes back, and a peer that changes or goes takes its rows along; in both
//! families.

use ovl_tests::topology::Topology;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::listing::{replaced, rows, wait_for_rows, without};
use crate::overlay::SOON;
use crate::rows::{BOTH, VXLAN, one_node, vxlan_rows};

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
    let mut fewer: Value = serde_json::from_str(&value).unwrap();
    fewer.as_object_mut().unwrap().remove("BackendV6Data");
    overlay.store.put(key, &fewer.to_string()).unwrap();
    wanted = without(&wanted, &["fd42:0:0:7::", "2001:db8:c0::99"]);
    wanted.insert("neighbour fd42:0:0:7:: 02:00:00:00:04:99 permanent on flannel.7".into());
    wanted.insert("route fd42:0:0:7::/64 via fd42:0:0:7:: on flannel.7 onlink by 111".into());
    wait_for_rows(node, &wanted, "IPv6 to go through the tunnel over IPv4");
    fewer.as_object_mut().unwrap().remove("BackendData");
    overlay.store.put(key, &fewer.to_string()).unwrap();
    wanted = without(&wanted, &["10.42.7.0", "192.0.2.99", "fd42:0:0:7::"]);
    wait_for_rows(node, &wanted, "all rows of the peer to go");
    wait_for("status to name what cannot be programmed", SOON, || {
        Ok(overlay.agents[0].status()?["rejected"].to_string().contains("it has no BackendV6Data"))
    })
    .unwrap();
    overlay.store.delete(key).unwrap();
    wait_for("status to forget it", SOON, || {
        Ok(overlay.agents[0].status()?["rejected"] == Value::Array(Vec::new()))
    })
    .unwrap();
    assert_eq!(rows(node).unwrap(), wanted);
}
