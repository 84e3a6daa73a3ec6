//! Every address of this node.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use super::describe;

/// An address and what the kernel thinks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Index of its interface.
    pub ifindex: u32,
    /// The address with the length of its prefix.
    pub net: IpNet,
    /// How far it means something.
    pub scope: AddressScope,
    /// `IFA_F_…`, all 32 bits.
    pub flags: AddressFlags,
}

impl NodeAddress {
    /// The address itself.
    pub fn address(&self) -> IpAddr {
        self.net.addr()
    }
}

/// All addresses of both families, in the kernel's order: by interface, IPv4's primary addresses before its secondary
/// ones, IPv6's newest first.
pub async fn node_addresses(handle: &Handle) -> Result<Vec<NodeAddress>> {
    let messages: Vec<AddressMessage> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(describe)
        .context("cannot list the addresses")?;
    Ok(messages.iter().filter_map(node_address).collect())
}

fn node_address(message: &AddressMessage) -> Option<NodeAddress> {
    let (mut local, mut address) = (None, None);
    // The header has the low eight bits only.
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        } else if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        }
    }
    // On a point-to-point link `Address` is the peer's; `Local` is ours wherever there is one.
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(NodeAddress { ifindex: message.header.index, net, scope: message.header.scope, flags })
}
