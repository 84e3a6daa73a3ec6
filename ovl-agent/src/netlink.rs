//! The kernel's own tables over rtnetlink.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ovl_common::Mac;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkMessage};
use rtnetlink::sys::AsyncSocket as _;
use tokio::task::JoinHandle;

use crate::family::Family;

mod address;
mod addresses;
mod devices;
mod dump;
mod fdb;
mod ip_tunnel;
mod ipsec;
mod leftovers;
mod link;
mod link_facts;
mod lookup;
mod main_table;
pub mod mark;
mod neighbour;
pub(crate) mod nfnetlink;
mod route;
mod rulesets;
mod shaping;
mod vxlan;
mod watch;
mod xdp;

pub use address::AddressTable;
pub use addresses::{NodeAddress, node_addresses};
pub(crate) use dump::{links, routes};
pub use fdb::FdbTable;
pub use ip_tunnel::{IpTunnelTable, has_ip_tunnel};
pub use ipsec::has_ipsec_policies;
pub use leftovers::{Leftover, left_by_flannel, left_in};
pub use link::DeviceTable;
pub(crate) use link_facts::LinkFacts;
pub use lookup::{Hop, lookup};
pub(crate) use lookup::{gateway as next_hop, ip};
pub use main_table::{MainRoute, NextHop, main_routes};
pub use neighbour::NeighbourTable;
pub use route::RouteTable;
pub use rulesets::watch_rulesets;
pub use shaping::shaped;
pub use watch::{KernelEvents, watch};
pub use xdp::xdp_program;

/// Opens a netlink socket in this process's network namespace. Needs a running tokio runtime.
pub fn connect() -> Result<Handle> {
    open().map(|open| open.handle)
}

/// A socket for requests.
#[derive(Debug)]
pub struct Open {
    /// What requests are made with.
    pub handle: Handle,
    /// The task behind it, which ends when the socket is of no more use.
    pub task: JoinHandle<()>,
    /// The socket's number, which the kernel's events name as the cause of most changes.
    pub port: u32,
}

/// As [`connect`], with all there is to know of the socket.
pub fn open() -> Result<Open> {
    let context = "cannot open a netlink socket";
    let (mut connection, handle, _messages) = rtnetlink::new_connection().context(context)?;
    let port = connection.socket_mut().socket_mut().bind_auto().context(context)?.port_number();
    Ok(Open { handle, task: tokio::spawn(connection), port })
}

/// An interface, as far as the agent cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: u32,
    /// Its MAC, where it has one of six bytes.
    pub mac: Mac,
    /// Whether its packets have an Ethernet header.
    pub ethernet: bool,
    /// Whether it is a veth.
    pub veth: bool,
    /// Whether its other end is in another namespace.
    pub peer_elsewhere: bool,
    /// Index of the bridge it is a port of.
    pub bridge: Option<u32>,
}

/// All interfaces by index.
pub async fn interfaces(handle: &Handle) -> Result<BTreeMap<u32, Interface>> {
    let messages = links(handle).await?;
    Ok(messages.iter().map(|message| (message.header.index, interface(message))).collect())
}

fn interface(message: &LinkMessage) -> Interface {
    let facts = LinkFacts::of(message);
    Interface {
        ifindex: facts.ifindex,
        name: facts.name.to_owned(),
        mtu: facts.mtu,
        mac: facts.mac,
        ethernet: facts.ethernet,
        veth: facts.kind() == Some(&InfoKind::Veth),
        peer_elsewhere: facts.peer_elsewhere,
        bridge: facts.controller,
    }
}

/// Six bytes as a MAC; anything else as zero, which no interface of ours has.
fn mac(bytes: &[u8]) -> Mac {
    Mac(bytes.try_into().unwrap_or_default())
}

/// The kernel's reason in its own words, without the dump of the request that `rtnetlink` prints.
pub(crate) fn describe(error: rtnetlink::Error) -> anyhow::Error {
    match code(&error) {
        Some(code) => anyhow::Error::new(std::io::Error::from_raw_os_error(code)),
        None => anyhow::Error::new(error),
    }
}

/// The errno of a refused request.
fn code(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        rtnetlink::Error::UnexpectedMessage(_)
        | rtnetlink::Error::RequestFailed
        | rtnetlink::Error::NamespaceError(_)
        | rtnetlink::Error::InvalidHardwareAddress(_)
        | rtnetlink::Error::InvalidIp(_)
        | rtnetlink::Error::InvalidAddress(..)
        | rtnetlink::Error::InvalidNla(_) => None,
    }
}

/// Deleting what is absent is a success; so is deleting it together with its device.
pub(crate) fn absent_is_success(result: Result<(), rtnetlink::Error>) -> Result<()> {
    const ABSENT: [i32; 4] =
        [nix::libc::ENOENT, nix::libc::ESRCH, nix::libc::ENODEV, nix::libc::EADDRNOTAVAIL];
    match result {
        Err(error) if code(&error).is_some_and(|code| ABSENT.contains(&code)) => Ok(()),
        other => other.map_err(describe),
    }
}

/// Does `request` with each item, many at a time: an answer is waited for while others are under way.
pub(crate) async fn pipelined<'a, I, O, F>(items: &'a [I], request: impl Fn(&'a I) -> F) -> Vec<O>
where
    F: Future<Output = O>,
{
    /// The kernel queues the answers in the socket's buffer, which holds some two hundred.
    const UNDER_WAY: usize = 64;
    futures_util::stream::iter(items.iter().map(request)).buffered(UNDER_WAY).collect().await
}

/// The family as netlink has it.
fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The index of the interface called `name`, where there is one.
async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>> {
    let mut found = handle.link().get().match_name(name).execute();
    match found.try_next().await {
        Ok(message) => Ok(message.map(|message| message.header.index)),
        Err(error) if code(&error) == Some(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(describe(error)).with_context(|| format!("cannot look up interface {name}")),
    }
}
