//! Who still manages an overlay in this network namespace.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::instance::{FIREWALL, flannelds};

/// The start of the names that running agents hold (`instance.rs`), as `/proc/net/unix` shows them.
const CLAIM: &str = "@ovl-agent/";

/// A phrase for each of them. flanneld is found only where its process can be seen: not from inside a container with
/// process ids of its own.
pub(super) fn managers() -> Result<Vec<String>> {
    let sockets = fs::read_to_string("/proc/net/unix").context("cannot read /proc/net/unix")?;
    let claims = claims(&sockets);
    let mut managers = Vec::new();
    if !claims.is_empty() {
        let claims = claims.into_iter().collect::<Vec<_>>().join(", ");
        managers.push(format!("an ovl-agent manages {claims}"));
    }
    managers.extend(
        flannelds(Path::new("/proc"))?.into_iter().map(|pid| format!("flanneld runs (process {pid})")),
    );
    Ok(managers)
}

/// The claimed names in the kernel's list of sockets: the eighth column, where there is one.
fn claims(sockets: &str) -> BTreeSet<&str> {
    let names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7));
    let claims = names.filter_map(|name| name.strip_prefix(CLAIM));
    claims.filter(|claim| !claim.starts_with(FIREWALL)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn claims_are_read_from_the_kernels_list() {
        let sockets = "\
Num       RefCount Protocol Flags    Type St Inode Path
ffff88810a: 00000002 00000000 00010000 0001 01 40001 @ovl-agent/flannel.1
ffff88810b: 00000002 00000000 00010000 0001 01 40002 @ovl-agent/10.42.0.0/16
ffff88810c: 00000003 00000000 00000000 0001 03 40003
ffff88810d: 00000002 00000000 00010000 0001 01 40004 /run/ovl-agent/agent.sock
ffff888109: 00000002 00000000 00010000 0001 01 40005 @ovl-agent/firewall/flannel.1
ffff88810e: 00000002 00000000 00010000 0001 01 40005 @other/ovl-agent/x
";
        assert_eq!(claims(sockets).into_iter().collect::<Vec<_>>(), ["10.42.0.0/16", "flannel.1"]);
        assert!(claims("").is_empty());
    }

    #[test]
    fn a_flanneld_of_this_namespace_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = |name: &str, comm: &str, namespace: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.join("ns")).expect("created");
            fs::write(path.join("comm"), format!("{comm}\n")).expect("written");
            symlink(namespace, path.join("ns/net")).expect("linked");
        };
        process("thread-self", "ovl-agent", "net:[1]");
        process("100", "flanneld", "net:[1]");
        process("200", "flanneld", "net:[2]");
        process("300", "flanneldd", "net:[1]");
        process("not-a-process", "flanneld", "net:[1]");
        assert_eq!(flannelds(folder.path()).expect("listed"), [100]);
    }
}
