//! Installs the programs that a task uses, where they are missing.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{machine, shell};

/// A program and the Debian package that has it.
pub(crate) type Tool = (&'static str, &'static str);

/// What namespaces, pods and traffic between them need.
pub(crate) const NETWORK: &[Tool] = &[
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ss", "iproute2"),
    ("nsenter", "util-linux"),
    ("taskset", "util-linux"),
    ("sysctl", "procps"),
    ("ping", "iputils-ping"),
    ("iptables", "iptables"),
    // Without it no flow is verified.
    ("nft", "nftables"),
    ("iperf3", "iperf3"),
    ("sockperf", "sockperf"),
];

/// A real etcd.
pub(crate) const ETCD: &[Tool] = &[("etcd", "etcd-server"), ("etcdctl", "etcd-client")];

/// What the tests need besides.
pub(crate) const INSPECTION: &[Tool] = &[
    ("tc", "iproute2"),
    ("setpriv", "util-linux"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("conntrack", "conntrack"),
    ("socat", "socat"),
    ("bpftool", "bpftool"),
    ("sha256sum", "coreutils"),
];

/// What makes pods and containers in tests, and what the agent's image is made of.
pub(crate) const CONTAINERS: &[Tool] = &[
    ("capsh", "libcap2-bin"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    // Not on PATH, but where Debian has it.
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// What fetches other kernels and boots them.
pub(crate) const KERNELS: &[Tool] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("xargs", "findutils"),
];

/// Makes sure that the programs are there.
pub(crate) fn ensure(tools: &[&[Tool]]) -> Result<()> {
    let missing = tools
        .iter()
        .copied()
        .flatten()
        .copied()
        .filter(|(program, _)| machine::find_program(program).is_none());
    install_packages(&packages_of(missing))
}

/// Installs Debian packages; does nothing for an empty list.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    let by_hand = format!("apt-get install -y --no-install-recommends {names}");
    let Some(mut install) = machine::apt_get() else {
        bail!(
            "this needs the Debian packages {names} (or what holds the same programs elsewhere); as root: {by_hand}"
        );
    };
    // Never at the price of a package that the user has: rustc-web would displace rustc.
    install.args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages);
    let what = format!("installing {} (apt-get)", packages.join(", "));
    if knows_packages() && shell::run_quietly(&mut install, &what).is_ok() {
        return Ok(());
    }
    ovl_tests::interrupt::check()?;
    let mut update = machine::apt_get().context("find apt-get")?;
    shell::run_quietly(update.arg("update"), "fetching the package lists (apt-get)")?;
    shell::run_quietly(&mut install, &what)
        .with_context(|| format!("install the packages; by hand: {by_hand}"))
}

fn packages_of(tools: impl Iterator<Item = Tool>) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools.map(|(_, package)| package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// A fresh container image has no package lists at all.
fn knows_packages() -> bool {
    let lists = Path::new("/var/lib/apt/lists").read_dir();
    lists.is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_with_several_programs_is_named_once() {
        assert_eq!(
            packages_of(NETWORK.iter().copied()),
            [
                "iperf3",
                "iproute2",
                "iptables",
                "iputils-ping",
                "nftables",
                "procps",
                "sockperf",
                "util-linux"
            ]
        );
    }

    #[test]
    fn nothing_missing_needs_nothing() {
        ensure(&[&[("sh", "dash")]]).unwrap();
    }
}
