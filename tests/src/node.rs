//! A node: a network namespace with `eth0` on the underlay, and its own `/sys`, as a machine would have.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::background::Background;
use crate::command::{Cmd, Place};
use crate::families::Families;
use crate::links;
use crate::netns::Netns;
use crate::pod::Pod;
use crate::subnet::SubnetEnv;
use crate::underlay::{Network, Stack, UnderlayAddress};
use crate::wait::wait_for;

/// The pod bridge, named as the CNI bridge plugin names it.
pub const POD_BRIDGE: &str = "cni0";

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    name: String,
    netns: Netns,
    mounts: File,
    seat: Seat,
    dir: PathBuf,
    traits: Traits,
    next_pod: AtomicU32,
}

/// A node's place on the underlay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) network: &'static Network,
    /// Its number there, which is also that of its port on the switch.
    pub(crate) host: u8,
    pub(crate) addresses: Families<UnderlayAddress>,
}

/// What all namespaces of a topology have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) mtu: u32,
    pub(crate) stack: Stack,
    pub(crate) plain_packets: bool,
}

impl Node {
    /// Creates the namespace; the topology then plugs `eth0` in and calls [`Node::bring_up`].
    pub(crate) fn create(prefix: &str, name: &str, seat: Seat, dir: &Path, traits: Traits) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create the node's directory {}", dir.display()))?;
        let netns = Netns::create(&format!("{prefix}-{name}"))?;
        netns.sysctl(&[
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv6.conf.all.forwarding=1",
        ])?;
        traits.prepare_ipv6(&netns)?;
        let mounts = own_sys(&netns)?;
        Ok(Self {
            name: name.to_owned(),
            netns,
            mounts,
            seat,
            dir: dir.to_owned(),
            traits,
            next_pod: AtomicU32::new(0),
        })
    }

    /// Gives `eth0` its MTU, addresses and default routes.
    pub(crate) fn bring_up(&self) -> Result<()> {
        self.netns.ip(&format!("link set eth0 mtu {} up", self.traits.mtu))?;
        for place in self.seat.addresses.iter() {
            self.netns.ip(&format!("address add {place} dev eth0"))?;
            // Nobody answers there without a switch, but every real node has a default route and agents look for one.
            self.netns.ip(&format!("route add default via {} dev eth0", place.gateway))?;
        }
        if self.traits.plain_packets {
            links::make_packets_plain(&self.netns, "eth0")?;
        }
        Ok(())
    }

    /// The short name, such as `node1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The address of `eth0`, the IPv4 one where it has one.
    pub fn address(&self) -> IpAddr {
        self.seat.addresses.first().address
    }

    /// The IPv6 address of `eth0`.
    pub fn address6(&self) -> Option<Ipv6Addr> {
        match self.seat.addresses.ipv6()?.address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    /// The addresses of `eth0` with what belongs to them.
    pub fn addresses(&self) -> &Families<UnderlayAddress> {
        &self.seat.addresses
    }

    /// The MTU of `eth0` when it is plugged in.
    pub(crate) fn mtu(&self) -> u32 {
        self.traits.mtu
    }

    /// Where it is plugged in.
    pub(crate) fn seat(&self) -> Seat {
        self.seat
    }

    /// The node's directory on the host, for logs, sockets and `subnet.env`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Inside the node: its network, and its own `/sys` with a BPF file system that outlives every agent.
    pub fn place(&self) -> Place {
        let mounts = format!("/proc/{}/fd/{}", std::process::id(), self.mounts.as_raw_fd());
        self.netns.place().with_mounts(Path::new(&mounts))
    }

    /// Starts to describe a command that runs inside the node.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        self.place().command(program)
    }

    /// A network namespace for a pod whose network somebody else makes.
    pub(crate) fn bare_pod(&self, name: &str) -> Result<Netns> {
        let netns = Netns::create(&format!("{}-{name}", self.netns.name()))?;
        self.traits.prepare_ipv6(&netns)?;
        Ok(netns)
    }

    /// Adds a pod with the next free address of `subnet`.
    pub fn add_pod(&self, name: &str, subnet: &SubnetEnv) -> Result<Pod> {
        self.add_pod_at(name, subnet, self.next_pod.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a pod at a chosen place of `subnet`, counted from zero: for tests that use an address again.
    pub fn add_pod_at(&self, name: &str, subnet: &SubnetEnv, index: u32) -> Result<Pod> {
        self.next_pod.fetch_max(index + 1, Ordering::Relaxed);
        self.ensure_bridge(subnet)?;
        Pod::create(self, name, subnet, index, self.traits)
            .with_context(|| format!("add pod {name} to {}", self.name))
    }

    /// Leaves the node in place when the guard goes away.
    pub fn keep(&mut self) {
        self.netns.keep();
    }

    /// Makes `cni0` as the bridge plugin does when the first pod comes.
    fn ensure_bridge(&self, subnet: &SubnetEnv) -> Result<()> {
        if links::exists(&self.netns, POD_BRIDGE)? {
            return Ok(());
        }
        self.netns.ip(&format!("link add {POD_BRIDGE} mtu {} type bridge", subnet.mtu))?;
        // A bridge without an address of its own takes its ports' lowest and changes it as pods come and go, while pods
        // remember the old one. It must be another than the bridge has: on 5.10 one that is set again never gets into
        // the forwarding table, and packets to it are lost.
        let mac = bridge_mac(subnet.subnets.first().gateway);
        self.netns.ip(&format!("link set {POD_BRIDGE} address {mac} up"))?;
        for subnet in subnet.subnets.iter() {
            self.netns
                .ip(&format!("address add {}/{} dev {POD_BRIDGE}", subnet.gateway, subnet.prefix_len))?;
        }
        Ok(())
    }
}

impl Traits {
    /// Keeps IPv6's own chatter out of counters and captures where the topology has no IPv6; where it has, addresses
    /// are usable at once.
    pub(crate) fn prepare_ipv6(self, netns: &Netns) -> Result<()> {
        if self.stack == Stack::Ipv4 {
            return netns
                .sysctl(&["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]);
        }
        netns.sysctl(&[
            "net.ipv6.conf.all.accept_dad=0",
            "net.ipv6.conf.default.accept_dad=0",
            "net.ipv6.conf.default.router_solicitations=0",
        ])
    }
}

/// The MAC of a bridge that has this address, formed as the CNI bridge plugin used to do.
fn bridge_mac(gateway: IpAddr) -> String {
    let [a, b, c, d] = match gateway {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
    };
    format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// A mount namespace with the `/sys` of `netns` and a BPF file system, held by the returned descriptor.
fn own_sys(netns: &Netns) -> Result<File> {
    const SCRIPT: &str =
        "mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && echo mounted && exec sleep infinity";
    let command = netns.command("unshare").words("--mount --propagation slave -- sh -c").arg(SCRIPT);
    let mut holder = Background::start_unnamed(&command)?;
    wait_for("the node's own /sys", Duration::from_secs(10), || {
        Ok(holder.log().contains("mounted") || holder.try_status()?.is_some())
    })?;
    let pid = holder.pid().context("the holder of the mounts has no process id")?;
    let mounts = File::open(format!("/proc/{pid}/ns/mnt"))
        .with_context(|| format!("mount /sys for {}: {}", netns.name(), holder.log().trim()))?;
    holder.stop(Signal::SIGKILL, Duration::from_secs(5))?;
    Ok(mounts)
}
