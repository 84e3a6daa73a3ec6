//! The networks below the overlay, and a node's place in one of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::families::Families;

/// The address families of the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    Ipv4,
    Ipv6,
    Both,
}

/// A network of the underlay: the switch is at .1 and ::1 of it, node 3 at .13 and ::13.
#[derive(Debug)]
pub(crate) struct Network {
    /// The bridge in the namespace of the switch.
    pub(crate) bridge: &'static str,
    ipv4: [u8; 3],
    ipv6: [u16; 4],
}

/// Where nodes usually are: 192.0.2.0/24 and 2001:db8:c0::/64.
pub(crate) static NEAR: Network =
    Network { bridge: "switch", ipv4: [192, 0, 2], ipv6: [0x2001, 0xdb8, 0xc0, 0] };

/// Where nodes are that the others reach through a router only: 198.51.100.0/24 and 2001:db8:c1::/64. The switch is
/// the router.
pub(crate) static FAR: Network =
    Network { bridge: "far", ipv4: [198, 51, 100], ipv6: [0x2001, 0xdb8, 0xc1, 0] };

/// An address on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderlayAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix.
    pub prefix_len: u8,
    /// The switch's address there.
    pub gateway: IpAddr,
}

impl Network {
    /// The addresses of host `number`; IPv6 is written with the same digits.
    pub(crate) fn host(&self, number: u8, stack: Stack) -> Families<UnderlayAddress> {
        let ipv4 = UnderlayAddress {
            address: self.ipv4_host(number).into(),
            prefix_len: 24,
            gateway: self.ipv4_host(1).into(),
        };
        let ipv6 = UnderlayAddress {
            address: self.ipv6_host(number).into(),
            prefix_len: 64,
            gateway: self.ipv6_host(1).into(),
        };
        match stack {
            Stack::Ipv4 => Families::Ipv4(ipv4),
            Stack::Ipv6 => Families::Ipv6(ipv6),
            Stack::Both => Families::Both { ipv4, ipv6 },
        }
    }

    fn ipv4_host(&self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.ipv4;
        Ipv4Addr::new(a, b, c, number)
    }

    fn ipv6_host(&self, number: u8) -> Ipv6Addr {
        let [a, b, c, d] = self.ipv6;
        let [hundreds, tens, ones] = [number / 100, number / 10 % 10, number % 10].map(u16::from);
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, hundreds << 8 | tens << 4 | ones)
    }
}

/// `address` as a command takes it with a prefix length: `192.0.2.11/24`.
impl std::fmt::Display for UnderlayAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_written_with_the_same_digits() {
        for (number, digits) in [(1, "1"), (12, "12"), (105, "105")] {
            let host = NEAR.host(number, Stack::Both);
            let [ipv4, ipv6] = [host.ipv4(), host.ipv6()].map(Option::unwrap);
            assert_eq!(ipv4.to_string(), format!("192.0.2.{digits}/24"));
            assert_eq!(ipv6.to_string(), format!("2001:db8:c0::{digits}/64"));
        }
    }
}
