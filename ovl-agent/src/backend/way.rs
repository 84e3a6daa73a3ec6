//! Which way packets take to a peer: in which family outside, and in the tunnel or past it.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result as Checked, ensure};

use super::{Backend, Here};
use crate::family::{ByFamily, Family};
use crate::lease::LeaseAttrs;
use crate::network::Network;

/// The way of the packets of one family to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The peer's address that they are sent to, and so their family outside.
    pub node: IpAddr,
    /// The interface whose link the peer is on, where they are sent as they are; without one they take the tunnel.
    pub link: Option<Arc<str>>,
}

/// The family outside of packets of the family `inner`: their own where both nodes have it, as flannel does, else the
/// other where both have that. Both nodes come to the same answer.
pub(super) fn outer<T, U>(inner: Family, ours: &ByFamily<T>, theirs: &ByFamily<U>) -> Option<Family> {
    let both = |family: &Family| ours.get(*family).is_some() && theirs.get(*family).is_some();
    [inner, inner.other()].into_iter().find(both)
}

/// What a lease calls the data of the tunnel over one family.
pub(super) fn data_name(outer: Family) -> &'static str {
    match outer {
        Family::V4 => "BackendData",
        Family::V6 => "BackendV6Data",
    }
}

/// Whether Linux routes packets of one family through a next hop of another: IPv4 through IPv6 (`RTA_VIA`, since 5.2),
/// but not IPv6 through IPv4.
fn can_route(inner: Family, outer: Family) -> bool {
    inner == outer || inner == Family::V4
}

/// Whether a node with these addresses can route to peers in all families of the network.
pub(super) fn check_routes(backend: &str, network: &Network, public_ips: &ByFamily<IpAddr>) -> Checked<()> {
    for (inner, _) in network.pools.iter() {
        let mut ends = public_ips.iter().map(|(family, _)| family);
        ensure!(
            ends.any(|family| can_route(inner, family)),
            "{backend} cannot carry {inner} over {other}: Linux has no {inner} routes through {other} next hops; give \
             this node an {inner} address and let --underlay-family be both or same, or use vxlan",
            other = inner.other()
        );
    }
    Ok(())
}

impl Backend {
    /// The way of packets of the family `inner` to the node that this lease is of.
    ///
    /// # Errors
    /// Why there is none, as a sentence about the lease.
    pub fn way(&self, inner: Family, attrs: &LeaseAttrs, here: &Here<'_>) -> Result<Way, String> {
        let is_usable = |family: Family| match self {
            Self::Vxlan(_) | Self::Udp(_) => true,
            Self::HostGw(_) | Self::Ipip(_) | Self::Alloc => can_route(inner, family),
        };
        let only = |ends: ByFamily<IpAddr>| {
            ByFamily::from_fn(|family| ends.get(family).copied().filter(|_| is_usable(family)))
        };
        let theirs = self.ends(attrs);
        let family = outer(inner, &only(here.node.public_ips), &only(theirs));
        let node = family.and_then(|family| theirs.get(family).copied());
        let node = node.ok_or_else(|| self.no_way(inner, attrs, &here.node.public_ips))?;
        let link = match self {
            Self::HostGw(_) => Some(Arc::clone(&here.underlay)),
            Self::Vxlan(_) | Self::Ipip(_) if self.wants_on_link() && can_route(inner, Family::of(node)) => {
                here.on_link.get(&node).cloned()
            }
            Self::Vxlan(_) | Self::Ipip(_) | Self::Udp(_) | Self::Alloc => None,
        };
        Ok(Way { node, link })
    }

    /// The addresses of a peer that packets can be sent to: where there is a tunnel, those that have an end of one.
    fn ends(&self, attrs: &LeaseAttrs) -> ByFamily<IpAddr> {
        ByFamily::from_fn(|family| {
            let is_end = !matches!(self, Self::Vxlan(_)) || attrs.backend_data(family).is_some();
            attrs.public_ip(family).filter(|_| is_end)
        })
    }

    fn no_way(&self, inner: Family, attrs: &LeaseAttrs, ours: &ByFamily<IpAddr>) -> String {
        let theirs = self.ends(attrs);
        let lacks = match attrs.public_ip(inner) {
            Some(_) => format!("it has no {}", data_name(inner)),
            None => format!("it has no public {inner} address"),
        };
        let other = inner.other();
        if theirs.get(inner).is_none() && theirs.get(other).is_none() {
            lacks
        } else if theirs.get(inner).is_none() && ours.get(other).is_some() {
            // Both have that one, so it is the backend that cannot use it.
            format!(
                "{lacks}, and {} cannot carry {inner} over {other}: Linux has no {inner} routes through {other} next \
                 hops; give the node an {inner} address, or use vxlan",
                self.name()
            )
        } else {
            format!(
                "it is reached at {theirs} only, and this node at {ours} only; start one of the two with \
                 --underlay-family both"
            )
        }
    }
}

#[cfg(test)]
mod tests;
