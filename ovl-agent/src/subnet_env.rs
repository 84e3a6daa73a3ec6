//! `subnet.env`: how the CNI plugin and Docker learn the node's subnet (FLANNEL.md 6.1).

use std::path::Path;

use ipnet::IpNet;

use crate::family::{ByFamily, Family};
use crate::network::{from_bits, to_bits};

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The overlay's whole range of each family it has.
    pub networks: ByFamily<IpNet>,
    /// The node's subnets.
    pub subnets: ByFamily<IpNet>,
    /// MTU of the pods.
    pub mtu: u32,
    /// Whether this agent masquerades; else the CNI plugin should.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// The file's bytes, in flannel's order. A subnet's line has the gateway's address: the subnet's first plus one.
    pub fn render(&self) -> String {
        let mut lines = Vec::new();
        for (family, prefix) in [(Family::V4, "FLANNEL_"), (Family::V6, "FLANNEL_IPV6_")] {
            if let Some(network) = self.networks.get(family)
                && let Some(subnet) = self.subnets.get(family)
            {
                let gateway = from_bits(family, to_bits(subnet.addr()).wrapping_add(1));
                lines.push(format!("{prefix}NETWORK={network}"));
                lines.push(format!("{prefix}SUBNET={gateway}/{}", subnet.prefix_len()));
            }
        }
        lines.push(format!("FLANNEL_MTU={}", self.mtu));
        lines.push(format!("FLANNEL_IPMASQ={}\n", self.ip_masq));
        lines.join("\n")
    }
}

/// What the file of an earlier run names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    /// The overlay's ranges.
    pub networks: ByFamily<IpNet>,
    /// The node's subnets.
    pub subnets: ByFamily<IpNet>,
}

/// Reads the file of an earlier run; what is absent or damaged is none.
pub fn previous(path: &Path) -> Previous {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let of = |name: &str, family| {
        let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        // Several entries are none, and what is no range is passed over, as flannel reads it.
        let mut nets = values.next_back()?.split(',').filter_map(|net| net.trim().parse::<IpNet>().ok());
        let net = nets.next()?;
        (nets.next().is_none() && Family::of_net(&net) == family).then(|| net.trunc())
    };
    let both = |v4, v6| ByFamily { v4: of(v4, Family::V4), v6: of(v6, Family::V6) };
    Previous {
        networks: both("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"),
        subnets: both("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::file;

    fn nets(v4: &str, v6: &str) -> ByFamily<IpNet> {
        ByFamily { v4: v4.parse().ok(), v6: v6.parse().ok() }
    }

    #[test]
    fn the_file_has_flannels_bytes_and_is_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deep/subnet.env");
        assert_eq!(previous(&path), Previous::default());
        let (v4, v6) = (("10.77.0.0/16", "10.77.18.0/25"), ("fd77::/48", "fd77:0:0:5::/64"));
        let v4_lines = "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.18.1/25\n";
        let v6_lines = "FLANNEL_IPV6_NETWORK=fd77::/48\nFLANNEL_IPV6_SUBNET=fd77:0:0:5::1/64\n";
        let rest = "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        let table = [
            (nets(v4.0, ""), nets(v4.1, ""), format!("{v4_lines}{rest}")),
            (nets("", v6.0), nets("", v6.1), format!("{v6_lines}{rest}")),
            (nets(v4.0, v6.0), nets(v4.1, v6.1), format!("{v4_lines}{v6_lines}{rest}")),
        ];
        for (networks, subnets, text) in table {
            let env = SubnetEnv { networks, subnets, mtu: 1450, ip_masq: true };
            file::replace(&path, &env.render()).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
            assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o644);
            assert_eq!(previous(&path), Previous { networks, subnets });
        }
    }

    #[test]
    fn a_damaged_file_names_no_subnet() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("subnet.env");
        for text in [
            "",
            "FLANNEL_SUBNET=",
            "FLANNEL_SUBNET=10.1.2.1",
            "FLANNEL_SUBNET=10.1.2.1/24,10.1.3.1/24\n",
            "FLANNEL_SUBNET=fd77::1/64",
            "XFLANNEL_SUBNET=10.1.2.1/24",
            "FLANNEL_IPV6_SUBNET=10.1.2.1/24",
        ] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(previous(&path), Previous::default(), "{text:?}");
        }
    }
}
