//! Permanent neighbours on the overlay device: which MAC a peer's subnet is behind.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ovl_common::Mac;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::{absent_is_success, describe, index_of, mac};
use crate::table::Table;

/// The permanent IPv4 neighbours of one device.
#[derive(Debug)]
pub struct NeighbourTable {
    handle: Handle,
    device: String,
}

impl NeighbourTable {
    /// The neighbours on `device`.
    pub fn new(handle: Handle, device: String) -> Self {
        Self { handle, device }
    }
}

impl Table for NeighbourTable {
    type Key = Ipv4Addr;
    type Row = Mac;

    fn name(&self) -> &'static str {
        "neighbour"
    }

    async fn rows(&mut self) -> Result<BTreeMap<Ipv4Addr, Mac>> {
        let Some(index) = index_of(&self.handle, &self.device).await? else { return Ok(BTreeMap::new()) };
        let messages: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .set_address_family(AddressFamily::Inet)
            .execute()
            .try_collect()
            .await
            .map_err(describe)?;
        let ours = messages.iter().filter(|message| {
            message.header.ifindex == index && message.header.state == NeighbourState::Permanent
        });
        Ok(ours.filter_map(row).collect())
    }

    async fn put(&mut self, address: &Ipv4Addr, mac: &Mac) -> Result<()> {
        let context = || format!("cannot add neighbour {address} ({mac}) on {}", self.device);
        let index = index_of(&self.handle, &self.device).await?.with_context(context)?;
        let request = self
            .handle
            .neighbours()
            .add(index, IpAddr::V4(*address))
            .link_layer_address(&mac.0)
            .state(NeighbourState::Permanent)
            .replace();
        request.execute().await.map_err(describe).with_context(context)
    }

    async fn delete(&mut self, address: &Ipv4Addr) -> Result<()> {
        let Some(index) = index_of(&self.handle, &self.device).await? else { return Ok(()) };
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(*address)));
        absent_is_success(self.handle.neighbours().del(message).execute().await)
            .with_context(|| format!("cannot remove neighbour {address} on {}", self.device))
    }
}

fn row(message: &NeighbourMessage) -> Option<(Ipv4Addr, Mac)> {
    let mut address = None;
    let mut link_layer = None;
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) = attribute {
            address = Some(*v4);
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            link_layer = Some(mac(bytes));
        }
    }
    Some((address?, link_layer?))
}
