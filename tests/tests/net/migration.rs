//! The guide of deploy/README.md, "From kube-flannel to ovl, node by node" and "And back", step by step under traffic.
//! Kube-flannel is what its init container and flanneld leave on a node, written from FLANNEL.md (sections 4.1, 4.4, 5.1,
//! 6 and 7.1).

use std::fs;
use std::net::SocketAddr;

use ovl_tests::agent::Agent;
use ovl_tests::artifacts;
use ovl_tests::cni::Runtime;
use ovl_tests::echo::{Caller, Echo};
use ovl_tests::kernel_vtep::{KernelVtep, Peer};
use ovl_tests::links;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::traffic::{self, PingInBackground};
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::attachments::attached;
use crate::cni::{conflist, flags, write_flannels};
use crate::kubernetes::Cluster;
use crate::listing::rows;
use crate::overlay::{DUAL, SOON, VERIFIED, config};

#[test]
fn from_kube_flannel_to_ovl_node_by_node_and_back_without_a_lost_packet() {
    let cluster = Cluster::new("migration", 2, &config(&[DUAL], r#"{"Type":"vxlan"}"#));
    let stock = [0, 1].map(|index| KubeFlannel { cluster: &cluster, index });
    stock.iter().for_each(KubeFlannel::start);
    stock[0].learn_peers();
    let runtimes = [0, 1].map(|index| {
        let node = cluster.node(index);
        Runtime::new(node, &conflist(node)).unwrap()
    });
    let pods = runtimes.each_ref().map(|runtime| runtime.add("stays", &[]).unwrap());
    let goes = runtimes.each_ref().map(|runtime| runtime.add("goes", &[]).unwrap());
    let mut traffic = Traffic::start(&pods);
    let mac = links::mac(cluster.node(0).netns(), "flannel.1").unwrap();

    // There: one node after the other; the cluster is half and half in between.
    let first = take_over(&cluster, 0, &runtimes[0], &goes[0]);
    traffic.goes_on();
    traffic.wait_until_fast(&first);
    let second = take_over(&cluster, 1, &runtimes[1], &goes[1]);
    traffic.goes_on();
    traffic.wait_until_fast(&second);
    let new = runtimes.each_ref().map(|runtime| runtime.add("new", &[]).unwrap());
    traffic::ping_all_pairs(&new).unwrap();
    assert_eq!(links::mac(cluster.node(0).netns(), "flannel.1").unwrap(), mac);

    // And back. The second's kube-flannel is there before ovl's pod has left.
    let mut agents = [first, second];
    agents[0].terminate().unwrap();
    stock[0].start();
    traffic.goes_on();
    stock[1].start();
    agents[1].terminate().unwrap();
    traffic.goes_on();
    for (node, stock) in cluster.topology.nodes().iter().zip(&stock) {
        clean_up(node);
        assert_eq!(attached(node).unwrap().len(), 0);
        stock.learn_peers();
        assert!(rows(node).unwrap().iter().any(|row| row.ends_with("by boot")), "flanneld's own routes");
        let rules = node.command("iptables").words("-t nat -S").run().unwrap();
        assert_eq!(rules.matches("-j FLANNEL-POSTRTG").count(), 1, "{rules}");
        assert_eq!(rules.matches("-j MASQUERADE").count(), 2, "{rules}");
    }
    traffic.goes_on();
    traffic::ping_all_pairs(&new).unwrap();
    assert_eq!(links::mac(cluster.node(0).netns(), "flannel.1").unwrap(), mac);

    // Flannel's plugin knows nothing of pods that it did not make: their addresses stay taken, as the guide says.
    write_flannels(&conflist(cluster.node(1)), &stock[1].subnet_file());
    for (runtime, pod) in runtimes.iter().zip(&new) {
        runtime.delete(pod, &[]).unwrap();
        assert_eq!(runtime.addresses_in_use().unwrap(), 2 * 2);
    }
    let again = runtimes.each_ref().map(|runtime| runtime.add("again", &[]).unwrap());
    traffic::ping_all_pairs(&again).unwrap();
    traffic.assert_none_lost();
}

/// Step 5 of the guide: kube-flannel's pod is gone, ovl's comes.
fn take_over(cluster: &Cluster, index: usize, runtime: &Runtime<'_>, goes: &Pod) -> Agent {
    let node = cluster.node(index);
    let agent = cluster.start(index, &flags(node, VERIFIED));
    agent.wait_for_peers(1).unwrap();
    cluster.wait_for_condition(node.name(), "False", SOON);
    let status = agent.status().unwrap();
    assert_eq!((&status["ready"], status["mode"].as_str()), (&true.into(), Some("ebpf")));
    let list: Value = serde_json::from_str(&fs::read_to_string(conflist(node)).unwrap()).unwrap();
    assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&"cbr0".into(), &"bridge".into()));
    // A pod of before goes by the configuration of now.
    let before = runtime.addresses_in_use().unwrap();
    runtime.delete(goes, &[]).unwrap();
    assert_eq!(runtime.addresses_in_use().unwrap(), before - 2);
    agent
}

