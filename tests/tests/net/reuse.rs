//! Addresses that change hands under traffic: a pod's on its node, and a whole subnet between nodes. Nobody gets packets
//! for an address that is not his.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ovl_tests::capture::{Capture, Pcap};
use ovl_tests::echo::Echo;
use ovl_tests::flow::{Flow, Outcome, Pace};
use ovl_tests::links;
use ovl_tests::pod::{self, Pod};
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::overlay::{DUAL, Overlay, SOON, config, is_fast, silent_no_longer_than_the_kernel};

const PORT: u16 = 7777;
const DENSE: Pace = Pace { message: 100, every: Duration::from_millis(2) };
/// Who has the addresses at first, and who later.
const OLD: u8 = 1;
const NEW: u8 = 2;

fn echos(pod: &Pod, addresses: &[IpAddr], mark: u8) -> Vec<Echo> {
    addresses.iter().map(|address| Echo::start(pod.netns(), (*address, PORT).into(), mark).unwrap()).collect()
}

fn flows(client: &Pod, addresses: &[IpAddr]) -> Vec<Flow> {
    let flow = |address: &IpAddr| Flow::udp(client.netns(), (*address, PORT).into(), DENSE).unwrap();
    addresses.iter().map(flow).collect()
}

fn wait_for_the_new(flows: &[Flow]) {
    wait_for("answers of the new pod", SOON * 3, || Ok(flows.iter().all(|flow| flow.mark() == Some(NEW))))
        .unwrap();
}

/// The longest silence of any of them.
fn silence(flows: Vec<Flow>) -> Duration {
    flows
        .into_iter()
        .map(|flow| flow.stop().unwrap())
        .map(|Outcome { longest_gap, .. }| longest_gap)
        .max()
        .unwrap()
}

fn capture(overlay: &Overlay, pod: &Pod, name: &str) -> Capture {
    let file = overlay.topology.dir().join(name);
    Capture::start(pod.netns(), "eth0", "udp", &file).unwrap()
}

/// Time, destination MAC and destination of every packet to one of the servers.
fn arrivals(pcap: &Pcap) -> Vec<(f64, String, IpAddr)> {
    let fields = ["frame.time_epoch", "eth.dst", "ip.dst", "ipv6.dst"];
    let rows = pcap.rows(&format!("udp.dstport == {PORT}"), &fields).unwrap();
    let row = |row: Vec<String>| {
        let [time, mac, ipv4, ipv6] = <[String; 4]>::try_from(row).unwrap();
        (time.parse().unwrap(), mac, (ipv4 + &ipv6).parse().unwrap())
    };
    rows.into_iter().map(row).collect()
}

#[test]
fn a_pod_gets_packets_for_an_address_once_it_has_it() {
    silent_no_longer_than_the_kernel(|args| {
        let topology = Topology::builder("inherit").nodes(2).ipv6();
        let mut overlay =
            Overlay::start_with(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#), args).unwrap();
        let env = overlay.agents[1].subnet().unwrap();
        let new = overlay.node(1).add_pod("new", &env).unwrap();
        // Frames for a MAC that the bridge does not know go to the other ports: what comes is meant for this one.
        let port = new.host_interface();
        overlay.node(1).netns().bridge(&format!("link set dev {port} flood off")).unwrap();
        traffic::ping_all_pairs(&overlay.pods).unwrap();
        traffic::ping(overlay.pods[0].netns(), new.address()).unwrap();
        let old = overlay.pods.remove(1);
        let addresses: Vec<_> = old.addresses().collect();
        let old_echos = echos(&old, &addresses, OLD);
        let flows = flows(&overlay.pods[0], &addresses);
        let capture = capture(&overlay, &new, "new.pcap");
        flows[0].wait_for_more(100, SOON).unwrap();

        old.remove().unwrap();
        drop(old_echos);
        let handover = SystemTime::now();
        for (address, subnet) in addresses.iter().zip(env.subnets.iter()) {
            new.netns().ip(&format!("address add {address}/{} dev eth0", subnet.prefix_len)).unwrap();
        }
        let _echos = echos(&new, &addresses, NEW);
        pod::announce(new.netns()).unwrap();
        wait_for_the_new(&flows);
        let before = overlay.fast(1).unwrap().1;
        flows[0].wait_for_more(100, SOON).unwrap();
        if is_fast(args) {
            wait_for("the fast path to the new pod", SOON, || Ok(overlay.fast(1)?.1 > before + 20)).unwrap();
        }
        let silence = silence(flows);

        let (mac, own) = (links::mac(new.netns(), "eth0").unwrap(), new.address());
        let handover = handover.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let arrivals = arrivals(&capture.stop().unwrap());
        assert!(arrivals.len() > 100, "{args}: {} packets", arrivals.len());
        let strays: Vec<_> = arrivals
            .into_iter()
            .filter(|(time, to_mac, to)| {
                *to_mac != mac || *to != own && (*time < handover || !addresses.contains(to))
            })
            .collect();
        assert!(strays.is_empty(), "{args}: since {handover} it is {mac}, but got {strays:#?}");
        silence
    });
}

#[test]
fn a_subnet_that_moves_takes_its_traffic_along() {
    silent_no_longer_than_the_kernel(|args| {
        let topology = Topology::builder("move").nodes(3).ipv6();
        let mut overlay = Overlay::bare(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#)).unwrap();
        for index in [0, 1] {
            let agent = overlay.start_ready(index, args).unwrap();
            overlay.agents.push(agent);
        }
        let envs = [0, 1].map(|index| overlay.agents[index].subnet().unwrap());
        overlay.agents[0].wait_for_peers(1).unwrap();
        let pod = |node: usize, env: usize| overlay.node(node).add_pod("a", &envs[env]).unwrap();
        let [client, old, new] = [pod(0, 0), pod(1, 1), pod(2, 1)];
        let addresses: Vec<_> = old.addresses().collect();
        assert_eq!(addresses, new.addresses().collect::<Vec<_>>());
        let _echos = [echos(&old, &addresses, OLD), echos(&new, &addresses, NEW)];
        let flows = flows(&client, &addresses);
        flows[0].wait_for_more(100, SOON).unwrap();
        assert!(flows.iter().all(|flow| flow.mark() == Some(OLD)));

        // The old node is lost to the cluster, but goes on as it was; another one takes its place.
        overlay.agents[1].kill().unwrap();
        overlay.store.delete(&envs[1].lease_key()).unwrap();
        let [from, to] = [1, 2].map(|node| overlay.node(node).dir().join("subnet.env"));
        fs::copy(from, to).unwrap();
        let agent = overlay.start_ready(2, args).unwrap();
        assert_eq!(agent.subnet().unwrap(), envs[1]);
        wait_for_the_new(&flows);
        let capture = capture(&overlay, &old, "old.pcap");
        let before = overlay.fast(0).unwrap().0;
        flows[0].wait_for_more(100, SOON).unwrap();
        if is_fast(args) {
            assert!(overlay.fast(0).unwrap().0 > before + 50, "{args}: not the fast path");
        }
        let strays = arrivals(&capture.stop().unwrap());
        assert!(strays.is_empty(), "{args}: the old pod got {} packets: {:?}", strays.len(), strays.first());
        silence(flows)
    });
}
