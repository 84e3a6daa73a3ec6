//! Senders that are not who they say: what `--source-check` drops, and what it leaves to the kernel, on both sides of
//! the tunnel.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use ovl_tests::kernel_vtep::device;
use ovl_tests::links;
use ovl_tests::netns::Netns;
use ovl_tests::sockets;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::overlay::{DUAL, Overlay, SOON, VERIFIED, config};

const GUARD: usize = 0;
const PEER: usize = 1;
const OTHER: usize = 2;
/// How long it is listened whether something comes that should have been dropped.
const PATIENCE: Duration = Duration::from_millis(100);
const FOREIGN: [&str; 2] = ["203.0.113.7", "2001:db8:77::7"];

/// Three nodes on a switch, the first of which checks sources as it is told, and a pod on each.
fn start(check: &str) -> Overlay {
    let topology = Topology::builder("sources").nodes(3).ipv6().switch();
    let mut overlay = Overlay::bare(topology, &config(&[DUAL], r#"{"Type":"vxlan"}"#)).unwrap();
    for (node, check) in [check, "off", "off"].into_iter().enumerate() {
        let agent = overlay.start_ready(node, &format!("{VERIFIED} --source-check {check}")).unwrap();
        overlay.agents.push(agent);
    }
    for (node, agent) in overlay.topology.nodes().iter().zip(&overlay.agents) {
        agent.wait_for_peers(2).unwrap();
        overlay.pods.push(node.add_pod("a", &agent.subnet().unwrap()).unwrap());
    }
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    overlay
}

/// What somebody sends with whatever address.
struct Datagram<'test> {
    sender: &'test Netns,
    source: IpAddr,
    /// The pod that it is for, and its address.
    receiver: (&'test Netns, IpAddr),
}

impl Datagram<'_> {
    /// Sends it, and sees that the guard counts it; whether it arrives in time.
    fn arrives(
        &self,
        overlay: &Overlay,
        (program, reason): (&str, &str),
        patience: Duration,
    ) -> Result<bool> {
        let counted = || overlay.agents[GUARD].counter(program, reason);
        // Without `nodad` it cannot be bound before the kernel has found, beside, that lo needs no look for duplicates.
        let (host, at_once) = if self.source.is_ipv4() { (32, "") } else { (128, "nodad") };
        self.sender.ip(&format!("address replace {}/{host} dev lo {at_once}", self.source))?;
        let (receiver, to) = self.receiver;
        let listening = sockets::udp(receiver, (to, 0).into())?;
        listening.set_read_timeout(Some(patience))?;
        let sending = sockets::udp(self.sender, (self.source, 0).into())?;
        let before = counted()?;
        sending.send_to(b"it is me", listening.local_addr()?)?;
        wait_for(&format!("{program} to count {reason}"), SOON, || Ok(counted()? > before))?;
        self.sender.ip(&format!("address del {}/{host} dev lo", self.source))?;
        match listening.recv_from(&mut [0; 16]) {
            Ok((_, from)) => Ok(from.ip() == self.source),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A host on the underlay that is no node, with a tunnel of its own making to the guard.
fn stranger(overlay: &Overlay, to: IpAddr) -> &Netns {
    let stranger = overlay.topology.switch().unwrap();
    let node = overlay.node(GUARD);
    let family = if to.is_ipv4() { node.addresses().ipv4() } else { node.addresses().ipv6() };
    let remote = family.unwrap().address;
    let mac = links::mac(node.netns(), device(to)).unwrap();
    let name = if to.is_ipv4() { "vx4" } else { "vx6" };
    for line in [
        format!("link add {name} type vxlan id 1 dstport 8472 remote {remote} dev switch nolearning"),
        format!("link set {name} up"),
        format!("route add {to} dev {name}"),
        format!("neigh replace {to} lladdr {mac} dev {name} nud permanent"),
    ] {
        stranger.ip(&line).unwrap();
    }
    stranger
}

fn sources_are_checked(check: &str, lies_pass: bool, foreign_pass: bool) {
    let overlay = start(check);
    let pods: Vec<Vec<IpAddr>> = overlay.pods.iter().map(|pod| pod.addresses().collect()).collect();
    let [guarded, peer] = [GUARD, PEER].map(|pod| overlay.pods[pod].netns());
    for (family, foreign) in FOREIGN.iter().enumerate() {
        let [own, there, other] = [GUARD, PEER, OTHER].map(|pod| pods[pod][family]);
        let foreign: IpAddr = foreign.parse().unwrap();
        let stranger = stranger(&overlay, own);
        let into = (guarded, own);
        for (sender, source, receiver, program, reason, passes) in [
            (guarded, other, (peer, there), "from_pod", "wrong_node", lies_pass),
            (guarded, foreign, (peer, there), "from_pod", "foreign_source", foreign_pass),
            (peer, other, into, "from_wire", "wrong_node", lies_pass),
            (peer, foreign, into, "from_wire", "foreign_source", foreign_pass),
            (stranger, there, into, "from_wire", "unknown_node", lies_pass),
            (stranger, foreign, into, "from_wire", "unknown_node", lies_pass),
        ] {
            let patience = if passes { SOON } else { PATIENCE };
            let datagram = Datagram { sender, source, receiver };
            let arrived = datagram.arrives(&overlay, (program, reason), patience).unwrap();
            assert_eq!(arrived, passes, "--source-check {check}: {program} {reason}, from {source}");
        }
    }
    // The honest are not concerned.
    traffic::ping_all_pairs(&overlay.pods).unwrap();
}

#[test]
fn loose_drops_lies() {
    sources_are_checked("loose", false, true);
}

#[test]
fn strict_drops_strangers_too() {
    sources_are_checked("strict", false, false);
}

#[test]
fn off_leaves_all_to_the_kernel() {
    sources_are_checked("off", true, true);
}
