//! Odd but real: VLAN tags, leases that overlap in time, configs that don't fit the machine, records written over.

use std::fs;
use std::net::IpAddr;

use ovl_tests::agent::Agent;
use ovl_tests::links;
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::overlay::{EBPF, KERNEL, Overlay, SOON};

/// The six bytes of a MAC as `ip` writes it.
fn mac_bytes(text: &str) -> Vec<u8> {
    text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn a_tagged_packet_of_a_pod_stays_with_the_kernel() {
    let overlay = Overlay::start(Topology::builder("vlan").nodes(2), "vxlan", EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let (pod, peer) = (&overlay.pods[0], &overlay.pods[1]);
    // A ping from the pod's own addresses to its peer, in VLAN 5.
    let octets = |pod: &Pod| match pod.address() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => panic!("{address} is no IPv4 address"),
    };
    let mut ip = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0][..], &octets(pod), &octets(peer)].concat();
    let sum: u32 = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    let frame = [
        mac_bytes(&links::mac(overlay.node(0).netns(), "cni0").unwrap()),
        mac_bytes(&links::mac(pod.netns(), "eth0").unwrap()),
        vec![0x81, 0, 0, 5, 8, 0],
        ip,
        vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0],
    ]
    .concat();
    let file = overlay.topology.dir().join("frame");
    fs::write(&file, frame).unwrap();
    let before = overlay.fast(0).unwrap();
    pod.netns()
        .command("socat")
        .arg("-u")
        .arg(format!("OPEN:{}", file.display()))
        .arg("INTERFACE:eth0")
        .run()
        .unwrap();
    wait_for("the packet to be counted as tagged", SOON, || {
        Ok(overlay.agents[0].counter("from_pod", "vlan")? > 0)
    })
    .unwrap();
    assert_eq!(overlay.fast(0).unwrap().0, before.0, "and not to be sent");
}

#[test]
fn an_old_lease_of_a_living_node_takes_nothing_from_its_new_one() {
    let overlay = Overlay::start(Topology::builder("twolease").nodes(2), "vxlan", EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let subnet = overlay.agents[1].subnet().unwrap();
    let value = overlay.store.get(&format!("subnets/{}-24", subnet.base())).unwrap();
    // Before it in order, so that it is the first to claim the node's MAC.
    overlay.store.put("subnets/10.42.0.0-24", &value).unwrap();
    let node = overlay.node(0).netns();
    wait_for("the old lease to have its route", SOON, || {
        Ok(node.ip("route show")?.contains("10.42.0.0/24 via"))
    })
    .unwrap();
    assert!(node.ip("route show").unwrap().contains(&format!("{}/24 via", subnet.base())));
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}

#[test]
fn an_mtu_that_the_interface_lacks_is_cut_and_said() {
    let overlay = Overlay::without_agents(Topology::builder("mtu").nodes(2), "vxlan").unwrap();
    let config = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","MTU":9000}}"#;
    overlay.store.put("config", config).unwrap();
    let mut agent = overlay.start_agent(0, KERNEL).unwrap();
    agent.wait_ready().unwrap();
    assert_eq!(agent.subnet().unwrap().mtu, 1450);
    assert_eq!(links::mtu(overlay.node(0).netns(), "flannel.1").unwrap(), 1450);
    assert!(agent.log().contains("Backend.MTU is 9000, but eth0 carries only 1500"), "{}", agent.log_tail());
    overlay.node(0).netns().ip("link set eth0 mtu 1400").unwrap();
    wait_for("the device to follow the underlay", SOON, || {
        Ok(links::mtu(overlay.node(0).netns(), "flannel.1")? == 1350 && agent.subnet()?.mtu == 1350)
    })
    .unwrap();
}

#[test]
fn our_own_record_written_over_is_written_anew() {
    let overlay = Overlay::start(Topology::builder("mend").nodes(2), "vxlan", KERNEL).unwrap();
    let agent = &overlay.agents[0];
    let subnet = agent.subnet().unwrap();
    let key = format!("subnets/{}-24", subnet.base());
    let value = overlay.store.get(&key).unwrap();
    let mended = || Ok(overlay.store.get(&key).is_ok_and(|now| now == value));
    overlay.store.put(&key, "garbage").unwrap();
    wait_for("the garbage to be replaced", SOON, mended).unwrap();
    overlay.store.delete(&key).unwrap();
    wait_for("the lease to be taken again", SOON, mended).unwrap();
    let mac = links::mac(overlay.node(0).netns(), "flannel.1").unwrap();
    let stolen = value.replace("192.0.2.11", "192.0.2.99").replace(&mac, "02:00:00:00:00:99");
    overlay.store.put(&key, &stolen).unwrap();
    wait_for("another subnet to be taken", SOON, || Ok(agent.subnet()?.base() != subnet.base())).unwrap();
    assert_eq!(overlay.store.get(&key).unwrap(), stolen, "what another holds is left alone");
    traffic::ping(overlay.node(1).netns(), agent.subnet().unwrap().base()).unwrap();
    for text in ["cannot be read", "vanished", "was taken over by 192.0.2.99", "is now"] {
        Overlay::wait_for_log(agent, text).unwrap();
    }
}

/// The clsact filters of the first node.
fn filters(overlay: &Overlay) -> String {
    let show =
        |hook: &str| overlay.node(0).command("tc").words(&format!("filter show dev {hook}")).run().unwrap();
    ["eth0 ingress", "veth0 ingress", "veth0 egress"].map(show).concat()
}

#[test]
fn a_killed_agents_filters_are_removed_by_the_next_one_whatever_its_mode() {
    let mut overlay = Overlay::start(
        Topology::builder("leftover").nodes(2),
        "vxlan",
        &format!("{EBPF} --tc-attach clsact"),
    )
    .unwrap();
    assert_eq!(overlay.pods[0].host_interface(), "veth0");
    let all = |filters: &str| filters.matches("pref 111 bpf chain 0 handle").count() == 3;
    wait_for("a filter on each interface", SOON, || Ok(all(&filters(&overlay)))).unwrap();
    let mut old = overlay.agents.remove(0);
    old.kill().unwrap();
    assert!(filters(&overlay).contains("from_wire"), "they outlive a killed agent");
    let mut agent: Agent = overlay.start_agent(0, KERNEL).unwrap();
    agent.wait_ready().unwrap();
    assert_eq!(filters(&overlay), "", "and not the next one");
}

#[test]
fn a_peer_that_the_kernel_cannot_reach_is_not_reached_past_it() {
    let overlay = Overlay::start(Topology::builder("offlink").nodes(2), "host-gw", EBPF).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    // No address of this node says that 203.0.113.9 is on a link, so the kernel refuses the route.
    let value = r#"{"PublicIP":"203.0.113.9","PublicIPv6":null,"BackendType":"host-gw"}"#;
    overlay.store.put("subnets/10.42.250.0-24", value).unwrap();
    Overlay::wait_for_log(&overlay.agents[0], "cannot add route 10.42.250.0/24 via 203.0.113.9").unwrap();
    let before = overlay.fast(0).unwrap().0;
    let ping =
        overlay.pods[0].netns().command("ping").words("-c 3 -i 0.2 -W 1 10.42.250.7").output().unwrap();
    assert!(!ping.status.success());
    assert_eq!(overlay.fast(0).unwrap().0, before, "the fast path sent nothing there");
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}
