//! What senders are told: hops used up, nobody there, too large; and ways that are narrower than they look.

use ovl_tests::datagrams::Datagrams;
use ovl_tests::netns::Netns;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{self, Destination};
use ovl_tests::wait::wait_for;

use super::{UDP, start};
use crate::overlay::{DUAL, KERNEL, Overlay, SOON, config};

/// What ping says when asked once with these words.
fn ask(from: &Netns, words: &str) -> String {
    let output = from.command("ping").words("-n -c 1 -W 2").words(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn envs(overlay: &Overlay) -> [SubnetEnv; 2] {
    [0, 1].map(|node| overlay.agents[node].subnet().unwrap())
}

/// Waits until exactly so many packets are counted, which their senders hear of before.
fn until_counted(overlay: &Overlay, node: usize, way: &str, reason: &str, packets: u64) {
    let counted = || overlay.agents[node].counter(way, reason);
    wait_for(&format!("{packets} packets to be counted as {reason}"), SOON, || Ok(counted()? == packets))
        .unwrap();
}

/// Each node's kernel takes one, and each agent: flannel's drops the packet without a word.
#[test]
fn a_packet_that_runs_out_of_hops_is_answered_by_the_node_where_it_does() {
    let overlay = start(Topology::builder("udp-ttl").ipv6(), DUAL, KERNEL);
    let [pod, other] = [&overlay.pods[0], &overlay.pods[1]];
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let envs = envs(&overlay);
    for (family, address) in other.addresses().enumerate() {
        let base = |node: usize| envs[node].subnets.iter().nth(family).unwrap().base();
        for (hops, answer) in [(2, base(0)), (3, base(1)), (4, base(1))] {
            let said = ask(pod.netns(), &format!("-t {hops} {address}"));
            let exceeded = said.contains("Time to live exceeded") || said.contains("Hop limit");
            assert!(exceeded && said.contains(&format!("From {answer} ")), "{hops} hops: {said}");
        }
        let said = ask(pod.netns(), &format!("-t 5 {address}"));
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    for (node, way) in [(0, "from_tun"), (1, "to_tun")] {
        until_counted(&overlay, node, way, "ttl", 2);
    }
}

#[test]
fn an_address_that_no_node_has_is_unreachable_and_a_large_packet_is_too_big() {
    let overlay = start(Topology::builder("udp-unreachable").ipv6(), DUAL, KERNEL);
    let pod = &overlay.pods[0];
    let env = &envs(&overlay)[0];
    let table = [("10.42.0.1", "Destination Net Unreachable"), ("fd42::1", "No route")];
    for ((address, text), subnet) in table.into_iter().zip(env.subnets.iter()) {
        let said = ask(pod.netns(), address);
        assert!(said.contains(text) && said.contains(&format!("From {} ", subnet.base())), "{said}");
    }
    until_counted(&overlay, 0, "from_tun", "not_overlay", 2);
    // A pod that was not told the MTU is told by the node's kernel.
    for line in ["link set cni0 mtu 1500", &format!("link set {} mtu 1500", pod.host_interface())] {
        overlay.node(0).netns().ip(line).unwrap();
    }
    pod.netns().ip("link set eth0 mtu 1500").unwrap();
    for (address, text) in overlay.pods[1].addresses().zip(["mtu = 1452", "mtu=1452"]) {
        let said = ask(pod.netns(), &format!("-M do -s 1440 {address}"));
        assert!(said.contains(text), "{said}");
        traffic::ping_packet(pod.netns(), address, 1452).unwrap();
    }
    traffic::tcp_transfer(pod, &overlay.pods[1], 10 << 20).unwrap();
}

/// A node with a wider underlay: its pods' packets arrive in one piece, and are too large for the pods here. The kernel
/// tells the sender, and cuts what may be cut.
#[test]
fn a_packet_from_a_wider_underlay_is_cut_or_its_sender_told() {
    let topology = Topology::builder("udp-wider").behind_router(1).ipv6().mtu(9000);
    let mut overlay = Overlay::bare(topology, &config(&[DUAL], UDP)).unwrap();
    overlay.topology.switch().unwrap().ip("link set far mtu 1500").unwrap();
    overlay.node(1).netns().ip("link set eth0 mtu 1500").unwrap();
    overlay.start_agents(KERNEL).unwrap();
    let [wide, narrow] = [&overlay.pods[0], &overlay.pods[1]];
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let uncut = ask(wide.netns(), &format!("-M dont -s 5000 {}", narrow.address()));
    assert!(uncut.contains(" 0% packet loss"), "{uncut}");
    for (address, text) in narrow.addresses().zip(["mtu = 1452", "mtu=1452"]) {
        // Over IPv6 the first one tells the node how wide the way is.
        let is_told = || Ok(ask(wide.netns(), &format!("-M do -s 5000 {address}")).contains(text));
        wait_for(&format!("the sender to {address} to be told"), SOON, is_told).unwrap();
        // Who knows, cuts.
        let datagrams = Datagrams::between(wide.netns(), narrow.netns(), address).unwrap();
        datagrams.exchange(20, 5000).unwrap();
    }
}

/// The pods cannot know: outer packets travel in fragments, as the kernel's tunnels' do.
#[test]
fn a_narrower_way_between_the_nodes_carries_everything() {
    let topology = Topology::builder("udp-narrow").behind_router(1).ipv6();
    let overlay = start(topology, DUAL, KERNEL);
    for bridge in ["far", "switch"] {
        overlay.topology.switch().unwrap().ip(&format!("link set {bridge} mtu 1300")).unwrap();
    }
    let pods = &overlay.pods;
    for (client, server) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        for destination in Destination::all(server) {
            traffic::ping_packet(client.netns(), destination.address, 1452).unwrap();
            traffic::tcp_intact(client, destination, 2 << 20, overlay.topology.dir()).unwrap();
        }
    }
}
