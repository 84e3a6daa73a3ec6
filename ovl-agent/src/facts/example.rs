//! An example for the tests of everything that is written from facts.

use super::*;

/// A dual-stack node with three peers.
pub(crate) fn example() -> Facts {
    let peer = |number: u8, path| PeerFacts {
        subnet: Some(Ipv4Net::new([10, 42, number, 0].into(), 24).expect("valid")),
        public_ip: Some([192, 0, 2, number].into()),
        path: Some(path),
        backend: "vxlan".into(),
        changed_seconds: Some(200),
        ..PeerFacts::default()
    };
    Facts {
        version: "0.1.0".into(),
        uptime_seconds: 11_520,
        ready: true,
        node: NodeFacts {
            name: "node1".into(),
            interface: "eth0".into(),
            addresses: vec!["192.0.2.11".parse().expect("valid"), "2001:db8::11".parse().expect("valid")],
            public_ip: Some([192, 0, 2, 11].into()),
            public_ipv6: Some("2001:db8::11".parse().expect("valid")),
        },
        network: Some("10.42.0.0/16".parse().expect("valid")),
        ipv6_network: Some("fd42::/48".parse().expect("valid")),
        lease: LeaseFacts {
            subnet: Some("10.42.3.0/24".parse().expect("valid")),
            ipv6_subnet: Some("fd42:0:0:3::/64".parse().expect("valid")),
            expires: Some("2030-01-02T03:04:05Z".into()),
            expires_in_seconds: Some(82_800),
            losses: 1,
        },
        backend: "vxlan".into(),
        mtu: 1430,
        mode: "ebpf".into(),
        mode_reason: "programs loaded, attached by tcx".into(),
        fast_path: "always".into(),
        ebpf: Some(EbpfFacts {
            pinned_in: Some(format!("/sys/fs/bpf/ovl/10_42_0_0_16-4026531840/abi-{}", ovl_common::ABI)),
            max_flows: 262_144,
            verify_interval_seconds: 10.0,
            source_check: "loose".into(),
            fast_path_mark: 0x2000,
            xdp: "off".into(),
            xdp_reason: "--xdp off".into(),
        }),
        store: "etcd http://192.0.2.1:2379".into(),
        store_error: None,
        store_health: StoreHealth { up: true, since_seconds: 900, last_answer_seconds: Some(4), outages: 2 },
        firewall: Some(FirewallFacts {
            mode: "nftables".into(),
            stands: true,
            repaired: 2,
            last_repair_seconds: Some(65),
        }),
        passes: PassFacts { total: 3841, failed: 1, seconds: 4.5, last_seconds: 0.0012 },
        tables: vec![
            TableFacts { name: "device".into(), rows: 2, written: 2, ..TableFacts::default() },
            TableFacts {
                name: "route".into(),
                rows: 4,
                written: 120,
                removed: 7,
                repaired: 3,
                last_repair_seconds: Some(59),
            },
        ],
        peers: vec![
            PeerFacts {
                ipv6_subnet: Some("fd42:0:0:7::/64".parse().expect("valid")),
                public_ipv6: Some("2001:db8::12".parse().expect("valid")),
                ipv6_path: Some(Path::Direct),
                ..peer(7, Path::Tunnel)
            },
            PeerFacts {
                public_ip: None,
                sent_to: Some("2001:db8::8".parse().expect("valid")),
                public_ipv6: Some("2001:db8::8".parse().expect("valid")),
                ..peer(8, Path::Direct)
            },
            PeerFacts {
                backend: "host-gw".into(),
                path: None,
                changed_seconds: None,
                ..peer(9, Path::Direct)
            },
        ],
        rejected: vec![RejectedFacts { item: "10.43.0.0-24".into(), reason: "outside 10.42.0.0/16".into() }],
        counters: vec![CounterFacts {
            program: "from_pod".into(),
            reason: "forwarded".into(),
            meaning: "Encapsulated and sent.".into(),
            packets: 123_456,
            bytes: 98_765_432,
        }],
        last_error: None,
        errors: Vec::new(),
    }
}
