//! Installs the programs that a task uses, where they are missing.

use std::path::Path;
use std::process::Command;

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

/// What fetches other kernels and packs what they boot into.
pub(crate) const KERNELS: &[Tool] = &[
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
    with_lists(|| shell::run_quietly(&mut install, &what))
        .with_context(|| format!("install the packages; by hand: {by_hand}"))
}

/// Does what takes lists of packages; where that fails, again with lists of now: what the old ones name may be gone.
fn with_lists(mut work: impl FnMut() -> Result<()>) -> Result<()> {
    if knows_packages() && work().is_ok() {
        return Ok(());
    }
    ovl_tests::interrupt::check()?;
    let mut update = machine::apt_get().context("this needs apt-get, and the right to use it")?;
    shell::run_quietly(update.arg("update"), "fetching the package lists (apt-get)")?;
    work()
}

/// Fetches a Debian package, and those that it needs and this machine lacks, into `folder`, and installs nothing.
pub(crate) fn download_package(package: &str, folder: &Path) -> Result<()> {
    if machine::find_program("apt-get").is_none() {
        bail!("this needs the Debian package {package} (or what holds the same programs elsewhere)");
    }
    let what = format!("downloading {package} (apt-get)");
    with_lists(|| {
        let plan = ["install", "--simulate", "--no-install-recommends", package];
        let plan =
            shell::ask("apt-get", &plan).with_context(|| format!("apt-get knows no way to {package}"))?;
        let mut download = Command::new("apt-get");
        download.arg("download").args(to_be_installed(&plan)).current_dir(folder);
        shell::run_quietly(&mut download, &what)
    })
    .with_context(|| format!("download {package}; by hand: apt-get install {package}"))
}

/// Takes the Debian packages in `folder` apart into `root`.
pub(crate) fn unpack_packages(folder: &Path, root: &Path) -> Result<()> {
    for package in folder.read_dir().context("list the packages")? {
        let package = package.context("list the packages")?.path();
        shell::run(Command::new("dpkg-deb").arg("-x").args([&package, root]))?;
    }
    Ok(())
}

/// The packages that `apt-get install --simulate` says it would install.
fn to_be_installed(plan: &str) -> Vec<&str> {
    plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next()).collect()
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
    fn a_plan_names_what_it_would_install() {
        let plan = "Reading package lists...\nRemv qemu-utils [1:10.0]\nInst seabios (1.16.2-1 Debian:12 [all])\n\
                    Inst libusb [1.0] (1.1 Debian:12 [amd64])\nConf seabios (1.16.2-1 Debian:12 [all])\n";
        assert_eq!(to_be_installed(plan), ["seabios", "libusb"]);
    }

    #[test]
    fn nothing_missing_needs_nothing() {
        ensure(&[&[("sh", "dash")]]).unwrap();
    }
}
