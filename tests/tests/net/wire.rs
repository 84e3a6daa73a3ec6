//! What is on the wire, and whether a stock kernel understands it.

use anyhow::Result;
use ovl_tests::capture::{Capture, Pcap};
use ovl_tests::kernel_vtep::{KernelVtep, Peer};
use ovl_tests::pod::Pod;
use ovl_tests::subnet::SubnetEnv;
use ovl_tests::topology::{Builder, Topology};
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;

use crate::overlay::{EBPF, Overlay, SOON};

/// An overlay in eBPF, and what crossed the underlay of its first node during pings and a transfer.
fn captured(topology: Builder, backend: &str) -> (Overlay, Pcap) {
    let overlay = Overlay::start(topology, backend, EBPF).unwrap();
    // The programs are on new pods' ports soon, which an emulated machine makes seconds.
    wait_for("pings on the fast path", 4 * SOON, || {
        traffic::ping_all_pairs(&overlay.pods)?;
        let (out, into) = overlay.fast(0)?;
        Ok(out > 0 && into > 0)
    })
    .unwrap();
    let before = overlay.fast(0).unwrap();
    let file = overlay.topology.dir().join("wire.pcap");
    let capture = Capture::start(overlay.node(0).netns(), "eth0", "", &file).unwrap();
    traffic::ping_all_pairs(&overlay.pods).unwrap();
    traffic::tcp_transfer(&overlay.pods[0], &overlay.pods[1], 2 << 20).unwrap();
    traffic::tcp_transfer(&overlay.pods[1], &overlay.pods[0], 2 << 20).unwrap();
    let after = overlay.fast(0).unwrap();
    assert!(
        after.0 > before.0 + 100 && after.1 > before.1 + 100,
        "captured the fast path: {before:?} {after:?}"
    );
    (overlay, capture.stop().unwrap())
}

#[test]
fn tunnel_packets_are_valid_vxlan_with_good_checksums() {
    let (overlay, pcap) = captured(Topology::builder("wire-vx").nodes(2).plain_packets(), "vxlan");
    // As few questions as can be: in a guest that is emulated, tshark takes a quarter of a minute for each.
    let fields = ["vxlan.flags", "vxlan.vni", "udp.dstport", "tcp.port", "ip.ttl", "ip.flags.df"];
    let rows = pcap.rows("vxlan", &fields).unwrap();
    assert!(rows.len() > 1000, "{} VXLAN packets", rows.len());
    for row in rows {
        let outer = [0, 1, 2].map(|field| row[field].split(',').next().unwrap_or_default());
        assert_eq!(outer, ["0x0800", "1", "8472"], "{row:?}");
        // Both fast-path and kernel packets (SYN, FIN) are in there, and a peer cannot tell them apart by these. tshark
        // prints booleans as 0/1 or False/True, by version.
        let may_not_fragment = row[5].replace("False", "0").replace("True", "1");
        assert!(row[3].is_empty() || (row[4] == "64,63" && may_not_fragment == "0,1"), "{row:?}");
    }
    assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new());
    // All of it can be read, and nothing of the pods travels bare.
    assert_eq!(pcap.count("_ws.malformed || (ip.addr == 10.42.0.0/16 && !vxlan)").unwrap(), 0);
    drop(overlay);
}

#[test]
fn host_gw_packets_travel_bare_with_good_checksums() {
    let (overlay, pcap) = captured(Topology::builder("wire-gw").nodes(2).plain_packets(), "host-gw");
    assert!(pcap.count("tcp && ip.addr == 10.42.0.0/16").unwrap() > 1000);
    assert_eq!(pcap.count("vxlan").unwrap(), 0);
    assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new());
    assert_eq!(pcap.count("tcp && ip.ttl != 63").unwrap(), 0, "one hop is taken off by the sending node");
    drop(overlay);
}

/// An eBPF node and one set up by hand, with a pod each.
fn with_stock_peer(topology: Builder) -> Result<(Overlay, Vec<Pod>)> {
    let mut overlay = Overlay::without_agents(topology, "vxlan")?;
    let stock_subnet = SubnetEnv::by_hand("10.42.0.0/16", "10.42.200.0/24", 1450)?;
    let vtep = KernelVtep::create(overlay.node(1), &stock_subnet)?;
    overlay.store.put(&stock_subnet.lease_key(), &vtep.lease_json())?;
    let mut agent = overlay.start_agent(0, EBPF)?;
    agent.wait_ready()?;
    agent.wait_for_peers(1)?;
    let subnet = agent.subnet()?;
    vtep.add_peer(&Peer::of(overlay.node(0), subnet.subnets.first())?)?;
    let pods = vec![overlay.node(0).add_pod("a", &subnet)?, overlay.node(1).add_pod("a", &stock_subnet)?];
    overlay.agents.push(agent);
    Ok((overlay, pods))
}

#[test]
fn a_stock_kernel_peer_is_reached_both_ways() {
    for plain in [false, true] {
        let topology = Topology::builder("stock").nodes(2);
        let topology = if plain { topology.plain_packets() } else { topology };
        let (overlay, pods) = with_stock_peer(topology).unwrap();
        assert_eq!(traffic::ping_all_pairs(&pods).unwrap(), 2);
        let before = overlay.fast(0).unwrap();
        for (client, server) in [(0, 1), (1, 0)] {
            traffic::tcp_intact(&pods[client], &pods[server], 50 << 20, overlay.topology.dir()).unwrap();
        }
        let after = overlay.fast(0).unwrap();
        assert!(after.0 > before.0 + 100 && after.1 > before.1 + 100, "{before:?} {after:?}");
        drop(pods);
    }
}
