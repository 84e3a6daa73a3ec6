//! How the agent sees a node's interfaces, addresses and routes, and which interface it chooses.

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;

use anyhow::Result;
use nix::sched::{CloneFlags, setns};
use ovl_agent::netlink::{connect, lookup};
use ovl_tests::netns::{Netns, unique_prefix};

/// Runs `ask` inside the namespace, on a thread of its own: the namespace is a thread's.
fn inside<T: Send + 'static, F: Future<Output = Result<T>>>(
    netns: &Netns,
    ask: impl FnOnce() -> F + Send + 'static,
) -> T {
    let namespace = File::open(netns.path()).unwrap();
    let asked = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ask()).unwrap()
    });
    asked.join().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace with `wan` (both families) and its other end `peer`.
fn node(label: &str) -> Netns {
    let netns = Netns::create(&unique_prefix(label)).unwrap();
    for line in [
        "link add wan type veth peer name peer",
        "link set wan up",
        "link set peer up",
        "addr add 192.0.2.1/24 dev wan",
        "addr add 2001:db8::1/64 dev wan nodad",
    ] {
        netns.ip(line).unwrap();
    }
    netns
}

#[test]
fn the_kernel_is_asked_for_the_way_to_an_address() {
    let netns = node("lookup");
    for line in [
        "route add 198.51.100.0/24 via 192.0.2.254",
        "route add 203.0.113.0/24 via inet6 fe80::1 dev wan",
        "route add blackhole 10.1.0.0/16",
        "route add prohibit 10.2.0.0/16",
        "route add unreachable 10.3.0.0/16",
        "-6 route add 2001:db8:1::/48 via 2001:db8::ff",
        "-6 route add unreachable 2001:db8:2::/48",
    ] {
        netns.ip(line).unwrap();
    }
    let index = |name: &str| {
        let shown = ovl_tests::links::ip_json(&netns, &format!("link show dev {name}")).unwrap();
        u32::try_from(shown[0]["ifindex"].as_u64().unwrap()).unwrap()
    };
    let (wan, lo) = (index("wan"), index("lo"));
    let table = [
        ("192.0.2.9", Some((wan, None, "192.0.2.1"))),
        ("198.51.100.9", Some((wan, Some("192.0.2.254"), "192.0.2.1"))),
        ("203.0.113.9", Some((wan, Some("fe80::1"), "192.0.2.1"))),
        ("192.0.2.1", Some((lo, None, "192.0.2.1"))),
        ("10.1.0.1", None),
        ("10.2.0.1", None),
        ("10.3.0.1", None),
        ("10.4.0.1", None),
        ("2001:db8::9", Some((wan, None, "2001:db8::1"))),
        ("2001:db8:1::9", Some((wan, Some("2001:db8::ff"), "2001:db8::1"))),
        ("2001:db8:2::9", None),
        ("2001:db8:3::9", None),
    ];
    for (to, expected) in table {
        let hop = inside(&netns, move || async move { lookup(&connect()?, ip(to)).await });
        let seen = hop.as_ref().map(|hop| (hop.ifindex, hop.gateway, hop.source, hop.single));
        let expected =
            expected.map(|(ifindex, gateway, source)| (ifindex, gateway.map(ip), Some(ip(source)), true));
        assert_eq!(seen, expected, "{to}");
    }
}
