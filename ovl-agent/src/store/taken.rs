//! The part of a range that leases hold.

use ipnet::IpNet;

use crate::family::Family;
use crate::network::{Pool, from_bits, to_bits};

/// Addresses of one family, as disjoint spans in order: with ten thousand leases, asking each about every candidate
/// would take seconds.
pub(super) struct Taken(Vec<(u128, u128)>);

impl Taken {
    /// What `subnets` cover together.
    pub(super) fn new(subnets: impl Iterator<Item = IpNet>) -> Self {
        let mut spans: Vec<_> = subnets.map(span).collect();
        spans.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(spans.len());
        for (first, last) in spans {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Whether nothing of `subnet` is taken.
    pub(super) fn spares(&self, subnet: IpNet) -> bool {
        let (first, last) = span(subnet);
        self.first_within(first, last).is_none()
    }

    /// The subnets of `pool` of which nothing is taken, in order. A taken span costs one step, however many of them it
    /// covers: a single lease may cover more than can be walked.
    pub(super) fn free_in(&self, pool: &Pool) -> impl Iterator<Item = IpNet> {
        let (family, length) = (Family::of_net(&pool.range), pool.subnet_len);
        let (min, max) = (to_bits(pool.min), to_bits(pool.max));
        let size = 1u128 << (family.bits() - length);
        let after = move |start: &u128| self.next_free(start.checked_add(size)?, size);
        std::iter::successors(self.next_free(min, size), after)
            .take_while(move |start| *start <= max)
            .filter_map(move |start| IpNet::new(from_bits(family, start), length).ok())
    }

    /// The first multiple of `size` at or after `start`, itself a multiple, with `size` free addresses; `None` where
    /// there is none below 2^128.
    fn next_free(&self, mut start: u128, size: u128) -> Option<u128> {
        while let Some((_, last)) = self.first_within(start, start + (size - 1)) {
            start = (last / size + 1).checked_mul(size)?;
        }
        Some(start)
    }

    /// The first span that has an address of those from `first` to `last`.
    fn first_within(&self, first: u128, last: u128) -> Option<(u128, u128)> {
        let index = self.0.partition_point(|taken| taken.1 < first);
        self.0.get(index).copied().filter(|taken| taken.0 <= last)
    }
}

fn span(net: IpNet) -> (u128, u128) {
    (to_bits(net.network()), to_bits(net.broadcast()))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::network::Network;

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    /// Of `range`, with `fields` such as `"SubnetLen":26,`, each of which is named after the family.
    fn pool(range: &str, fields: &str) -> Pool {
        let family = Family::of_net(&net(range));
        let text = match family {
            Family::V4 => format!(r#"{{{fields}"Network":"{range}","Backend":{{"Type":"vxlan"}}}}"#),
            Family::V6 => format!(
                r#"{{{fields}"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{range}","Backend":{{"Type":"vxlan"}}}}"#
            ),
        };
        Network::parse(&text).expect(&text).pools.get(family).expect(range).clone()
    }

    #[test]
    fn whatever_overlaps_is_not_spared() {
        let taken = ["10.0.4.0/24", "10.0.0.0/23", "10.0.1.0/24", "10.0.4.128/25", "10.0.8.0/22"].map(net);
        let taken = Taken::new(taken.into_iter());
        let table = [
            ("10.0.0.0/24", false),
            ("10.0.1.128/25", false),
            ("10.0.2.0/23", true),
            ("10.0.4.0/25", false),
            ("10.0.5.0/24", true),
            ("10.0.4.0/22", false),
            ("10.0.11.0/24", false),
            ("10.0.12.0/24", true),
            ("0.0.0.0/0", false),
        ];
        for (subnet, spared) in table {
            assert_eq!(taken.spares(net(subnet)), spared, "{subnet}");
        }
        assert!(Taken::new(std::iter::empty()).spares(net("fd00::/64")));
    }

    #[test]
    fn where_nothing_is_taken_all_are_free() {
        let table: [(&str, &str, &[&str]); 4] = [
            ("10.9.0.0/24", "", &["10.9.0.64/26", "10.9.0.128/26", "10.9.0.192/26"]),
            ("255.255.255.0/24", "", &["255.255.255.64/26", "255.255.255.128/26", "255.255.255.192/26"]),
            ("fc00::/62", "", &["fc00:0:0:1::/64", "fc00:0:0:2::/64", "fc00:0:0:3::/64"]),
            (
                "ffff:ffff:ffff:fffc::/62",
                r#""IPv6SubnetMin":"ffff:ffff:ffff:ffff::","#,
                &["ffff:ffff:ffff:ffff::/64"],
            ),
        ];
        for (range, fields, expected) in table {
            let pool = pool(range, fields);
            let free: Vec<IpNet> = Taken::new(std::iter::empty()).free_in(&pool).collect();
            assert_eq!(free.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
            assert!(free.iter().all(|subnet| pool.fits(*subnet)));
        }
    }

    #[test]
    fn a_taken_span_is_jumped_over_and_not_walked() {
        let pool = pool("fd00::/8", r#""IPv6SubnetLen":64,"#);
        let table: [(&[&str], Option<&str>); 5] = [
            (&["fd00::/9"], Some("fd80::/64")),
            (&["fd00::/9", "fdc0::/10", "fd80::/64"], Some("fd80:0:0:1::/64")),
            (&["fd00::/8"], None),
            (&["::/0"], None),
            (&["fd00:0:0:2::/63", "fd00::/63", "fd00:0:0:4::1/128"], Some("fd00:0:0:5::/64")),
        ];
        for (taken, expected) in table {
            let taken_spans = Taken::new(taken.iter().copied().map(net));
            assert_eq!(taken_spans.free_in(&pool).next(), expected.map(net), "{taken:?}");
        }
        let half = Taken::new(std::iter::once(net("fd00::/9")));
        assert_eq!(half.free_in(&pool).take(100).last(), Some(net("fd80:0:0:63::/64")));
    }

    #[test]
    fn what_is_free_is_what_a_walk_finds() {
        let mut random = StdRng::seed_from_u64(11);
        for (base, bits) in [
            ("10.9.0.0", 32),
            ("255.255.255.0", 32),
            ("fd00::", 128),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00", 128),
        ] {
            let base = to_bits(base.parse().expect(base));
            let family = if bits == 32 { Family::V4 } else { Family::V6 };
            let at = |offset: u128, length: u8| {
                IpNet::new(from_bits(family, base + offset), length).expect("valid")
            };
            for _ in 0..500 {
                let size = 1u128 << random.random_range(2..=5u32);
                let subnet_len = bits - u8::try_from(size.ilog2()).expect("small");
                let (one, other) = (random.random_range(0..256 / size), random.random_range(0..256 / size));
                let (min, max) = (one.min(other) * size, one.max(other) * size);
                let pool = Pool {
                    range: at(0, bits - 8),
                    subnet_len,
                    min: from_bits(family, base + min),
                    max: from_bits(family, base + max),
                };
                let taken: Vec<IpNet> = (0..random.random_range(0..20))
                    .map(|_| at(random.random_range(0..256), random.random_range(bits - 6..=bits)))
                    .collect();
                let walk: Vec<IpNet> = (min..=max)
                    .step_by(usize::try_from(size).expect("small"))
                    .map(|start| at(start, subnet_len))
                    .filter(|subnet| !taken.iter().any(|net| net.contains(subnet) || subnet.contains(net)))
                    .collect();
                let free: Vec<IpNet> = Taken::new(taken.iter().copied()).free_in(&pool).collect();
                assert_eq!(free, walk, "{pool:?} {taken:?}");
            }
        }
    }
}
