//! What flags can be set to.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use super::go::integer;
use crate::family::{ByFamily, Family};

/// A flag that may be left empty, which is the same as not giving it: unit files have `--public-ip=${PUBLIC_IP}`.
/// Under its own name, `Option` means something else to clap.
pub(super) type Maybe<T> = Option<T>;

/// Parses what is not empty.
pub(super) fn unless_empty<T: FromStr>(text: &str) -> Result<Maybe<T>, T::Err> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// An address to listen on. Nothing means all of them to Go, as `::` does to the kernel.
pub(super) fn listen_ip(text: &str) -> Result<IpAddr, AddrParseError> {
    if text.is_empty() { Ok(Ipv6Addr::UNSPECIFIED.into()) } else { text.parse() }
}

/// A port to listen on. flanneld listens where it is above 0.
pub(super) fn listen_port(text: &str) -> Result<u16, String> {
    let port = integer::<i64>(text, i64::MIN..=i64::from(u16::MAX));
    let port = port.map_err(|_error| "expected a port, or 0 for none".to_owned())?;
    Ok(u16::try_from(port).unwrap_or(0))
}

/// Who moves the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// eBPF where it works, else the kernel's own devices.
    Auto,
    /// eBPF; where it does not work, a warning and the kernel's own devices.
    Ebpf,
    /// The kernel's own devices only.
    Kernel,
}

/// When packets may take the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FastPath {
    /// Never; the programs only count.
    Off,
    /// Whenever sender and receiver are known. Netfilter does not see these packets.
    Always,
    /// When netfilter has accepted the flow in both directions, and has lately.
    Verified,
}

impl FastPath {
    /// The name of the option's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Always => "always",
            Self::Verified => "verified",
        }
    }
}

/// Where tunnels are stripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Xdp {
    /// At tc alone.
    Off,
    /// By XDP in native mode where that helps, which the device's driver and its settings say.
    Auto,
    /// By XDP in native mode.
    Native,
    /// By XDP in generic mode, which every device has; slower than at tc.
    Skb,
}

impl Xdp {
    /// The name of the option's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Skb => "skb",
        }
    }
}

/// The families of the packets between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnderlayFamily {
    /// Those of the network, each in its own.
    Same,
    /// IPv4, which carries IPv6, too.
    Ipv4,
    /// IPv6, which carries IPv4, too.
    Ipv6,
    /// Both, whatever the network has.
    Both,
}

impl UnderlayFamily {
    /// The families that a node uses outside in a network that has those of `network` inside.
    pub fn families<T>(self, network: &ByFamily<T>) -> Vec<Family> {
        match self {
            Self::Same => network.iter().map(|(family, _)| family).collect(),
            Self::Ipv4 => vec![Family::V4],
            Self::Ipv6 => vec![Family::V6],
            Self::Both => Family::ALL.to_vec(),
        }
    }
}

/// What becomes of packets whose source is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceCheck {
    /// They are left to the kernel.
    Off,
    /// Dropped: tunnel packets that come from no node, and packets with another node's pods' addresses.
    Loose,
    /// Dropped besides: whatever does not come from the sender's own subnet.
    Strict,
}

impl SourceCheck {
    /// The names of the option's values.
    pub const NAMES: [&str; 3] = ["off", "loose", "strict"];

    /// The name of the option's value.
    pub fn name(self) -> &'static str {
        let [off, loose, strict] = Self::NAMES;
        match self {
            Self::Off => off,
            Self::Loose => loose,
            Self::Strict => strict,
        }
    }
}

/// The one bit of `skb->mark` for packets that netfilter accepted.
pub(super) fn mark(text: &str) -> Result<u32, String> {
    // What kube-proxy marks packets with that it will masquerade, or drop.
    const KUBE_PROXY: [u32; 2] = [0x4000, 0x8000];
    let mark: u32 = integer(text, 1..=i64::from(u32::MAX))?;
    if !mark.is_power_of_two() {
        return Err("expected one bit, such as 0x2000".to_owned());
    }
    if KUBE_PROXY.contains(&mark) {
        return Err("kube-proxy uses this bit; choose another, such as 0x2000".to_owned());
    }
    Ok(mark)
}

/// A store other than etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreArg {
    /// A directory.
    Dir(PathBuf),
}

impl FromStr for StoreArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("dir", path)) if path.starts_with('/') => Ok(Self::Dir(path.into())),
            Some(("dir", _)) => Err("the path after dir: must be absolute".to_owned()),
            _ => Err("expected dir:PATH, such as dir:/var/lib/ovl".to_owned()),
        }
    }
}

/// A password. It is printed by nothing but [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
