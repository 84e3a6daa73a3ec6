//! Questions about the machine around the kernel: files, tools, rights.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::feature::{Answer, Feature, NOT_PERMITTED};
use crate::family::Family;
use crate::{firewall, sysctl};

/// Numbers of capabilities (`linux/capability.h`).
const CAPABILITIES: [(Feature, u32); 4] =
    [(Feature::NetAdmin, 12), (Feature::SysAdmin, 21), (Feature::Perfmon, 38), (Feature::Bpf, 39)];

/// Everything that is asked this way.
pub(super) fn ask() -> BTreeMap<Feature, Answer> {
    let mut answers = BTreeMap::from([
        (Feature::BpfFs, bpf_fs()),
        (Feature::Nftables, nftables()),
        (Feature::NftTool, nft_tool()),
        (Feature::Conntrack, conntrack()),
        (Feature::LiberalConntrack, liberal_conntrack()),
        (Feature::Forwarding, forwarding(Family::V4)),
        (Feature::Ipv6Forwarding, forwarding(Family::V6)),
    ]);
    let rights = fs::read_to_string("/proc/thread-self/status").ok().and_then(|status| effective(&status));
    answers.extend(CAPABILITIES.map(|(feature, number)| {
        let answer = rights.map_or_else(
            || Answer::Unknown("/proc/thread-self/status does not say".to_owned()),
            |rights| Answer::plain(rights >> number & 1 == 1),
        );
        (feature, answer)
    }));
    answers
}

fn bpf_fs() -> Answer {
    match statfs("/sys/fs/bpf") {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => Answer::Yes,
        Ok(_) => Answer::No("not mounted".to_owned()),
        Err(error) => Answer::No(error.desc().to_owned()),
    }
}

fn nftables() -> Answer {
    let unknown = |error: anyhow::Error| match error.downcast_ref() {
        Some(Errno::EPERM) => NOT_PERMITTED.to_owned(),
        _ => format!("{error:#}"),
    };
    firewall::has_nftables().map_or_else(|error| Answer::Unknown(unknown(error)), Answer::plain)
}

fn nft_tool() -> Answer {
    let ran = Command::new("nft").arg("--version").stdin(Stdio::null()).output();
    match ran {
        Ok(output) if output.status.success() => Answer::Yes,
        Ok(output) => Answer::No(format!("`nft --version` ended with {}", output.status)),
        Err(error) if error.kind() == ErrorKind::NotFound => Answer::No("not installed".to_owned()),
        Err(error) => Answer::No(error.to_string()),
    }
}

/// Where it is not there, there is no asking without having rules.
fn conntrack() -> Answer {
    if Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists() {
        return Answer::Yes;
    }
    Answer::Unknown("not loaded; the chain that verifies flows has the kernel load it".to_owned())
}

fn liberal_conntrack() -> Answer {
    match sysctl::may_make_conntrack_liberal() {
        Ok(()) => Answer::Yes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Answer::Unknown("connection tracking is not loaded".to_owned())
        }
        Err(error) => Answer::No(error.to_string()),
    }
}

fn forwarding(family: Family) -> Answer {
    let absent = || Answer::No("there is no such setting".to_owned());
    sysctl::is_forwarding(family).map_or_else(absent, Answer::plain)
}

/// `CapEff` of proc(5), a bit for each capability.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_kernels_table() {
        assert_eq!(effective("CapPrm:\t0\nCapEff:\t0000008000001000\n"), Some(1 << 39 | 1 << 12));
        for text in ["", "CapEff:\tx\n", "CapInh:\t0000000000000000\n"] {
            assert_eq!(effective(text), None, "{text:?}");
        }
    }
}
