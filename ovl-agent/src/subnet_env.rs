//! `subnet.env`: how the CNI plugin and Docker learn the node's subnet (FLANNEL.md 6.1).

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The overlay's whole range.
    pub network: Ipv4Net,
    /// The node's subnet.
    pub subnet: Ipv4Net,
    /// MTU of the pods.
    pub mtu: u32,
}

impl SubnetEnv {
    /// The file's bytes, in flannel's order. The subnet line has the gateway's address: the subnet's first plus one.
    pub fn render(&self) -> String {
        let gateway = std::net::Ipv4Addr::from_bits(self.subnet.addr().to_bits().wrapping_add(1));
        format!(
            "FLANNEL_NETWORK={}\nFLANNEL_SUBNET={gateway}/{}\nFLANNEL_MTU={}\nFLANNEL_IPMASQ=false\n",
            self.network,
            self.subnet.prefix_len(),
            self.mtu
        )
    }

    /// Replaces the file atomically; a reader sees the old one or the new one.
    pub fn write(&self, path: &Path) -> Result<()> {
        let context = || format!("cannot write {}", path.display());
        let folder = path.parent().with_context(|| format!("{} is not a file's path", path.display()))?;
        std::fs::create_dir_all(folder).with_context(context)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(context)?;
        file.write_all(self.render().as_bytes()).with_context(context)?;
        file.as_file().set_permissions(Permissions::from_mode(0o644)).with_context(context)?;
        file.persist(path).with_context(context)?;
        Ok(())
    }
}

/// The subnet that the file of an earlier run names, where there is one.
pub fn previous_subnet(path: &Path) -> Option<Ipv4Net> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut subnets = text.lines().filter_map(|line| line.trim().strip_prefix("FLANNEL_SUBNET="));
    let subnet: Ipv4Net = subnets.next()?.parse().ok()?;
    // More than one is none, as flannel reads it.
    subnets.next().is_none().then(|| subnet.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_flannels_bytes_and_is_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deep/subnet.env");
        let env = SubnetEnv {
            network: "10.77.0.0/16".parse().expect("valid"),
            subnet: "10.77.18.0/25".parse().expect("valid"),
            mtu: 1450,
        };
        assert_eq!(previous_subnet(&path), None);
        env.write(&path).expect("written");
        assert_eq!(
            std::fs::read_to_string(&path).expect("read"),
            "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.18.1/25\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
        );
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o644);
        assert_eq!(previous_subnet(&path), Some(env.subnet));
    }

    #[test]
    fn a_damaged_file_names_no_subnet() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("subnet.env");
        for text in [
            "",
            "FLANNEL_SUBNET=",
            "FLANNEL_SUBNET=10.1.2.1",
            "FLANNEL_SUBNET=10.1.2.1/24\nFLANNEL_SUBNET=10.1.3.1/24\n",
        ] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(previous_subnet(&path), None, "{text:?}");
        }
    }
}
