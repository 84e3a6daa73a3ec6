//! Words that say which flows are wanted.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use ovl_common::FlowKey;
use ovl_common::wire::{ICMP, ICMPV6, TCP, UDP};

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `10.42.3.2`, `10.42.3.0/24`: where one of the two addresses lies.
    Address(IpNet),
    /// `tcp`, `udp`, `icmp` (of both families).
    Protocol(&'static [u8]),
    /// A port of either side, or the identifier of echoes.
    Port(u16),
}

impl Filter {
    pub(super) fn fits(&self, key: &FlowKey) -> bool {
        match self {
            Self::Address(range) => {
                [key.local, key.remote].into_iter().any(|address| range.contains(&IpAddr::from(address)))
            }
            Self::Protocol(numbers) => numbers.iter().any(|number| u32::from(*number) == key.protocol),
            Self::Port(port) => [key.local_port, key.remote_port].contains(&port.to_be_bytes()),
        }
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "tcp" => return Ok(Self::Protocol(&[TCP])),
            "udp" => return Ok(Self::Protocol(&[UDP])),
            "icmp" => return Ok(Self::Protocol(&[ICMP, ICMPV6])),
            _ => {}
        }
        if let Ok(address) = word.parse::<IpAddr>() {
            return Ok(Self::Address(address.into()));
        }
        if let Ok(range) = word.parse() {
            return Ok(Self::Address(range));
        }
        match word.parse() {
            // What has no port has 0 there.
            Ok(port) if port != 0 => Ok(Self::Port(port)),
            _ => {
                Err("expected an address or a range such as 10.42.3.0/24, a port, or tcp, udp or icmp"
                    .to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::example;
    use super::*;

    #[test]
    fn a_word_fits_either_side() {
        let (tcp, _) = example(TCP);
        let (icmp, _) = example(ICMP);
        for (word, fits_tcp, fits_icmp) in [
            ("10.42.3.2", true, true),
            ("10.42.7.2", true, true),
            ("10.42.7.0/24", true, true),
            ("10.42.8.0/24", false, false),
            ("fd42::/48", false, false),
            ("tcp", true, false),
            ("icmp", false, true),
            ("udp", false, false),
            ("80", true, false),
            ("40000", true, true),
            ("81", false, false),
        ] {
            let filter: Filter = word.parse().expect(word);
            assert_eq!((filter.fits(&tcp), filter.fits(&icmp)), (fits_tcp, fits_icmp), "{word}");
        }
        for word in ["0", "65536", "sctp", "10.42.3", "", "10.42.3.2:80"] {
            assert!(word.parse::<Filter>().is_err(), "{word}");
        }
    }
}
