//! What a node, a pod or a subnet has once per address family.

/// One value of IPv4, of IPv6, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families<T> {
    /// IPv4 only.
    Ipv4(T),
    /// IPv6 only.
    Ipv6(T),
    /// Dual stack.
    Both {
        /// That of IPv4.
        ipv4: T,
        /// That of IPv6.
        ipv6: T,
    },
}

impl<T> Families<T> {
    /// What there is; `None` when there is nothing.
    pub fn new(ipv4: Option<T>, ipv6: Option<T>) -> Option<Self> {
        match (ipv4, ipv6) {
            (Some(ipv4), Some(ipv6)) => Some(Self::Both { ipv4, ipv6 }),
            (Some(ipv4), None) => Some(Self::Ipv4(ipv4)),
            (None, ipv6) => ipv6.map(Self::Ipv6),
        }
    }

    /// That of IPv4, or that of IPv6 where there is no IPv4.
    pub fn first(&self) -> &T {
        match self {
            Self::Ipv4(first) | Self::Ipv6(first) | Self::Both { ipv4: first, .. } => first,
        }
    }

    /// That of IPv4.
    pub fn ipv4(&self) -> Option<&T> {
        match self {
            Self::Ipv4(ipv4) | Self::Both { ipv4, .. } => Some(ipv4),
            Self::Ipv6(_) => None,
        }
    }

    /// That of IPv6.
    pub fn ipv6(&self) -> Option<&T> {
        match self {
            Self::Ipv6(ipv6) | Self::Both { ipv6, .. } => Some(ipv6),
            Self::Ipv4(_) => None,
        }
    }

    /// All there is, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.ipv4().into_iter().chain(self.ipv6())
    }

    /// The same families with other values.
    pub fn map<U>(&self, mut turn: impl FnMut(&T) -> U) -> Families<U> {
        match self {
            Self::Ipv4(ipv4) => Families::Ipv4(turn(ipv4)),
            Self::Ipv6(ipv6) => Families::Ipv6(turn(ipv6)),
            Self::Both { ipv4, ipv6 } => Families::Both { ipv4: turn(ipv4), ipv6: turn(ipv6) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_comes_first_where_it_is_there() {
        let table = [
            (Some(4), None, Some(vec![4])),
            (None, Some(6), Some(vec![6])),
            (Some(4), Some(6), Some(vec![4, 6])),
            (None, None, None),
        ];
        for (ipv4, ipv6, wanted) in table {
            let families = Families::new(ipv4, ipv6);
            assert_eq!(families.map(|families| families.iter().copied().collect::<Vec<_>>()), wanted);
            assert_eq!(families.map(|families| *families.first()), ipv4.or(ipv6));
            assert_eq!(families.and_then(|families| families.ipv6().copied()), ipv6);
        }
    }
}
