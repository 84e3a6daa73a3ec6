//! The two address families, and what there is one of per family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The one that this is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// The family of a range.
    pub fn of_net(net: &IpNet) -> Self {
        Self::of(net.addr())
    }

    /// The length of an address in bits, which is also the prefix length of a single address.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The address that is nobody's: `0.0.0.0` or `::`.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Up to one of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByFamily<T> {
    /// That of IPv4.
    pub v4: Option<T>,
    /// That of IPv6.
    pub v6: Option<T>,
}

impl<T> Default for ByFamily<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T> ByFamily<T> {
    /// Asks `make` once per family.
    pub fn from_fn(mut make: impl FnMut(Family) -> Option<T>) -> Self {
        Self { v4: make(Family::V4), v6: make(Family::V6) }
    }

    /// That of `family`.
    pub fn get(&self, family: Family) -> Option<&T> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// Sets that of `family`.
    pub fn set(&mut self, family: Family, value: Option<T>) {
        match family {
            Family::V4 => self.v4 = value,
            Family::V6 => self.v6 = value,
        }
    }

    /// What there is, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::ALL.into_iter().filter_map(|family| Some((family, self.get(family)?)))
    }

    /// What there is, turned into something else.
    pub fn map<U>(&self, mut turn: impl FnMut(Family, &T) -> U) -> ByFamily<U> {
        ByFamily::from_fn(|family| self.get(family).map(|value| turn(family, value)))
    }

    /// What there is of those families that `families` has.
    #[must_use]
    pub fn within<U>(&self, families: &ByFamily<U>) -> Self
    where
        T: Copy,
    {
        ByFamily::from_fn(|family| families.get(family).and(self.get(family).copied()))
    }

    /// Whether there is nothing for either.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

/// Joins what there is with a comma: for logs and status.
impl<T: fmt::Display> fmt::Display for ByFamily<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.iter().map(|(_, value)| value.to_string()).collect();
        f.write_str(&parts.join(", "))
    }
}
