//! The harness by itself, without an agent: what other tests rely on is true. Runs as root.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ovl_tests::background::{Background, Lifetime};
use ovl_tests::capture::Capture;
use ovl_tests::etcd::Etcd;
use ovl_tests::kernel_vtep::KernelVtep;
use ovl_tests::netns;
use ovl_tests::pod::Pod;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::Topology;
use ovl_tests::traffic::{
    self, Destination, Ends, PingInBackground, Placement, Protocol, StreamInBackground,
};
use ovl_tests::wait::wait_for;
use ovl_tests::{command::Cmd, links};

/// A subnet and a pod per node, joined by stock kernel VXLAN.
fn kernel_overlay(topology: &Topology) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    let mut vteps = Vec::new();
    for (third, node) in (1u8..).zip(topology.nodes()) {
        let subnet = SubnetEnv::by_hand("10.42.0.0/16", &format!("10.42.{third}.0/24"), 1450)?;
        let subnet = match node.address6() {
            None => subnet,
            Some(_) => {
                SubnetEnv { mtu: 1430, ..subnet }.with_ipv6("fd42::/48", &format!("fd42:0:0:{third}::/64"))?
            }
        };
        pods.push(node.add_pod("a", &subnet)?);
        vteps.push(KernelVtep::create(node, &subnet)?);
    }
    for (index, vtep) in vteps.iter().enumerate() {
        let others = vteps.iter().enumerate().filter(|(other, _)| *other != index);
        others.flat_map(|(_, other)| other.own().iter()).try_for_each(|peer| vtep.add_peer(peer))?;
    }
    Ok(pods)
}

#[test]
fn three_nodes_on_a_switch_reach_each_other_and_leave_nothing() {
    let topology = Topology::builder("switch").nodes(3).build().unwrap();
    let prefix = topology.prefix().to_owned();
    let directory = topology.dir().to_owned();
    let pods = kernel_overlay(&topology).unwrap();
    assert_eq!(traffic::ping_all_pairs(&pods).unwrap(), 6);
    let node = topology.node(0).unwrap();
    assert!(links::packets(node.netns(), "flannel.1").unwrap().total() > 0);
    assert_eq!(links::mtu(pods[0].netns(), "eth0").unwrap(), 1450);

    drop(pods);
    drop(topology);
    assert!(!netns::names().unwrap().iter().any(|name| name.starts_with(&prefix)));
    assert!(!directory.exists());
}

#[test]
fn traffic_between_two_nodes_is_measured() {
    let topology = Topology::builder("pair").build().unwrap();
    let pods = kernel_overlay(&topology).unwrap();
    let (client, server) = (&pods[0], &pods[1]);
    traffic::ping(client.netns(), server.address()).unwrap();

    let ping = PingInBackground::start(client.netns(), server.address()).unwrap();
    let mut background = StreamInBackground::start(client, server, 1).unwrap();
    assert!(background.is_running().unwrap());
    assert!(background.finish().unwrap().bits_per_second > 1e6);
    ping.wait_for_more(5, Duration::from_secs(5)).unwrap();
    let summary = ping.stop().unwrap();
    assert!(summary.received > 5 && summary.lost() == 0, "{summary:?}");

    let answers =
        traffic::request_response(Ends::pods(client, server), Protocol::Tcp, Placement::OneCore, 1).unwrap();
    assert!(answers.mean_micros > 1.0 && answers.requests > 1000, "{answers:?}");
}

#[test]
fn a_capture_of_plain_packets_is_valid_vxlan() {
    let topology = Topology::builder("wire").plain_packets().build().unwrap();
    let pods = kernel_overlay(&topology).unwrap();
    let node = topology.node(0).unwrap();
    let file = topology.dir().join("wire.pcap");
    let capture = Capture::start(node.netns(), "eth0", "udp port 8472", &file).unwrap();
    traffic::ping(pods[0].netns(), pods[1].address()).unwrap();
    traffic::tcp_transfer(&pods[0], &pods[1], 2_000_000).unwrap();
    let pcap = capture.stop().unwrap();

    assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new());
    let rows = pcap.rows("icmp.type == 8", &["ip.src", "ip.dst", "udp.dstport", "vxlan.vni"]).unwrap();
    assert_eq!(rows.first().unwrap(), &["192.0.2.11,10.42.1.2", "192.0.2.12,10.42.2.2", "8472", "1"]);
    assert!(pcap.count("tcp").unwrap() > 100);
}

