//! How the kernel would reach an address.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{code, describe};
use crate::family::Family;

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the interface; that of `lo` for this node's own addresses.
    pub ifindex: u32,
    /// The gateway; none where the address is on the interface's own link.
    pub gateway: Option<IpAddr>,
    /// The address that this node would send from.
    pub source: Option<IpAddr>,
    /// Whether the kernel named only this one way.
    pub single: bool,
}

/// Asks the kernel's routing tables and rules for the way to `to`; `None` where there is none.
pub async fn lookup(handle: &Handle, to: IpAddr) -> Result<Option<Hop>> {
    // How routes that are there to say no answer, and how a kernel does that has no IPv6.
    const NO_WAY: [i32; 6] = [
        nix::libc::ENETUNREACH,
        nix::libc::EHOSTUNREACH,
        nix::libc::EACCES,
        nix::libc::EINVAL,
        nix::libc::EAFNOSUPPORT,
        nix::libc::EOPNOTSUPP,
    ];
    let question =
        RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, Family::of(to).bits())?.build();
    let answer: Result<Vec<RouteMessage>, _> = handle.route().get(question).execute().try_collect().await;
    match answer {
        Ok(messages) => Ok(hop(&messages)),
        Err(error) if code(&error).is_some_and(|code| NO_WAY.contains(&code)) => Ok(None),
        Err(error) => Err(describe(error)).with_context(|| format!("cannot look up the route to {to}")),
    }
}

fn hop(messages: &[RouteMessage]) -> Option<Hop> {
    let message = messages.first()?;
    if !matches!(message.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let mut ifindex = None;
    let mut hop = Hop { ifindex: 0, gateway: None, source: None, single: messages.len() == 1 };
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            ifindex = Some(*index);
        } else if let RouteAttribute::PrefSource(address) = attribute {
            hop.source = ip(address);
        } else if let Some(gateway) = gateway(attribute) {
            hop.gateway = Some(gateway);
        }
    }
    Some(Hop { ifindex: ifindex?, ..hop })
}

/// The gateway that an attribute names; IPv4 routes can have an IPv6 gateway.
pub(crate) fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    if let RouteAttribute::Gateway(address) = attribute {
        ip(address)
    } else if let RouteAttribute::Via(RouteVia::Inet(address)) = attribute {
        Some((*address).into())
    } else if let RouteAttribute::Via(RouteVia::Inet6(address)) = attribute {
        Some((*address).into())
    } else {
        None
    }
}

/// An address of a route, where it is of either family.
pub(crate) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some((*address).into())
    } else if let RouteAddress::Inet6(address) = address {
        Some((*address).into())
    } else {
        None
    }
}
