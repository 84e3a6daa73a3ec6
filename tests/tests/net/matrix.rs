//! Every byte arrives as it was sent: by every backend, in both families, at usual and odd MTUs, with aggregates and
//! without, between our nodes and with a stock one.

use anyhow::Context as _;
use ovl_tests::datagrams::Datagrams;
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use crate::cluster::{Cluster, DIRECT, HOST_GW, VXLAN, exchange};
use crate::overlay::{
    DUAL, FILTERED, ONLY_IPV4, Overlay, carried_at_tc, carried_over, config, is_fast, wait_until_seen,
};

/// How much goes over one connection each way.
const FULL: u64 = 200 << 20;
const PART: u64 = 8 << 20;
/// With a capture.
const LITTLE: u64 = 1 << 20;

fn data_is_whole(backend: &str) {
    for args in carried_over(backend) {
        // The last leaves 1280 bytes inside a tunnel, which is what IPv6 needs.
        for mtu in [1500, 9000, 1350] {
            let what = format!("{backend} {mtu} {args}");
            let cluster = Cluster::start(backend, mtu, args);
            let before = cluster.overlay.fast(0).unwrap();
            let bytes = if mtu == 1500 && is_fast(args) { FULL } else { PART };
            cluster.exchange(bytes).context(what.clone()).unwrap();
            let pcap = cluster.captured(LITTLE).context(what.clone()).unwrap();
            assert_eq!(pcap.bad_checksums().unwrap(), Vec::<Vec<String>>::new(), "{what}");
            // A capture loses packets while the machine is busy: as many as one of the streams has will do.
            let seen = u64::try_from(pcap.count("tcp.len > 1000").unwrap()).unwrap();
            assert!(seen > LITTLE / u64::from(mtu), "{what}: {seen} segments");
            let after = cluster.overlay.fast(0).unwrap();
            if is_fast(args) {
                assert!(
                    after.0 > before.0 + 1000 && after.1 > before.1 + 1000,
                    "{what}: {before:?} {after:?}"
                );
            }
        }
    }
}

#[test]
fn data_is_whole_by_vxlan() {
    data_is_whole(VXLAN);
}

#[test]
fn data_is_whole_by_host_gw() {
    data_is_whole(HOST_GW);
}

#[test]
fn data_is_whole_by_direct_routing() {
    data_is_whole(DIRECT);
}

/// What a tunnel leaves of it is too little for IPv6.
#[test]
fn data_is_whole_over_an_underlay_of_1280_bytes() {
    for (backend, families, mtu) in [(VXLAN, ONLY_IPV4, 1230), (HOST_GW, DUAL, 1280)] {
        for args in carried_at_tc() {
            let what = format!("{backend} {args}");
            let topology = Topology::builder("tight").nodes(2).ipv6().mtu(1280);
            let overlay = Overlay::start_with(topology, &config(&[families], backend), args).unwrap();
            assert_eq!(overlay.agents[0].subnet().unwrap().mtu, mtu);
            if is_fast(args) {
                wait_until_seen(&overlay.agents, || traffic::ping_all_pairs(&overlay.pods)).unwrap();
            }
            let before = overlay.fast(0).unwrap();
            let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
            for to in server.addresses() {
                let largest = usize::try_from(mtu).unwrap() - 8 - if to.is_ipv4() { 20 } else { 40 };
                exchange(client, server, to, &[1, largest - 1, largest, largest + 1, 4000], PART)
                    .context(what.clone())
                    .unwrap();
            }
            let after = overlay.fast(0).unwrap();
            let went_fast = after.0 > before.0 + 100 && after.1 > before.1 + 100;
            assert_eq!(went_fast, is_fast(args), "{what}: {before:?} {after:?}");
        }
    }
}

/// What a sender leaves to devices to cut into datagrams (`UDP_SEGMENT`, as QUIC servers do) stays in one piece between
/// namespaces of one machine, through a tunnel and out of it, and is cut where it is received.
#[test]
fn aggregates_of_datagrams_arrive() {
    for args in FILTERED {
        for backend in [VXLAN, HOST_GW] {
            let cluster = Cluster::start(backend, 1500, args);
            let exchange = |client: &Pod, server: &Pod, to| {
                let datagrams = Datagrams::between(client.netns(), server.netns(), to)?;
                datagrams.exchange(20, 100)?;
                [100, 1000].into_iter().try_for_each(|length| datagrams.exchange_segmented(50, length))
            };
            cluster.each_way(exchange).with_context(|| format!("{backend} {args}")).unwrap();
        }
    }
}
