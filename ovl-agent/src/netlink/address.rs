//! Addresses of the overlay device.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

use super::{absent_is_success, code, describe, index_of, ipv4};
use crate::table::Table;

/// The addresses of one device that lie inside the overlay's range.
#[derive(Debug)]
pub struct AddressTable {
    handle: Handle,
    device: String,
    network: Ipv4Net,
}

impl AddressTable {
    /// The addresses of `device` inside `network`.
    pub fn new(handle: Handle, device: String, network: Ipv4Net) -> Self {
        Self { handle, device, network }
    }
}

impl Table for AddressTable {
    type Key = Ipv4Net;
    type Row = ();

    fn name(&self) -> &'static str {
        "address"
    }

    async fn rows(&mut self) -> Result<BTreeMap<Ipv4Net, ()>> {
        let Some(index) = index_of(&self.handle, &self.device).await? else { return Ok(BTreeMap::new()) };
        let all = addresses(&self.handle).await?;
        let ours =
            all.into_iter().filter(|(ifindex, net)| *ifindex == index && self.network.contains(&net.addr()));
        Ok(ours.map(|(_, net)| (net, ())).collect())
    }

    async fn put(&mut self, net: &Ipv4Net, (): &()) -> Result<()> {
        let context = || format!("cannot add address {net} to {}", self.device);
        let index = index_of(&self.handle, &self.device)
            .await?
            .with_context(|| format!("{} is gone", self.device))?;
        match self.handle.address().add(index, net.addr().into(), net.prefix_len()).execute().await {
            Err(error) if code(&error) == Some(nix::libc::EEXIST) => Ok(()),
            other => other.map_err(describe).with_context(context),
        }
    }

    async fn delete(&mut self, net: &Ipv4Net) -> Result<()> {
        let Some(index) = index_of(&self.handle, &self.device).await? else { return Ok(()) };
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.index = index;
        message.header.prefix_len = net.prefix_len();
        message.attributes.push(AddressAttribute::Local(net.addr().into()));
        absent_is_success(self.handle.address().del(message).execute().await)
            .with_context(|| format!("cannot remove address {net} from {}", self.device))
    }
}

/// Every IPv4 address of this node, with the index of its interface, in the kernel's order.
pub async fn addresses(handle: &Handle) -> Result<Vec<(u32, Ipv4Net)>> {
    let messages: Vec<AddressMessage> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(describe)
        .context("cannot list the addresses")?;
    Ok(messages.iter().filter_map(address).collect())
}

fn address(message: &AddressMessage) -> Option<(u32, Ipv4Net)> {
    // On a point-to-point link `Address` is the peer's; `Local` is ours wherever there is one.
    let mut local: Option<Ipv4Addr> = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            local = ipv4(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            local = local.or(ipv4(*address));
        }
    }
    Some((message.header.index, Ipv4Net::new(local?, message.header.prefix_len).ok()?))
}