/// Step 2 of the way back.
fn clean_up(node: &Node) {
    let agent = artifacts::agent_binary().unwrap();
    node.command(agent).words("cleanup --force --only-pins").run().unwrap();
}

/// Kube-flannel on a node.
struct KubeFlannel<'a> {
    cluster: &'a Cluster,
    index: usize,
}

impl KubeFlannel<'_> {
    fn node(&self) -> &Node {
        self.cluster.node(self.index)
    }

    fn subnet_file(&self) -> std::path::PathBuf {
        self.node().dir().join("subnet.env")
    }

    fn env(&self) -> SubnetEnv {
        let number = self.index + 1;
        let env = SubnetEnv::by_hand("10.42.0.0/16", &format!("10.42.{number}.0/24"), 1430).unwrap();
        env.with_ipv6("fd42::/48", &format!("fd42:0:0:{number}::/64")).unwrap()
    }

    /// What its pod does when it comes: the CNI configuration, the device, the lease, the rules, the peers, `subnet.env`.
    fn start(&self) {
        let (node, env, server) = (self.node(), self.env(), &self.cluster.server);
        write_flannels(&conflist(node), &self.subnet_file());
        let vtep = if links::exists(node.netns(), "flannel.1").unwrap() {
            // It keeps a device that has the MAC of its annotation.
            let said = server.annotation(node.name(), "backend-data").unwrap();
            assert_eq!(mac_as_flannel_reads(&said), links::mac(node.netns(), "flannel.1").unwrap());
            KernelVtep::found(node, &env).unwrap()
        } else {
            KernelVtep::create(node, &env).unwrap()
        };
        let data = vtep.own().map(|own| format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, own.vtep_mac));
        server.annotate(
            node.name(),
            &[
                ("backend-data", data.ipv4().map(String::as_str)),
                ("backend-type", Some("vxlan")),
                ("backend-v6-data", data.ipv6().map(String::as_str)),
                ("kube-subnet-manager", Some("true")),
                ("public-ip", Some(&node.address().to_string())),
                ("public-ipv6", Some(&node.address6().unwrap().to_string())),
            ],
        );
        self.write_rules();
        self.learn_peers();
        server.set_condition(node.name(), "NetworkUnavailable", "False");
        let [ipv4, ipv6] = [env.subnets.ipv4().unwrap(), env.subnets.ipv6().unwrap()];
        let text = format!(
            "FLANNEL_NETWORK={}\nFLANNEL_SUBNET={}/{}\nFLANNEL_IPV6_NETWORK={}\nFLANNEL_IPV6_SUBNET={}/{}\n\
             FLANNEL_MTU={}\nFLANNEL_IPMASQ=true\n",
            ipv4.network, ipv4.gateway, ipv4.prefix_len, ipv6.network, ipv6.gateway, ipv6.prefix_len, env.mtu
        );
        fs::write(self.subnet_file(), text).unwrap();
    }

    /// Writes the rows of all other nodes that say what theirs are.
    fn learn_peers(&self) {
        let vtep = KernelVtep::found(self.node(), &self.env()).unwrap();
        for index in (0..2).filter(|index| *index != self.index) {
            let other = KubeFlannel { cluster: self.cluster, index };
            let said = |suffix: &str| self.cluster.server.annotation(other.node().name(), suffix);
            for subnet in other.env().subnets.iter() {
                let [data, public_ip] = if subnet.base().is_ipv4() {
                    ["backend-data", "public-ip"]
                } else {
                    ["backend-v6-data", "public-ipv6"]
                };
                let (Some(data), Some(public_ip)) = (said(data), said(public_ip)) else { continue };
                let data: Value = serde_json::from_str(&data).unwrap();
                let vtep_mac = data["VtepMAC"].as_str().unwrap().to_owned();
                let (base, prefix_len) = (subnet.base(), subnet.prefix_len);
                let peer = Peer { base, prefix_len, vtep_mac, public_ip: public_ip.parse().unwrap() };
                vtep.add_peer(&peer).unwrap();
            }
        }
    }

    /// Its chains, emptied first; what leads there is deleted and appended.
    fn write_rules(&self) {
        let env = self.env();
        for subnet in env.subnets.iter() {
            let (six, multicast) =
                if subnet.base().is_ipv4() { ("", "224.0.0.0/4") } else { ("6", "ff00::/8") };
            let (network, subnet) = (&subnet.network, subnet.cidr());
            let masquerade = [
                "-m mark --mark 0x4000/0x4000 -j RETURN".to_owned(),
                format!("-s {subnet} -d {network} -j RETURN"),
                format!("-s {network} -d {subnet} -j RETURN"),
                format!("! -s {network} -d {subnet} -j RETURN"),
                format!("-s {network} ! -d {multicast} -j MASQUERADE --random-fully"),
                format!("! -s {network} -d {network} -j MASQUERADE --random-fully"),
            ];
            let forward = [format!("-s {network} -j ACCEPT"), format!("-d {network} -j ACCEPT")];
            let tables = [
                ("nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq", masquerade.as_slice()),
                ("filter", "FORWARD", "FLANNEL-FWD", "flanneld forward", &forward),
            ];
            for (table, from, chain, comment, rules) in tables {
                let comment = format!("-m comment --comment \"{comment}\"");
                let jump = format!("{from} {comment} -j {chain}");
                let program = format!("ip{six}tables -t {table}");
                let has_jump = format!("{program} -C {jump} 2>/dev/null");
                let rules: Vec<_> = rules.iter().map(|rule| format!("-A {chain} {comment} {rule}")).collect();
                let rules = rules.join(
                    "
",
                );
                let script = format!(
                    "{has_jump} && gone='-D {jump}'
                    ip{six}tables-restore --noflush <<END\n*{table}\n:{chain} - [0:0]\n$gone\n-A {jump}\n{rules}\nCOMMIT\nEND"
                );
                self.node().command("sh").arg("-c").arg(script).run().unwrap();
            }
        }
    }
}

