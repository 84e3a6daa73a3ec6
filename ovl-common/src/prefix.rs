//! Subnets as keys of the longest-prefix-match map.

use core::net::IpAddr;

use crate::IpKey;

/// What an IPv4 prefix length grows by when the address is v4-mapped.
pub const IPV4_BITS: u32 = 96;

/// A subnet as the LPM map wants it: `bits` leading bits of `address` count; an IPv4 `/n` has `96 + n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// Number of leading bits that count, 0 to 128, in host byte order as `struct bpf_lpm_trie_key` has it.
    pub bits: u32,
    /// The subnet's first address; bits beyond `bits` are zero.
    pub address: IpKey,
}

impl Prefix {
    /// The key of the subnet that starts at `address` and is `length` bits long (0 to 32, or 0 to 128).
    pub fn new(address: IpAddr, length: u8) -> Self {
        let grown = if address.is_ipv4() { IPV4_BITS } else { 0 };
        Self { bits: grown + u32::from(length), address: address.into() }
    }
}

/// As subnets are written: `10.42.7.0/24`.
impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let address = IpAddr::from(self.address);
        let grown = if address.is_ipv4() { IPV4_BITS } else { 0 };
        write!(f, "{address}/{}", self.bits.saturating_sub(grown))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn a_prefix_is_written_as_subnets_are() {
        for text in ["10.42.7.0/24", "fd77:0:0:5::/64", "0.0.0.0/0"] {
            let (address, length) = text.split_once('/').expect(text);
            let prefix = Prefix::new(address.parse().expect(text), length.parse().expect(text));
            assert_eq!(prefix.to_string(), text);
        }
    }

    #[test]
    fn an_ipv4_prefix_grows_by_the_mapped_bits() {
        let address = IpAddr::from([10, 42, 3, 0]);
        let prefix = Prefix::new(address, 24);
        assert_eq!(prefix.bits, 120);
        assert_eq!(prefix.address, IpKey::from(address));
    }

    #[test]
    fn an_ipv6_prefix_keeps_its_length() {
        let address: IpAddr = "fd77:0:0:5::".parse().expect("a valid address");
        assert_eq!(Prefix::new(address, 64).bits, 64);
        assert_eq!(Prefix::new(address, 64).address, IpKey::from(address));
    }
}
