//! The overlay device's forwarding entries: which node a MAC is behind.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ovl_common::Mac;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{absent_is_success, describe, index_of, mac};
use crate::table::Table;

/// The forwarding entries of one VXLAN device. It has no others than ours: it does not learn.
#[derive(Debug)]
pub struct FdbTable {
    handle: Handle,
    device: String,
}

impl FdbTable {
    /// The entries of `device`.
    pub fn new(handle: Handle, device: String) -> Self {
        Self { handle, device }
    }
}

impl Table for FdbTable {
    type Key = Mac;
    type Row = Ipv4Addr;

    fn name(&self) -> &'static str {
        "fdb entry"
    }

    async fn rows(&mut self) -> Result<BTreeMap<Mac, Ipv4Addr>> {
        let Some(index) = index_of(&self.handle, &self.device).await? else { return Ok(BTreeMap::new()) };
        let mut request = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
        request.message_mut().header.ifindex = index;
        let messages: Vec<NeighbourMessage> = request.execute().try_collect().await.map_err(describe)?;
        // Kernels that ignore the interface in the request list every device.
        Ok(messages.iter().filter(|message| message.header.ifindex == index).filter_map(row).collect())
    }

    async fn put(&mut self, mac: &Mac, node: &Ipv4Addr) -> Result<()> {
        let context = || format!("cannot add fdb entry {mac} dst {node} on {}", self.device);
        let index = index_of(&self.handle, &self.device).await?.with_context(context)?;
        let request = self
            .handle
            .neighbours()
            .add_bridge(index, &mac.0)
            .destination(IpAddr::V4(*node))
            .state(NeighbourState::Permanent)
            .flags(NeighbourFlags::Own)
            .replace();
        request.execute().await.map_err(describe).with_context(context)
    }

    async fn delete(&mut self, mac: &Mac) -> Result<()> {
        let Some(index) = index_of(&self.handle, &self.device).await? else { return Ok(()) };
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Own;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        absent_is_success(self.handle.neighbours().del(message).execute().await)
            .with_context(|| format!("cannot remove fdb entry {mac} on {}", self.device))
    }
}

fn row(message: &NeighbourMessage) -> Option<(Mac, Ipv4Addr)> {
    let mut node = None;
    let mut link_layer = None;
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(address) = attribute {
            node = destination(address);
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            link_layer = Some(mac(bytes));
        }
    }
    Some((link_layer?, node?))
}

/// A forwarding entry's message says family "bridge", so its destination arrives as bytes.
fn destination(address: &NeighbourAddress) -> Option<Ipv4Addr> {
    if let NeighbourAddress::Inet(v4) = address {
        Some(*v4)
    } else if let NeighbourAddress::Other(bytes) = address {
        <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
    } else {
        None
    }
}
