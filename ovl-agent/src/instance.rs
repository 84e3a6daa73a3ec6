//! One agent per overlay and network namespace.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Held while this process manages an overlay. The name belongs to the network namespace, as the devices do, and the
/// kernel frees it whatever way the process ends.
#[derive(Debug)]
pub struct Instance {
    _name: UnixListener,
}

/// What the name of a claim on firewall rules begins with; such a claim comes beside one on an overlay.
pub(crate) const FIREWALL: &str = "firewall/";

impl Instance {
    /// Claims `overlay` (the device's name, or the network's) for this process.
    pub fn claim(overlay: &str) -> Result<Self> {
        let name = SocketAddr::from_abstract_name(format!("ovl-agent/{overlay}"))
            .with_context(|| format!("'{overlay}' cannot name an overlay"))?;
        let listener = UnixListener::bind_addr(&name).with_context(|| {
            format!(
                "another ovl-agent already manages {overlay} in this network namespace; stop it first, \
                 or give this network a Network and a VNI of its own"
            )
        })?;
        Ok(Self { _name: listener })
    }
}

/// The processes called flanneld in our network namespace.
pub(crate) fn flannelds(proc: &Path) -> Result<Vec<u32>> {
    let namespace = |process: &str| fs::read_link(proc.join(process).join("ns/net"));
    let ours = namespace("thread-self").context("cannot tell our own network namespace")?;
    let own = std::process::id();
    let entries = fs::read_dir(proc).context("cannot list the processes")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let found = pids
        .filter(|pid| {
            let named = fs::read_to_string(proc.join(format!("{pid}/comm")))
                .is_ok_and(|name| name.trim_end() == "flanneld");
            // A process that ended meanwhile, or that we may not look at, is in no namespace of ours.
            *pid != own && named && namespace(&pid.to_string()).is_ok_and(|theirs| theirs == ours)
        })
        .collect();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_claimed_once_and_freed_with_its_holder() {
        let name = format!("test-{}", std::process::id());
        let first = Instance::claim(&name).expect("free");
        let error = Instance::claim(&name).expect_err("taken").to_string();
        assert!(error.contains(&name), "{error}");
        drop(first);
        Instance::claim(&name).expect("free again");
    }
}
