//! The part of a range that leases hold.

use ipnet::IpNet;

use crate::network::to_bits;

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
        let after = self.0.partition_point(|taken| taken.1 < first);
        self.0.get(after).is_none_or(|taken| last < taken.0)
    }
}

fn span(net: IpNet) -> (u128, u128) {
    (to_bits(net.network()), to_bits(net.broadcast()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_overlaps_is_not_spared() {
        let net = |text: &str| text.parse::<IpNet>().expect(text);
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
}