/// Flannel does not parse that annotation when it looks for its MAC.
fn mac_as_flannel_reads(data: &str) -> String {
    let parts: Vec<&str> = data.trim_end_matches(['"', '}']).split(":\"").collect();
    let [_, mac] = parts[..] else { panic!("flannel finds no MAC in {data}") };
    mac.to_owned()
}

/// Pings and connections between two pods, both ways, in both families, from the first step to the last.
struct Traffic {
    pings: Vec<PingInBackground>,
    callers: Vec<Caller>,
    /// Whom they ask.
    echoes: Vec<Echo>,
}

impl Traffic {
    fn start(pods: &[Pod; 2]) -> Self {
        let mut traffic = Self { pings: Vec::new(), callers: Vec::new(), echoes: Vec::new() };
        for [from, to] in [[&pods[0], &pods[1]], [&pods[1], &pods[0]]] {
            for address in to.addresses() {
                traffic.pings.push(PingInBackground::start(from.netns(), address).unwrap());
                let echo = Echo::start(to.netns(), SocketAddr::new(address, 7), 1).unwrap();
                traffic.callers.push(Caller::connect(from.netns(), echo.address(), SOON).unwrap());
                traffic.echoes.push(echo);
            }
        }
        traffic
    }

    fn goes_on(&mut self) {
        for ping in &self.pings {
            ping.wait_for_more(15, SOON).unwrap();
        }
        for caller in &mut self.callers {
            caller.ask(3000).unwrap();
        }
    }

    /// Established connections take the fast path.
    fn wait_until_fast(&self, agent: &Agent) {
        let carried =
            || Ok((agent.counter("from_pod", "forwarded")?, agent.counter("from_wire", "delivered")?));
        let before: (u64, u64) = carried().unwrap();
        let all = u64::try_from(50 * self.pings.len()).unwrap();
        wait_for("the pings on the fast path", SOON * 2, || {
            carried().map(|now| now.0 > before.0 + all && now.1 > before.1 + all)
        })
        .unwrap_or_else(|error: anyhow::Error| panic!("{error:#}: {:?}", agent.counters()));
    }

    fn assert_none_lost(self) {
        for ping in self.pings {
            let ping = ping.stop().unwrap();
            assert_eq!(ping.lost(), 0, "{ping:?}");
        }
    }
}
