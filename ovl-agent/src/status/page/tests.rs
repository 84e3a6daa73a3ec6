//! Pages as they are printed.

use super::*;
use crate::facts::example;

#[test]
fn a_page_lines_up() {
    let expected = "\
agent      0.1.0, up 3h 12m
ready      yes
node       node1: eth0 with 192.0.2.11, 2001:db8::11
public IP  192.0.2.11, 2001:db8::11
network    10.42.0.0/16, fd42::/48
lease      10.42.3.0/24, fd42:0:0:3::/64; ends in 23h unless renewed (2030-01-02T03:04:05Z); lost once
backend    vxlan, MTU 1430
mode       ebpf: programs loaded, attached by tcx
fast path  always; source check loose; pinned in /sys/fs/bpf/ovl/10_42_0_0_16-4026531840/abi-ABI
xdp        off: --xdp off
store      etcd http://192.0.2.1:2379: up for 15m; last answer 4s ago; went away 2 times
firewall   nftables, rules in place; repaired 2 times, last 1m ago
passes     3841, 1 failed; the last took 1.2 ms
problems   none

PEER SUBNET      NODE          PATH    BACKEND  CHANGED
10.42.7.0/24     192.0.2.7     tunnel  vxlan    3m ago
fd42:0:0:7::/64  2001:db8::12  direct  vxlan    3m ago
10.42.8.0/24     2001:db8::8   direct  vxlan    3m ago
10.42.9.0/24     192.0.2.9     none    host-gw  -

REJECTED      WHY
10.43.0.0-24  outside 10.42.0.0/16

TABLE   ROWS  WRITTEN  REMOVED  REPAIRED  LAST REPAIR
device     2        2        0         0  -
route      4      120        7         3  59s ago

PROGRAM   REASON     PACKETS     BYTES  MEANING
from_pod  forwarded   123456  98765432  Encapsulated and sent.
";
    let expected = expected.replace("ABI", &ovl_common::ABI.to_string());
    assert_eq!(render(&example(), false), expected);
}

#[test]
fn flows_have_their_terms() {
    let mut facts = example();
    facts.fast_path = "verified".into();
    if let Some(ebpf) = &mut facts.ebpf {
        ebpf.verify_interval_seconds = 10.0 / 3.0;
        ebpf.pinned_in = None;
    }
    let line = "\nfast path  verified every 3.3 s by mark 0x2000; room for 262144 flows; source check loose; not pinned\n";
    let page = render(&facts, false);
    assert!(page.contains(line), "{page}");
    facts.ebpf = None;
    assert!(render(&facts, false).contains("\nfast path  verified\n"));
}

#[test]
fn what_is_wrong_is_said() {
    let mut facts = example();
    facts.ready = false;
    facts.lease.expires_in_seconds = Some(-120);
    facts.store_health.up = false;
    facts.store_error = Some("etcd says: no leader".into());
    facts.errors = vec!["cannot add route 10.42.7.0/24".into(), "two\u{1b}[31m".into()];
    if let Some(firewall) = &mut facts.firewall {
        firewall.stands = false;
    }
    let page = render(&facts, false);
    let lines = [
        "ready      no, the first full sync is not done\n",
        "lease      10.42.3.0/24, fd42:0:0:3::/64; ended 2m ago (2030-01-02T03:04:05Z); lost once\n",
        "store      etcd http://192.0.2.1:2379: down for 15m: etcd says: no leader; last answer 4s ago; went away 2 times\n",
        "firewall   nftables, rules are not in place; repaired 2 times, last 1m ago\n",
        "problems   2\n           cannot add route 10.42.7.0/24\n           two\u{fffd}[31m\n",
    ];
    for line in lines {
        assert!(page.contains(line), "{line}{page}");
    }
}

#[test]
fn two_thousand_peers_are_a_screen_unless_asked_for() {
    let mut facts = example();
    let peer = facts.peers.pop().expect("three of them");
    facts.peers = vec![peer; 2000];
    let page = render(&facts, false);
    assert!(page.contains("and 1980 more; --all shows all 2000 peers\n"), "{page}");
    assert!(page.lines().count() < 50, "{page}");
    let page = render(&facts, true);
    assert!(!page.contains("more;") && page.lines().count() > 2000);
}

#[test]
fn an_agent_that_knows_little_says_little() {
    let page = render(&Facts { backend: "alloc".into(), ..Facts::default() }, false);
    assert!(page.contains("lease      -; does not end\n"), "{page}");
    assert!(page.contains("firewall   no rules wanted\n") && page.ends_with("\nno peers\n"), "{page}");
}

#[test]
fn an_agent_that_waits_says_for_what() {
    let facts = Facts {
        version: "0.1.0".into(),
        uptime_seconds: 65,
        store: "etcd http://192.0.2.1:2379".into(),
        errors: vec!["starting: cannot read the network config yet".into()],
        ..Facts::default()
    };
    let expected = "\
agent      0.1.0, up 1m
ready      no
store      etcd http://192.0.2.1:2379
state      starting: cannot read the network config yet
";
    assert_eq!(render(&facts, false), expected);
}
