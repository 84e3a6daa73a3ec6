//! What pods see of each other's packets is the same whatever path these take: who answers a packet whose TTL is used
//! up, and what becomes of DSCP, ECN, TTL, identification and fragments. `tcpdump` in both pods is the judge, and the
//! kernel path says what is right.

mod errors;
mod send;

use ovl_tests::capture::{Capture, Pcap};
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use std::collections::{BTreeMap, BTreeSet};

use self::send::send_everything;
use crate::overlay::{DUAL, Overlay, carried_over, config};

/// Where addresses are, by names that are the same in every run.
fn names(overlay: &Overlay) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (number, node) in overlay.topology.nodes().iter().enumerate() {
        let subnets = overlay.agents[number].subnet().unwrap().subnets;
        for subnet in subnets.iter() {
            names.insert(subnet.base().to_string(), format!("tunnel{number}"));
            names.insert(subnet.gateway.to_string(), format!("gateway{number}"));
        }
        names.extend(overlay.pods[number].addresses().map(|pod| (pod.to_string(), format!("pod{number}"))));
        names.extend(
            node.addresses().iter().map(|place| (place.address.to_string(), format!("node{number}"))),
        );
    }
    names
}

/// Different rows of a capture, with names for addresses.
fn told(pcap: &Pcap, names: &BTreeMap<String, String>, filter: &str, fields: &[&str]) -> BTreeSet<String> {
    let name = |value: &str| names.get(value).cloned().unwrap_or_else(|| value.to_owned());
    let rows = pcap.rows(filter, fields).unwrap();
    let row = |row: &Vec<String>| {
        let told = row.iter().zip(fields).filter(|(values, _)| !values.is_empty()).map(|(values, field)| {
            let values: Vec<String> = values.split(',').map(name).collect();
            format!("{field}={}", values.join(","))
        });
        told.collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(row).collect()
}

const ERRORS: &str = "icmp.type == 3 || icmp.type == 11 || icmpv6.type < 5";
const ERROR_FIELDS: [&str; 9] = [
    "ip.src",
    "ip.dst",
    "icmp.type",
    "icmp.code",
    "ipv6.src",
    "ipv6.dst",
    "icmpv6.type",
    "icmpv6.code",
    "udp.length",
];
const ARRIVED: &str = "(udp.dstport == 7777 && udp.length != 72 || icmp.type == 8 || icmpv6.type == 128 || \
                       ip.flags.mf == 1 || ip.frag_offset > 0 || ipv6.fraghdr.offset) && !(icmp.type == 3) && \
                       !(icmp.type == 11)";
const ARRIVED_FIELDS: [&str; 13] = [
    "ip.src",
    "ip.dst",
    "ip.ttl",
    "ip.dsfield",
    "ip.flags",
    "ip.frag_offset",
    "ip.len",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.hlim",
    "ipv6.tclass",
    "ipv6.fraghdr.offset",
    "ipv6.plen",
];
/// What the sender's stack chose for a packet that nobody took apart, and nobody may change.
const CHOSEN: &str = "udp.dstport == 7777 && !ipv6.fraghdr && ip.flags.mf != 1 && ip.frag_offset == 0";
const CHOSEN6: &str = "udp.dstport == 7777 && ipv6 && !ipv6.fraghdr.offset";
const CHOSEN_FIELDS: [&str; 6] = ["ip.id", "ip.flags", "ip.len", "ipv6.flow", "ipv6.plen", "udp.checksum"];

/// What both pods saw.
fn observe(backend: &str, args: &str) -> BTreeSet<String> {
    let topology = Topology::builder("parity").nodes(2).ipv6().switch().plain_packets();
    let config = config(&[DUAL], &format!(r#"{{"Type":"{backend}"}}"#));
    let overlay = Overlay::start_with(topology, &config, args).unwrap();
    for node in overlay.topology.nodes() {
        node.netns().sysctl(&["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]).unwrap();
    }
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    let names = names(&overlay);
    let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
    let listen = |pod: &Pod, name: &str| {
        let file = overlay.topology.dir().join(format!("{name}.pcap"));
        Capture::start(pod.netns(), "eth0", "", &file).unwrap()
    };
    let captures = [listen(client, "client"), listen(server, "server")];
    for to in server.addresses() {
        send_everything(&overlay, to, backend, args).unwrap();
    }
    let [sent, arrived] = captures.map(|capture| capture.stop().unwrap());
    for filter in [CHOSEN, CHOSEN6] {
        let [sent, arrived] = [&sent, &arrived].map(|pcap| told(pcap, &names, filter, &CHOSEN_FIELDS));
        let changed: Vec<_> = arrived.difference(&sent).collect();
        assert!(arrived.len() > 10 && changed.is_empty(), "{args}: {} arrived, {changed:#?}", arrived.len());
    }
    let mut all = told(&sent, &names, ERRORS, &ERROR_FIELDS);
    all.extend(told(&arrived, &names, ARRIVED, &ARRIVED_FIELDS));
    all
}

fn is_the_same_on_every_path(backend: &str) {
    let mut kernels: Option<BTreeSet<String>> = None;
    for args in carried_over(backend) {
        let seen = observe(backend, args);
        let kernels = kernels.get_or_insert_with(|| seen.clone());
        let [missing, new] = [kernels.difference(&seen), seen.difference(kernels)]
            .map(|rows| rows.cloned().collect::<Vec<String>>());
        assert!(
            missing.is_empty() && new.is_empty(),
            "{backend}, {args}: missing {missing:#?}, new {new:#?}"
        );
        // What could have been marked on its way was: ECT(0) inside, CE outside.
        let is_congested = |row: &String| row.contains("dsfield=0x03") && row.ends_with("ip.len=642");
        assert_eq!(seen.iter().any(is_congested), backend == "vxlan", "{seen:#?}");
        // Both families: two used up on the way, and everything else.
        let expired = seen.iter().filter(|row| row.contains("icmp.type=11") || row.contains("icmpv6.type=3"));
        assert!(expired.count() >= 8 && seen.len() > 40, "{seen:#?}");
    }
}

#[test]
fn probes_meet_the_same_by_vxlan() {
    is_the_same_on_every_path("vxlan");
}

#[test]
fn probes_meet_the_same_by_host_gw() {
    is_the_same_on_every_path("host-gw");
}
