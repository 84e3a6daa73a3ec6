//! A node on which flanneld ran before: what it left is taken over, without a lost packet, and back.

use ovl_tests::agent::Agent;
use ovl_tests::kernel_vtep::{FLANNEL_OPTIONS, KernelVtep, Peer, device};
use ovl_tests::links;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, PingInBackground};
use serde_json::Value;

use crate::listing::{Rows, replaced, rows, wait_for_rows, without};
use crate::overlay::{DUAL, KERNEL, Overlay, SOON, config};

/// Two nodes of flanneld with a pod each. The first is the one that is to be taken over.
struct Flannel {
    pods: [Pod; 2],
    /// Of both nodes, as their peers see them.
    peers: [Vec<Peer>; 2],
    overlay: Overlay,
}

impl Flannel {
    /// The first node's devices are made with `options`.
    fn start(label: &str, options: &str) -> Self {
        let topology = Topology::builder(label).nodes(2).ipv6();
        let overlay = Overlay::bare(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#)).unwrap();
        let [one, two] = [(0, 3), (1, 4)].map(|(index, number): (usize, u8)| {
            let env = SubnetEnv::by_hand("10.42.0.0/16", &format!("10.42.{number}.0/24"), 1430).unwrap();
            let env = env.with_ipv6("fd42::/48", &format!("fd42:0:0:{number}::/64")).unwrap();
            let node = overlay.node(index);
            let options = if index == 0 { options } else { FLANNEL_OPTIONS };
            let vtep = KernelVtep::with_options(node, &env, options).unwrap();
            overlay.store.put(&env.lease_key(), &vtep.lease_json()).unwrap();
            (node.add_pod("a", &env).unwrap(), vtep)
        });
        let peers = [&one.1, &two.1].map(|vtep| vtep.own().iter().cloned().collect::<Vec<_>>());
        peers[1].iter().for_each(|peer| one.1.add_peer(peer).unwrap());
        peers[0].iter().for_each(|peer| two.1.add_peer(peer).unwrap());
        // Nodes that are no more, whose rows flanneld left: it never cleans up what it missed.
        for (base, prefix_len, public_ip) in
            [("10.42.30.0", 24, "192.0.2.30"), ("fd42:0:0:30::", 64, "2001:db8:c0::66")]
        {
            let (base, public_ip) = (base.parse().unwrap(), public_ip.parse().unwrap());
            let gone = Peer { base, prefix_len, vtep_mac: "02:00:00:00:00:66".into(), public_ip };
            one.1.add_peer(&gone).unwrap();
        }
        Self { pods: [one.0, two.0], peers, overlay }
    }

    /// Starts an agent on the first node.
    fn take_over(&self) -> Agent {
        let agent = self.overlay.start_ready(0, KERNEL).unwrap();
        agent.wait_for_peers(1).unwrap();
        agent
    }

    /// What the first node should have: as flanneld left it but for the dead and for our mark on the routes.
    fn wanted(&self) -> Rows {
        let rows = without(&rows(self.overlay.node(0)).unwrap(), &["10.42.30.0", "fd42:0:0:30::", ":00:66"]);
        replaced(&rows, "by boot", "by 111")
    }

    fn pings(&self) -> Vec<PingInBackground> {
        let from = self.pods[0].netns();
        self.pods[1].addresses().map(|address| PingInBackground::start(from, address).unwrap()).collect()
    }
}

fn none_lost(pings: Vec<PingInBackground>) {
    for ping in pings {
        ping.wait_for_more(50, SOON).unwrap();
        let ping = ping.stop().unwrap();
        assert_eq!(ping.lost(), 0, "{ping:?}");
    }
}

#[test]
fn a_living_node_is_taken_over_and_given_back_without_a_lost_packet() {
    let flannel = Flannel::start("takeover", FLANNEL_OPTIONS);
    let (node, wanted, pings) = (flannel.overlay.node(0), flannel.wanted(), flannel.pings());
    let leases = flannel.overlay.store.leases().unwrap();
    let devices = || {
        ["flannel.1", "flannel-v6.1"].map(|device| {
            links::ip_json(node.netns(), &format!("link show dev {device}")).unwrap()[0]["ifindex"].clone()
        })
    };
    let before = devices();
    let mut agent = flannel.take_over();
    wait_for_rows(node, &wanted, "the rows to be ours");
    assert_eq!(devices(), before, "the very same devices");
    assert_eq!(flannel.overlay.store.leases().unwrap(), leases, "the same lease");
    assert_eq!(agent.subnet().unwrap().lease_key(), leases[0]);
    agent.terminate().unwrap();
    assert_eq!(rows(node).unwrap(), wanted, "what flanneld finds when it comes back");

    // It keeps a device unless one of these differs from what it would make, and replaces every peer's rows.
    for (device, local, address) in
        [("flannel.1", "local", "192.0.2.11"), ("flannel-v6.1", "local6", "2001:db8:c0::11")]
    {
        let link = &links::ip_json(node.netns(), &format!("link show dev {device}")).unwrap()[0];
        let info = &link["linkinfo"]["info_data"];
        let have = ["id", "port"].map(|name| info[name].as_u64());
        assert_eq!(have, [Some(1), Some(8472)], "{device}");
        assert_eq!((&info["link"], &info[local]), (&"eth0".into(), &address.into()), "{device}");
        assert_eq!(["group", "group6", "gbp", "l2miss"].map(|name| info.get(name)), [None::<&Value>; 4]);
    }
    let vtep = KernelVtep::found(node, &agent.subnet().unwrap()).unwrap();
    flannel.peers[1].iter().for_each(|peer| vtep.add_peer(peer).unwrap());
    assert_eq!(rows(node).unwrap(), replaced(&wanted, "by 111", "by boot"), "one route a peer");

    let _again = flannel.take_over();
    wait_for_rows(node, &wanted, "the rows to be ours again");
    none_lost(pings);
}

/// What the kernel says of a VXLAN device but for its address.
fn parameters(node: &Node, device: &str) -> Value {
    let mut links = links::ip_json(node.netns(), &format!("link show dev {device}")).unwrap();
    let mut info = links[0]["linkinfo"]["info_data"].take();
    info.as_object_mut().unwrap().retain(|member, _| member != "local" && member != "local6");
    info
}

#[test]
fn a_device_with_other_parameters_is_made_anew_with_its_mac() {
    for options in [
        "dstport 4789 nolearning",
        "dstport 8472 learning",
        "dstport 8472 nolearning gbp",
        "dstport 8472 nolearning l2miss l3miss",
        "dstport 8472 nolearning ttl 64 noudpcsum udp6zerocsumrx srcport 1000 2000",
    ] {
        let flannel = Flannel::start("takeover-dev", options);
        let node = flannel.overlay.node(0);
        let wanted = replaced(&flannel.wanted(), "port 4789", "port 8472");
        let _agent = flannel.take_over();
        // The listing has the devices' MACs.
        wait_for_rows(node, &wanted, &format!("the rows after `{options}`"));
        for device in ["flannel.1", "flannel-v6.1"] {
            let mut stock = parameters(flannel.overlay.node(1), device);
            if device == "flannel-v6.1" && options.contains("udp6zerocsumrx") {
                // As ours are where there was no device.
                stock["udp_zero_csum6_rx"] = true.into();
            }
            assert_eq!(parameters(node, device), stock, "{device} after {options}");
        }
        traffic::ping_all_pairs(&flannel.pods).unwrap();
    }
}

/// Puts another VXLAN device with the same MAC in place of both of the first node's.
fn replace_devices(flannel: &Flannel, parameters: [&str; 2], stale: [&str; 2]) {
    let netns = flannel.overlay.node(0).netns();
    let own = [("flannel.1", "10.42.3.0/32"), ("flannel-v6.1", "fd42:0:0:3::/128")];
    for (((device, address), parameters), stale) in own.into_iter().zip(parameters).zip(stale) {
        let mac = links::mac(netns, device).unwrap();
        netns.ip(&format!("link del {device}")).unwrap();
        let vxlan = format!("type vxlan id 1 {parameters} dev eth0 {FLANNEL_OPTIONS}");
        netns.ip(&format!("link add {device} address {mac} {vxlan}")).unwrap();
        for address in [address, stale] {
            netns.ip(&format!("address add {address} dev {device}")).unwrap();
        }
        netns.ip(&format!("link set {device} up")).unwrap();
    }
}

#[test]
fn a_device_with_an_old_address_or_a_default_remote_is_made_anew_with_its_mac() {
    for parameters in [
        // As if it had been made when the node had another address, and its lease another public IP.
        ["local 192.0.2.99", "local 2001:db8:c0::99"],
        ["local 192.0.2.11 remote 192.0.2.12", "local 2001:db8:c0::11 remote 2001:db8:c0::12"],
        ["local 192.0.2.11 group 239.1.1.1", "local 2001:db8:c0::11 group ff05::1"],
    ] {
        let flannel = Flannel::start("takeover-ip", FLANNEL_OPTIONS);
        let (node, wanted) = (flannel.overlay.node(0), flannel.wanted());
        replace_devices(&flannel, parameters, ["10.42.98.0/32", "fd42:0:0:98::/128"]);
        let _agent = flannel.take_over();
        wait_for_rows(node, &wanted, &format!("the rows after {parameters:?}"));
        for device in ["flannel.1", "flannel-v6.1"] {
            let stock = self::parameters(flannel.overlay.node(1), device);
            assert_eq!(self::parameters(node, device), stock, "{device} after {parameters:?}");
        }
        traffic::ping_all_pairs(&flannel.pods).unwrap();
    }
}

#[test]
fn forwarding_entries_that_lead_elsewhere_are_put_right() {
    let flannel = Flannel::start("takeover-fdb", FLANNEL_OPTIONS);
    let (node, wanted) = (flannel.overlay.node(0), flannel.wanted());
    let lead_away = |detour: &str| {
        for Peer { base, vtep_mac, public_ip, .. } in &flannel.peers[1] {
            let entry = format!("{vtep_mac} dev {} dst {public_ip} {detour}", device(*base));
            node.netns().bridge(&format!("fdb replace {entry} self permanent")).unwrap();
        }
    };
    let detours = ["port 4790", "vni 7", "via lo"];
    let before = rows(node).unwrap();
    for detour in detours {
        lead_away(detour);
        assert_eq!(rows(node).unwrap().difference(&before).count(), 2, "`{detour}` shows");
    }
    let _agent = flannel.take_over();
    wait_for_rows(node, &wanted, "the entries that flanneld left");
    for detour in detours {
        lead_away(detour);
        wait_for_rows(node, &wanted, &format!("the rows after `{detour}`"));
    }
    traffic::ping_all_pairs(&flannel.pods).unwrap();
}

#[test]
fn host_gw_routes_become_ours_without_a_lost_packet() {
    let topology = Topology::builder("takeover-gw").nodes(2).ipv6();
    let mut overlay =
        Overlay::start_with(topology, &config(&[DUAL], r#"{"Type":"host-gw"}"#), KERNEL).unwrap();
    let node = overlay.node(0);
    let wanted = rows(node).unwrap();
    overlay.agents[0].terminate().unwrap();
    for subnet in overlay.agents[1].subnet().unwrap().subnets.iter() {
        let peer = overlay.node(1).addresses();
        let gateway = if subnet.base().is_ipv4() { peer.ipv4() } else { peer.ipv6() }.unwrap().address;
        let route = format!("route replace {} via {gateway} dev eth0 proto boot", subnet.cidr());
        overlay.node(0).netns().ip(&route).unwrap();
    }
    let to = overlay.pods[1].addresses();
    let pings =
        to.map(|address| PingInBackground::start(overlay.pods[0].netns(), address).unwrap()).collect();
    overlay.agents[0] = overlay.start_ready(0, KERNEL).unwrap();
    wait_for_rows(overlay.node(0), &wanted, "the routes to be ours");
    none_lost(pings);
}
