//! The network config changes below running agents: what can be applied is, the rest is named, and nothing is lost.

use ovl_tests::links;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::PingInBackground;
use ovl_tests::wait::wait_for;

use crate::listing::{Rows, rows, wait_for_rows};
use crate::overlay::{DUAL, EBPF, ONLY_IPV4, Overlay, SOON, config};

const VXLAN: &str = r#"{"Type":"vxlan"}"#;

/// Two dual-stack nodes on vxlan, and a ping in each family that runs all the time.
fn two_nodes(label: &str) -> (Overlay, Vec<PingInBackground>) {
    let topology = Topology::builder(label).nodes(2).ipv6();
    let overlay = Overlay::start_with(topology, &config(&[DUAL], VXLAN), EBPF).unwrap();
    let start = |address| PingInBackground::start(overlay.pods[0].netns(), address).unwrap();
    let pings = overlay.pods[1].addresses().map(start).collect();
    (overlay, pings)
}

fn none_lost(pings: Vec<PingInBackground>) {
    for ping in pings {
        ping.wait_for_more(50, SOON).unwrap();
        let ping = ping.stop().unwrap();
        assert_eq!(ping.lost(), 0, "{ping:?}");
    }
}

fn all_rows(overlay: &Overlay) -> [Rows; 2] {
    [0, 1].map(|index| rows(overlay.node(index)).unwrap())
}

#[test]
fn mtu_learning_and_direct_routing_are_applied_at_once() {
    let (overlay, pings) = two_nodes("live");
    let before = all_rows(&overlay);
    for (backend, ipv4, ipv6) in [
        (r#"{"Type":"vxlan","MTU":1400}"#, 1350, 1330),
        (r#"{"Type":"vxlan","MTU":1450}"#, 1400, 1380),
        (VXLAN, 1450, 1430),
    ] {
        overlay.store.put("config", &config(&[DUAL], backend)).unwrap();
        for (index, agent) in overlay.agents.iter().enumerate() {
            let netns = overlay.node(index).netns();
            wait_for(&format!("the MTU of {backend}"), SOON, || {
                let have = [links::mtu(netns, "flannel.1")?, links::mtu(netns, "flannel-v6.1")?];
                Ok(have == [ipv4, ipv6] && u64::from(agent.subnet()?.mtu) == ipv6)
            })
            .unwrap();
        }
    }
    let learning = |device: &str| {
        let link = links::ip_json(overlay.node(1).netns(), &format!("link show dev {device}")).unwrap();
        link[0]["linkinfo"]["info_data"]["learning"].clone()
    };
    for switched in [true, false] {
        let backend = format!(r#"{{"Type":"vxlan","Learning":{switched}}}"#);
        overlay.store.put("config", &config(&[DUAL], &backend)).unwrap();
        wait_for(&format!("the devices to have {backend}"), SOON, || {
            Ok(["flannel.1", "flannel-v6.1"].map(learning) == [switched, switched])
        })
        .unwrap();
    }
    for (direct, device) in [(true, "on eth0 by"), (false, "on flannel"), (true, "on eth0 by")] {
        let backend = format!(r#"{{"Type":"vxlan","DirectRouting":{direct}}}"#);
        overlay.store.put("config", &config(&[DUAL], &backend)).unwrap();
        for index in [0, 1] {
            wait_for(&format!("both routes to be {device} for {backend}"), SOON, || {
                let rows = rows(overlay.node(index))?;
                let tunnelled = rows.iter().any(|row| row.starts_with("fdb") || row.starts_with("neighbour"));
                let routes = rows.iter().filter(|row| row.starts_with("route") && row.contains(device));
                Ok(routes.count() == 2 && tunnelled != direct)
            })
            .unwrap();
        }
    }
    overlay.store.put("config", &config(&[DUAL], VXLAN)).unwrap();
    for (index, rows) in before.iter().enumerate() {
        wait_for_rows(overlay.node(index), rows, "the rows to be as at the start");
    }
    none_lost(pings);
}

#[test]
fn what_needs_a_restart_is_named_and_nothing_is_touched() {
    let (overlay, pings) = two_nodes("restart-needed");
    let (before, leases) = (all_rows(&overlay), overlay.store.leases().unwrap());
    let table = [
        (config(&[DUAL], VXLAN).replace("10.42.", "10.43."), "Network"),
        (config(&[DUAL], VXLAN).replace("fd42:", "fd43:"), "IPv6Network"),
        (config(&[DUAL], r#"{"Type":"vxlan","VNI":9}"#), "VNI"),
        (config(&[DUAL], r#"{"Type":"vxlan","Port":4789}"#), "Port"),
        (config(&[DUAL], r#"{"Type":"host-gw"}"#), "Type"),
        (config(&[ONLY_IPV4], VXLAN), "IPv6Network"),
    ];
    for (config, name) in table {
        overlay.store.put("config", &config).unwrap();
        for agent in &overlay.agents {
            wait_for(&format!("log and status to say that {name} needs a restart"), SOON, || {
                let log = agent.log();
                let said = log.lines().any(|line| line.contains(name) && line.contains("restart"));
                let status = agent.status()?.to_string();
                Ok(said && status.contains(name) && status.contains("restart"))
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{}\n{:#}", agent.log_tail(), agent.status().unwrap()));
        }
        assert_eq!(all_rows(&overlay), before, "{name}");
    }
    overlay.store.put("config", &config(&[DUAL], VXLAN)).unwrap();
    for agent in &overlay.agents {
        wait_for("status to have no more to say", SOON, || {
            Ok(!agent.status()?.to_string().contains("restart"))
        })
        .unwrap();
    }
    assert_eq!(overlay.store.leases().unwrap(), leases);
    none_lost(pings);
}

#[test]
fn a_config_that_cannot_be_used_is_named_and_nothing_is_touched() {
    let (overlay, pings) = two_nodes("bad-config");
    let before = all_rows(&overlay);
    for (bad, said) in [
        ("{\"Network\": ", "JSON"),
        ("", "JSON"),
        (r#"{"Network":"10.42.0.0/33","Backend":{"Type":"vxlan"}}"#, "10.42.0.0/33"),
        (r#"{"Network":"10.42.0.0/16","Backend":{"Type":"gre"}}"#, "gre"),
        // Too narrow for IPv6, whose addresses the kernel would take off the device.
        (&config(&[DUAL], r#"{"Type":"vxlan","MTU":1300}"#), "less than the 1280 that IPv6 needs"),
    ] {
        overlay.store.put("config", bad).unwrap();
        for agent in &overlay.agents {
            Overlay::wait_for_log(agent, said).unwrap();
            assert_eq!(agent.status().unwrap()["ready"], true);
        }
    }
    overlay.store.delete("config").unwrap();
    // Something that every agent has to do after that.
    let lease = r#"{"PublicIP":"192.0.2.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}"#;
    overlay.store.put("subnets/10.42.77.0-24", lease).unwrap();
    for (index, before) in before.iter().enumerate() {
        let mut wanted = before.clone();
        wanted.extend(
            [
                "neighbour 10.42.77.0 02:00:00:00:00:77 permanent on flannel.1",
                "fdb 02:00:00:00:00:77 192.0.2.77 permanent self on flannel.1",
                "route 10.42.77.0/24 via 10.42.77.0 on flannel.1 onlink by 111",
            ]
            .map(str::to_owned),
        );
        wait_for_rows(overlay.node(index), &wanted, "a new peer's rows beside all that was there");
    }
    none_lost(pings);
}
