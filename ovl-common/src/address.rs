//! Addresses as they stand in map keys and values.

use core::cmp::Ordering;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// An IPv4 or IPv6 address as 16 bytes in network byte order; IPv4 is stored v4-mapped (`::ffff:a.b.c.d`, RFC 4291
/// section 2.5.5.2), so that one map serves both families.
///
/// A real IPv6 packet never carries a v4-mapped address: the programs pass such a packet to the kernel before
/// they look anything up, or it would alias an IPv4 row.
///
/// Words, not bytes: so that programs copy and compare it in two steps.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IpKey([u64; 2]);

impl IpKey {
    /// The key of an IPv4 address given as the four bytes of a packet.
    #[inline(always)]
    pub const fn from_ipv4_octets(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
    }

    /// The key of an IPv6 address given as the sixteen bytes of a packet.
    #[inline(always)]
    pub fn from_ipv6_octets(octets: [u8; 16]) -> Self {
        Self(bytemuck::cast::<[u8; 16], [[u8; 8]; 2]>(octets).map(u64::from_ne_bytes))
    }

    /// All sixteen bytes.
    #[inline(always)]
    pub fn octets(self) -> [u8; 16] {
        bytemuck::cast(self.0)
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub fn is_ipv4(self) -> bool {
        const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];
        let [high, low] = self.0;
        let [mapped @ .., _, _, _, _] = low.to_ne_bytes();
        high == 0 && mapped == MAPPED
    }

    /// The address as two words in network byte order.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }

    /// The key with these words in network byte order.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// The last four bytes: the IPv4 address where the key is v4-mapped.
    #[inline(always)]
    pub const fn ipv4_octets(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0[1].to_ne_bytes();
        [a, b, c, d]
    }
}

/// As addresses are ordered, not their words.
impl Ord for IpKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.octets().cmp(&other.octets())
    }
}

impl PartialOrd for IpKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<IpAddr> for IpKey {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from_ipv4_octets(v4.octets()),
            IpAddr::V6(v6) => Self::from_ipv6_octets(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for IpKey {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_ipv4_octets(address.octets())
    }
}

impl From<IpKey> for IpAddr {
    fn from(key: IpKey) -> Self {
        Ipv6Addr::from(key.octets()).to_canonical()
    }
}

/// An Ethernet address in transmission order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Mac(pub [u8; 6]);

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A text that is not six hexadecimal bytes separated by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMac;

impl core::fmt::Display for NotAMac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not a MAC address; expected six hexadecimal bytes such as d2:41:0a:9c:55:e1")
    }
}

impl core::error::Error for NotAMac {}

impl core::str::FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(NotAMac)?;
            // from_str_radix takes a sign; a MAC has none.
            if part.starts_with('+') {
                return Err(NotAMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_not_hex| NotAMac)?;
        }
        if parts.next().is_some() { Err(NotAMac) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn an_ipv4_address_is_stored_v4_mapped_and_comes_back() {
        let address = IpAddr::from([10, 42, 3, 9]);
        let key = IpKey::from(address);
        assert_eq!(bytemuck::bytes_of(&key), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 42, 3, 9]);
        assert_eq!(key.ipv4_octets(), [10, 42, 3, 9]);
        assert_eq!(IpAddr::from(key), address);
    }

    #[test]
    fn an_ipv6_address_comes_back() {
        let address: IpAddr = "fd77:0:0:5::9".parse().expect("a valid address");
        assert_eq!(IpAddr::from(IpKey::from(address)), address);
    }

    #[test]
    fn a_mac_is_read_and_written_as_flannel_writes_it() {
        let mac: Mac = "d2:41:0a:9c:55:e1".parse().expect("a valid MAC");
        assert_eq!(mac, Mac([0xd2, 0x41, 0x0a, 0x9c, 0x55, 0xe1]));
        assert_eq!(mac.to_string(), "d2:41:0a:9c:55:e1");
    }

    #[test]
    fn a_mac_of_another_shape_is_refused() {
        for text in [
            "",
            "d2:41:0a:9c:55",
            "d2:41:0a:9c:55:e1:00",
            "d2-41-0a-9c-55-e1",
            "g2:41:0a:9c:55:e1",
            "+2:41:0a:9c:55:e1",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac), "{text}");
        }
    }
}