#[test]
fn both_families_are_carried_at_their_size_and_beyond() {
    let topology =
        Topology::builder("dual").nodes(3).behind_router(1).ipv6().plain_packets().build().unwrap();
    let pods = kernel_overlay(&topology).unwrap();
    let file = topology.dir().join("dual.pcap");
    let capture = Capture::start(topology.node(0).unwrap().netns(), "eth0", "udp port 8472", &file).unwrap();
    assert_eq!(traffic::ping_all_pairs(&pods).unwrap(), 6);
    for server in Destination::all(&pods[2]) {
        let client = &pods[0];
        traffic::ping_packet(client.netns(), server.address, 1430).unwrap();
        let ping = client.netns().command("ping").words("-c 1 -M do -s 1430").arg(server.address.to_string());
        assert!(!ping.output().unwrap().status.success(), "more than the MTU does not fit");
        traffic::ping_fragments(client.netns(), server.address, 4000).unwrap();
        traffic::tcp_intact(client, server, 1 << 20, topology.dir()).unwrap();
        traffic::udp_intact(client, server, 1000, topology.dir()).unwrap();
        traffic::udp_intact(client, server, 5000, topology.dir()).unwrap();
    }
    let pcap = capture.stop().unwrap();
    assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new());
    let rows = pcap.rows("icmpv6.type == 128", &["ipv6.src", "ipv6.dst", "udp.dstport"]).unwrap();
    assert_eq!(
        rows.first().unwrap(),
        &["2001:db8:c0::11,fd42:0:0:1::2", "2001:db8:c0::12,fd42:0:0:2::2", "8472"]
    );
    let far = topology.node(2).unwrap();
    assert_eq!(far.address().to_string(), "198.51.100.13");
    assert_eq!(far.address6().unwrap().to_string(), "2001:db8:c1::13");
}

#[test]
fn an_interface_that_is_unplugged_and_plugged_in_is_as_before() {
    let topology = Topology::builder("replug").ipv6_only().switch().build().unwrap();
    let [one, two] = topology.nodes() else { panic!("two nodes") };
    traffic::ping(one.netns(), two.address()).unwrap();
    topology.unplug(one).unwrap();
    assert!(!links::exists(one.netns(), "eth0").unwrap());
    topology.plug_in(one).unwrap();
    traffic::ping(one.netns(), two.address()).unwrap();
    assert_eq!(one.netns().ip("-4 address show dev eth0").unwrap(), "", "IPv6 only");
}

#[test]
fn a_broken_checksum_is_noticed() {
    // With offloads on, packets are captured before the device completes their checksums.
    let topology = Topology::builder("offload").build().unwrap();
    let pods = kernel_overlay(&topology).unwrap();
    let file = topology.dir().join("pod.pcap");
    let capture = Capture::start(pods[0].netns(), "eth0", "tcp", &file).unwrap();
    traffic::tcp_transfer(&pods[0], &pods[1], 1_000_000).unwrap();
    assert!(!capture.stop().unwrap().bad_checksums().unwrap().is_empty());
}

#[test]
fn a_node_has_its_own_sys_that_outlives_its_processes() {
    let topology = Topology::builder("sys").build().unwrap();
    let [one, two] = topology.nodes() else { panic!("two nodes") };
    one.command("mkdir").arg("/sys/fs/bpf/pins").run().unwrap();
    let there = |place: ovl_tests::command::Place| {
        place.command("test").args(["-d", "/sys/fs/bpf/pins"]).output().unwrap().status.success()
    };
    assert!(there(one.place()), "what one process of the node makes the next one sees");
    assert!(!there(two.place()) && !there(ovl_tests::command::Place::host()), "and nobody else");
    let interfaces = one.command("ls").arg("/sys/class/net").run().unwrap();
    assert!(interfaces.split_whitespace().any(|name| name == "eth0"), "{interfaces}");
}

#[test]
fn a_removed_pod_is_gone_from_its_node_and_its_address_is_free() {
    let topology = Topology::builder("pods").build().unwrap();
    let node = topology.node(0).unwrap();
    let subnet = SubnetEnv::by_hand("10.42.0.0/16", "10.42.1.0/24", 1450).unwrap();
    let (first, second) = (node.add_pod("a", &subnet).unwrap(), node.add_pod("b", &subnet).unwrap());
    traffic::ping(first.netns(), second.address()).unwrap();
    let interface = second.host_interface().to_owned();
    second.remove().unwrap();
    assert!(!links::exists(node.netns(), &interface).unwrap());
    let again = node.add_pod_at("c", &subnet, 1).unwrap();
    traffic::ping(first.netns(), again.address()).unwrap();
}

#[test]
fn etcd_keeps_its_data_over_a_restart() {
    let topology = Topology::builder("etcd").switch().build().unwrap();
    let mut etcd = Etcd::on_underlay(&topology, Lifetime::WithHarness).unwrap();
    etcd.put("/coreos.com/network/config", "{}").unwrap();
    etcd.kill().unwrap();
    etcd.start_again().unwrap();
    assert_eq!(etcd.get("/coreos.com/network/config").unwrap().as_deref(), Some("{}"));
    assert_eq!(etcd.keys("/coreos.com/").unwrap(), ["/coreos.com/network/config"]);
    assert_eq!(etcd.get("/nothing").unwrap(), None);
    let node = topology.node(1).unwrap();
    let health = node.command("etcdctl").env("ETCDCTL_API", "3");
    health.args(["--endpoints", etcd.url(), "endpoint", "health"]).run().unwrap();
}

#[test]
fn a_dropped_program_ends_even_when_it_ignores_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let stubborn = Cmd::host("sh").arg("-c").arg("trap '' TERM; echo up; while :; do sleep 1; done");
    let process = Background::start(&stubborn, &directory.path().join("log"), Lifetime::WithHarness).unwrap();
    wait_for("the program to be up", Duration::from_secs(5), || Ok(process.log().contains("up"))).unwrap();
    let pid = process.pid().context("no pid").unwrap();
    drop(process);
    assert!(!std::path::Path::new("/proc").join(pid.to_string()).exists());
}
