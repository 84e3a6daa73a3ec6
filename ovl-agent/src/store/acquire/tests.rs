use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::lease::BackendData;

const ME: [u8; 4] = [192, 0, 2, 11];

/// Name, leases, rejected items, public IP, previous subnet, choice.
type Case<'a> = (&'a str, Vec<Listed>, Vec<Rejected>, [u8; 4], Option<&'a str>, &'a str);

fn attrs(public_ip: [u8; 4]) -> LeaseAttrs {
    LeaseAttrs {
        public_ip: public_ip.into(),
        public_ipv6: None,
        backend_type: "vxlan".into(),
        backend_data: None,
        backend_v6_data: None,
    }
}

fn listed(key: &str, public_ip: [u8; 4]) -> Listed {
    let lease = Lease { key: key.parse().expect(key), attrs: attrs(public_ip) };
    Listed { lease, revision: 1, term: 1 }
}

/// Four subnets, the first of which is never given out.
fn network() -> Network {
    Network::parse(r#"{"Network":"10.9.0.0/24","Backend":{"Type":"vxlan"}}"#).expect("valid")
}

fn decide(leases: &[Listed], rejected: &[Rejected], me: [u8; 4], previous: Option<&str>) -> String {
    let previous = ByFamily { v4: previous.map(|net| net.parse().expect("valid")), v6: None };
    let mut random = StdRng::seed_from_u64(1);
    match choose(&network(), leases, rejected, &attrs(me), &previous, &mut random) {
        Choice::TakeOver(listed) => format!("take over {}", listed.lease.key),
        Choice::Exchange(listed, key) => format!("exchange {} for {key}", listed.lease.key),
        Choice::Create(key) => format!("create {key}"),
        Choice::Mend(item, _) => format!("mend {}", item.item),
        Choice::Full(family) => format!("full {family}"),
    }
}

#[test]
fn the_order_is_own_lease_then_previous_then_any() {
    let other = [192, 0, 2, 99];
    let unreadable = |key: &str| Rejected {
        key: Some(key.parse().expect(key)),
        item: key.into(),
        reason: "garbage".into(),
        revision: 1,
        term: 1,
    };
    let (a, b, c) = ("10.9.0.64-26", "10.9.0.128-26", "10.9.0.192-26");
    let table: [Case; 10] = [
        (
            "unreadable, but was ours",
            vec![listed(a, other)],
            vec![unreadable(b)],
            ME,
            Some("10.9.0.128/26"),
            "mend 10.9.0.128-26",
        ),
        ("own", vec![listed(a, other), listed(b, ME)], vec![], ME, None, "take over 10.9.0.128-26"),
        (
            "own, of another length",
            vec![listed("10.9.0.64-27", ME)],
            vec![],
            ME,
            None,
            "exchange 10.9.0.64-27 for 10.9.0.64-26",
        ),
        (
            "own, outside",
            vec![listed("10.8.0.64-26", ME)],
            vec![],
            ME,
            None,
            "exchange 10.8.0.64-26 for 10.9.0.64-26",
        ),
        ("previous", vec![listed(a, other)], vec![], ME, Some("10.9.0.192/26"), "create 10.9.0.192-26"),
        (
            "previous taken",
            vec![listed(a, other), listed(c, other)],
            vec![],
            ME,
            Some("10.9.0.192/26"),
            "create 10.9.0.128-26",
        ),
        (
            "previous outside",
            vec![listed(a, other), listed(b, other)],
            vec![],
            ME,
            Some("10.8.0.0/26"),
            "create 10.9.0.192-26",
        ),
        (
            "overlapped by a shorter one",
            vec![listed("10.9.0.0-25", other), listed(b, other)],
            vec![],
            ME,
            None,
            "create 10.9.0.192-26",
        ),
        (
            "unreadable is taken",
            vec![listed(a, other)],
            vec![unreadable(b)],
            ME,
            None,
            "create 10.9.0.192-26",
        ),
        ("full", vec![listed(a, other), listed(b, other), listed(c, other)], vec![], ME, None, "full IPv4"),
    ];
    for (name, leases, rejected, me, previous, expected) in table {
        assert_eq!(decide(&leases, &rejected, me, previous), expected, "{name}");
    }
    let unset = vec![listed(a, [0; 4])];
    assert!(decide(&unset, &[], [0; 4], None).starts_with("create"), "no address is nobody's");
}

#[test]
fn every_free_subnet_is_chosen_at_times() {
    let mut random = StdRng::seed_from_u64(7);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        if let Choice::Create(subnet) =
            choose(&network(), &[], &[], &attrs(ME), &ByFamily::default(), &mut random)
        {
            seen.insert(subnet.to_string());
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn each_family_is_chosen_for_itself() {
    let network = Network::parse(
        r#"{"Network":"10.9.0.0/24","EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}}"#,
    )
    .expect("valid");
    let other = [192, 0, 2, 99];
    let nets = |v4: &str, v6: &str| ByFamily { v4: v4.parse().ok(), v6: v6.parse().ok() };
    let table: [(&str, Vec<Listed>, ByFamily<IpNet>, &str); 5] = [
        (
            "own without IPv6 is given up",
            vec![listed("10.9.0.64-26", ME)],
            ByFamily::default(),
            "Exchange 10.9.0.64-26 for 10.9.0.64-26&fc00:0:0:3::-64",
        ),
        (
            "own in both is preferred to own in one",
            vec![listed("10.9.0.64-26", ME), listed("10.9.0.128-26&fc00:0:0:2::-64", ME)],
            ByFamily::default(),
            "TakeOver 10.9.0.128-26&fc00:0:0:2::-64",
        ),
        (
            "the previous IPv4 subnet, and any of IPv6",
            vec![
                listed("10.9.0.128-26&fc00:0:0:1::-64", other),
                listed("10.9.0.192-26&fc00:0:0:3::-64", other),
            ],
            nets("10.9.0.64/26", ""),
            "Create 10.9.0.64-26&fc00:0:0:2::-64",
        ),
        (
            "the previous subnet of the family that still has it",
            vec![listed("10.9.0.64-26&fc00:0:0:1::-64", other), listed("10.9.0.128-26", other)],
            nets("10.9.0.64/26", "fc00:0:0:3::/64"),
            "Create 10.9.0.192-26&fc00:0:0:3::-64",
        ),
        (
            "one family is full",
            (1..4).map(|n| listed(&format!("10.9.0.{}-30&fc00:0:0:{n}::-64", n * 4), other)).collect(),
            ByFamily::default(),
            "Full IPv6",
        ),
    ];
    for (name, leases, previous, expected) in table {
        let mut random = StdRng::seed_from_u64(3);
        let choice = match choose(&network, &leases, &[], &attrs(ME), &previous, &mut random) {
            Choice::TakeOver(listed) => format!("TakeOver {}", listed.lease.key),
            Choice::Exchange(listed, key) => format!("Exchange {} for {key}", listed.lease.key),
            Choice::Create(key) => format!("Create {key}"),
            Choice::Mend(item, _) => format!("Mend {}", item.item),
            Choice::Full(family) => format!("Full {family}"),
        };
        assert_eq!(choice, expected, "{name}");
    }
}

#[test]
fn a_node_that_came_back_with_another_address_has_its_lease() {
    let data = |mac: &str| BackendData::new(&serde_json::json!({ "VNI": 1, "VtepMAC": mac })).ok();
    let with = |ip, mac| LeaseAttrs { backend_data: data(mac), ..attrs(ip) };
    let (key, mac) = ("10.9.0.128-26", "02:00:00:00:00:0a");
    let previous = |net: &str| ByFamily { v4: net.parse().ok(), v6: None };
    let table = [
        ("its MAC and its subnet", with([192, 0, 2, 99], mac), previous("10.9.0.128/26"), true),
        ("another's MAC", with([192, 0, 2, 99], "02:00:00:00:00:0b"), previous("10.9.0.128/26"), false),
        ("not its subnet", with([192, 0, 2, 99], mac), previous("10.9.0.64/26"), false),
        ("no data to tell by", attrs([192, 0, 2, 99]), previous("10.9.0.128/26"), false),
    ];
    for (name, theirs, previous, is_ours) in table {
        let me = if theirs.backend_data.is_none() { attrs(ME) } else { with(ME, mac) };
        let lease = Lease { key: key.parse().expect(key), attrs: theirs };
        let leases = [Listed { lease, revision: 1, term: 1 }];
        let mut random = StdRng::seed_from_u64(1);
        let choice = choose(&network(), &leases, &[], &me, &previous, &mut random);
        assert_eq!(matches!(choice, Choice::TakeOver(_)), is_ours, "{name}");
    }
}

#[test]
fn a_node_that_uses_other_families_outside_than_before_keeps_its_lease() {
    let data = |mac: &str| BackendData::new(&serde_json::json!({ "VNI": 1, "VtepMAC": mac })).ok();
    let (mac, mac6) = ("02:00:00:00:00:0a", "02:00:00:00:06:0a");
    let address = |last: u16| Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into());
    let plain = |ip, last: Option<u16>| LeaseAttrs { public_ipv6: last.and_then(address), ..attrs(ip) };
    let both = LeaseAttrs { backend_data: data(mac), backend_v6_data: data(mac6), ..plain(ME, Some(1)) };
    let ipv6 = LeaseAttrs { backend_v6_data: data(mac6), ..plain([0; 4], Some(1)) };
    let ipv4 = LeaseAttrs { backend_data: data(mac), ..attrs(ME) };
    let stranger = LeaseAttrs { backend_v6_data: data("02:00:00:00:06:0b"), ..plain([0; 4], Some(2)) };
    let table = [
        ("from both to IPv6", &both, &ipv6, true),
        ("from IPv6 to both", &ipv6, &both, true),
        ("from both to IPv4", &both, &ipv4, true),
        ("from IPv4 to IPv6, which has nothing of it", &ipv4, &ipv6, false),
        ("without tunnels", &plain(ME, Some(1)), &plain([0; 4], Some(1)), true),
        ("another's", &both, &stranger, false),
    ];
    let previous = ByFamily { v4: "10.9.0.128/26".parse().ok(), v6: None };
    for (name, theirs, me, is_ours) in table {
        let lease = Lease { key: "10.9.0.128-26".parse().expect("valid"), attrs: theirs.clone() };
        let leases = [Listed { lease, revision: 1, term: 1 }];
        let mut random = StdRng::seed_from_u64(1);
        let choice = choose(&network(), &leases, &[], me, &previous, &mut random);
        assert_eq!(matches!(choice, Choice::TakeOver(_)), is_ours, "{name}");
    }
}

#[test]
fn a_lease_that_covers_half_of_a_huge_range_costs_nothing() {
    let network = Network::parse(
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/8","IPv6SubnetLen":64,"Backend":{"Type":"vxlan"}}"#,
    )
    .expect("valid");
    let leases = [listed("fd00::-9", [192, 0, 2, 99])];
    let mut random = StdRng::seed_from_u64(3);
    let choice = choose(&network, &leases, &[], &attrs(ME), &ByFamily::default(), &mut random);
    let Choice::Create(key) = choice else { panic!("{choice:?}") };
    // The first hundred that are free.
    let nearest: IpNet = "fd80::/57".parse().expect("valid");
    assert!(key.subnet(Family::V6).is_some_and(|subnet| nearest.contains(&subnet)), "{key}");
}

#[test]
fn without_ipv4_the_ipv6_address_says_whose_a_lease_is() {
    let network = Network::parse(
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}}"#,
    )
    .expect("valid");
    let with =
        |address: &str| LeaseAttrs { public_ipv6: Some(address.parse().expect("valid")), ..attrs([0; 4]) };
    let lease = |key: &str, address: &str| Listed {
        lease: Lease { key: key.parse().expect(key), attrs: with(address) },
        revision: 1,
        term: 1,
    };
    let leases = [lease("fc00:0:0:1::-64", "2001:db8::1"), lease("fc00:0:0:2::-64", "2001:db8::2")];
    let none = ByFamily::default();
    let mut random = StdRng::seed_from_u64(3);
    let choice = choose(&network, &leases, &[], &with("2001:db8::2"), &none, &mut random);
    assert!(matches!(choice, Choice::TakeOver(listed) if listed.lease.key == leases[1].lease.key));
}
