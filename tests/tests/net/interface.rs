//! How the agent sees a node's interfaces, addresses and routes, and which interface it chooses.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use ovl_agent::cli::{self, Command};
use ovl_agent::family::ByFamily;
use ovl_agent::netlink::{connect, lookup};
use ovl_agent::underlay::{self, Choice};
use ovl_tests::netns::{Netns, unique_prefix};
use ovl_tests::wait::wait_for;

/// Runs `ask` inside the namespace.
fn inside<T: Send, F: Future<Output = Result<T>>>(netns: &Netns, ask: impl FnOnce() -> F + Send) -> T {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ask()).unwrap()
    };
    netns.inside(ask).unwrap()
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

/// What the agent chooses by a command line, in a network of families 4, 6 or both.
fn chosen(netns: &Netns, line: &str, families: &str) -> Result<String, String> {
    let argv: Vec<_> = std::iter::once("ovl-agent").chain(line.split_whitespace()).map(Into::into).collect();
    let Command::Run(run) = cli::parse(argv, |_| None).unwrap().command else { panic!("{line}") };
    let range = |family: char, range: &str| families.contains(family).then(|| range.parse().unwrap());
    let ranges = ByFamily { v4: range('4', "10.42.0.0/16"), v6: range('6', "fd42::/48") };
    let choice = Choice::new(&run, &ranges).unwrap();
    let found = inside(netns, || async move { Ok(underlay::find(&connect()?, &choice).await) });
    found.map(|found| format!("{}: {}", found.name, found.addresses)).map_err(|error| error.to_string())
}

#[test]
fn the_interface_is_chosen_from_what_the_kernel_has() {
    let netns = node("choice");
    assert!(chosen(&netns, "", "4").unwrap_err().contains("there is no default route"));
    for line in [
        "link add lan type veth peer name far",
        "link set lan up",
        "link set far up",
        "addr add 198.51.100.1/24 dev lan",
        "addr add 198.51.100.2/24 dev lan",
        // Newest first is the kernel's order; a limited lifetime is what a DHCP client sets.
        "addr add 2001:db8:1::1/64 dev lan nodad",
        "addr add 2001:db8:1::2/64 dev lan nodad valid_lft 900 preferred_lft 900",
        "addr add 2001:db8:1::3/64 dev lan nodad valid_lft 900 preferred_lft 0",
        // Several ways at once, a worse route, and one that says no.
        "route add default metric 200 via 192.0.2.254",
        "route add default metric 100 nexthop via 198.51.100.254 nexthop via 192.0.2.254",
        "-6 route add unreachable default metric 1",
        "-6 route add default metric 100 nexthop via 2001:db8:1::ff nexthop via 2001:db8::ff",
        "route add 203.0.113.0/24 via 192.0.2.253",
        "-6 route add 2001:db8:9::/48 via 2001:db8:1::ff src 2001:db8:1::2",
    ] {
        netns.ip(line).unwrap();
    }
    let table = [
        ("", "4", "lan: 198.51.100.1"),
        ("", "6", "lan: 2001:db8:1::1"),
        ("", "46", "lan: 198.51.100.1, 2001:db8:1::1"),
        ("--iface=wan", "46", "wan: 192.0.2.1, 2001:db8::1"),
        ("--iface=2001:db8:1::3", "46", "lan: 198.51.100.1, 2001:db8:1::3"),
        ("--iface-regex=^198\\..*2$", "4", "lan: 198.51.100.2"),
        ("--iface-regex=^peer|^wan", "4", "wan: 192.0.2.1"),
        ("--iface-can-reach=203.0.113.9", "46", "wan: 192.0.2.1, 2001:db8::1"),
        ("--iface-can-reach=2001:db8:9::9", "46", "lan: 198.51.100.1, 2001:db8:1::2"),
        ("--iface-can-reach=198.51.100.2", "4", "lan: 198.51.100.2"),
        ("--public-ipv6=2001:db8:1::2", "46", "lan: 198.51.100.1, 2001:db8:1::2"),
    ];
    for (line, families, expected) in table {
        assert_eq!(chosen(&netns, line, families).as_deref(), Ok(expected), "{line} in {families}");
    }
    // The kernel passes over a way whose interface has no carrier.
    netns.ip("link set far down").unwrap();
    netns.sysctl(&["net.ipv4.conf.all.ignore_routes_with_linkdown=1"]).unwrap();
    let dead = || {
        let routes = ovl_tests::links::ip_json(&netns, "route show default metric 100")?;
        Ok(routes.to_string().contains("linkdown"))
    };
    wait_for("the way to be passed over", Duration::from_secs(5), dead).unwrap();
    assert_eq!(chosen(&netns, "", "4").as_deref(), Ok("wan: 192.0.2.1"));
}
