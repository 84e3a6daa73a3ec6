//! What subnets there are to give out, of one family.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Result, ensure};
use ipnet::IpNet;

use crate::family::Family;

/// The overlay's range of one family and the subnets in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The whole range.
    pub range: IpNet,
    /// Length of every node's subnet; 0 where they are of any length, since somebody else assigns them.
    pub subnet_len: u8,
    /// First subnet that may be given out.
    pub min: IpAddr,
    /// Last subnet that may be given out.
    pub max: IpAddr,
}

impl Pool {
    /// Checks the values and fills in flannel's defaults (FLANNEL.md section 2). A `subnet_len` of 0 is none given;
    /// `prefix` is what the field names begin with (`IPv6` or nothing).
    pub(super) fn new(
        prefix: &str,
        range: IpNet,
        subnet_len: u8,
        min: Option<IpAddr>,
        max: Option<IpAddr>,
    ) -> Result<Self> {
        let subnet_len = length(prefix, range, subnet_len)?;
        let family = Family::of_net(&range);
        let size = 1u128 << (family.bits() - subnet_len);
        let check = |name: &str, address: IpAddr| -> Result<IpAddr> {
            ensure!(
                range.contains(&address),
                "{prefix}{name} {address} lies outside {prefix}Network {range}"
            );
            ensure!(
                to_bits(address).is_multiple_of(size),
                "{prefix}{name} {address} is not the first address of a /{subnet_len} subnet"
            );
            Ok(address)
        };
        let min = match min {
            // The first subnet is skipped, as flannel does, so that no lease starts at the network's own address.
            None => from_bits(family, to_bits(range.network()) + size),
            Some(address) => check("SubnetMin", address)?,
        };
        let max = match max {
            None => from_bits(family, to_bits(range.broadcast()) - (size - 1)),
            Some(address) => check("SubnetMax", address)?,
        };
        ensure!(
            min <= max,
            "{prefix}SubnetMin {min} is beyond {prefix}SubnetMax {max}: no subnet is left between them"
        );
        Ok(Self { range, subnet_len, min, max })
    }

    /// A range whose subnets somebody else assigns.
    pub(super) fn assigned(range: IpNet) -> Self {
        Self { range, subnet_len: 0, min: range.network(), max: range.broadcast() }
    }

    /// Whether `subnet` is one that may be given out, or may have been assigned.
    pub fn fits(&self, subnet: IpNet) -> bool {
        if self.subnet_len == 0 {
            return self.range.contains(&subnet);
        }
        subnet.prefix_len() == self.subnet_len && (self.min..=self.max).contains(&subnet.addr())
    }
}

/// The length of the subnets: what was asked for, where at least four fit, or flannel's default.
fn length(prefix: &str, range: IpNet, asked: u8) -> Result<u8> {
    let (whole, name) = (range.prefix_len(), format!("{prefix}SubnetLen"));
    // Longest subnet, largest range that gets the usual one, the usual one, smallest range.
    let (longest, roomy, usual, smallest) = match Family::of_net(&range) {
        Family::V4 => (30, 22, 24, 28),
        Family::V6 => (126, 62, 64, 124),
    };
    if asked == 0 {
        ensure!(
            whole <= smallest,
            "{prefix}Network {range} is too small: it must be a /{smallest} or larger"
        );
        return Ok(if whole <= roomy { usual } else { whole + 2 });
    }
    ensure!(asked <= longest, "{name} {asked} is too long: at most {longest}");
    ensure!(
        asked >= whole + 2,
        "{name} {asked} leaves fewer than four subnets in {prefix}Network {range}: at least {}",
        whole + 2
    );
    Ok(asked)
}

/// An address as a number.
pub(crate) fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A number as an address; what is beyond the family's last address wraps around.
pub(crate) fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => {
            let [.., a, b, c, d] = bits.to_be_bytes();
            IpAddr::from([a, b, c, d])
        }
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(range: &str, len: u8, min: Option<&str>, max: Option<&str>) -> Result<Pool> {
        let range: IpNet = range.parse().expect(range);
        let prefix = if range.addr().is_ipv4() { "" } else { "IPv6" };
        let address = |text: &str| text.parse().expect("an address");
        Pool::new(prefix, range.trunc(), len, min.map(address), max.map(address))
    }

    #[test]
    fn defaults_are_flannels() {
        let table = [
            ("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0"),
            ("10.3.7.1/16", 24, "10.3.1.0", "10.3.255.0"),
            ("10.3.0.0/22", 24, "10.3.1.0", "10.3.3.0"),
            ("10.3.0.0/23", 25, "10.3.0.128", "10.3.1.128"),
            ("10.9.0.0/24", 26, "10.9.0.64", "10.9.0.192"),
            ("10.9.0.0/28", 30, "10.9.0.4", "10.9.0.12"),
            ("0.0.0.0/0", 24, "0.0.1.0", "255.255.255.0"),
            ("fc00::/48", 64, "fc00:0:0:1::", "fc00:0:0:ffff::"),
            ("fc00::/62", 64, "fc00:0:0:1::", "fc00:0:0:3::"),
            ("fc00::/63", 65, "fc00::8000:0:0:0", "fc00:0:0:1:8000::"),
            ("fc00::/124", 126, "fc00::4", "fc00::c"),
        ];
        for (range, len, min, max) in table {
            let pool = pool(range, 0, None, None).expect(range);
            assert_eq!(pool.subnet_len, len, "{range}");
            assert_eq!((pool.min.to_string(), pool.max.to_string()), (min.into(), max.into()), "{range}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("10.9.0.0/29", 0, None, None, "Network 10.9.0.0/29 is too small"),
            ("10.9.0.0/24", 31, None, None, "SubnetLen 31 is too long"),
            ("10.9.0.0/24", 25, None, None, "at least 26"),
            ("10.9.0.0/16", 0, Some("10.8.0.0"), None, "SubnetMin 10.8.0.0 lies outside"),
            ("10.9.0.0/16", 0, None, Some("10.9.3.1"), "SubnetMax 10.9.3.1 is not the first"),
            ("10.9.0.0/16", 0, Some("10.9.4.0"), Some("10.9.3.0"), "no subnet is left"),
            ("fc00::/125", 0, None, None, "IPv6Network fc00::/125 is too small"),
            ("fc00::/64", 127, None, None, "IPv6SubnetLen 127 is too long"),
            ("fc00::/64", 65, None, None, "at least 66"),
            ("fc00::/48", 0, Some("fd00::"), None, "IPv6SubnetMin fd00:: lies outside"),
            ("fc00::/48", 0, None, Some("fc00::1"), "IPv6SubnetMax fc00::1 is not the first"),
        ];
        for (range, len, min, max, expected) in table {
            let error = pool(range, len, min, max).expect_err(expected).to_string();
            assert!(error.contains(expected), "{range}: {error}");
        }
    }
}
