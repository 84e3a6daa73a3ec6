//! Permanent neighbours on the overlay devices: which MAC a peer's subnet is behind.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ovl_common::Mac;
use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::devices::Devices;
use super::{absent_is_success, address_family, describe, mac, pipelined};
use crate::family::{ByFamily, Family};
use crate::table::Table;

/// The permanent neighbours of each family's device.
#[derive(Debug)]
pub struct NeighbourTable {
    handle: Handle,
    devices: Devices,
}

impl NeighbourTable {
    /// The neighbours on `devices`.
    pub fn new(handle: Handle, devices: ByFamily<String>) -> Self {
        Self { handle, devices: Devices::new(devices) }
    }

    async fn write(&self, address: &IpAddr, mac: &Mac) -> Result<()> {
        let family = Family::of(*address);
        let context = || format!("cannot add neighbour {address} ({mac}) on {}", self.devices.name(family));
        let index = self.devices.require(family).with_context(context)?;
        let request = self
            .handle
            .neighbours()
            .add(index, *address)
            .link_layer_address(&mac.0)
            .state(NeighbourState::Permanent)
            .replace();
        request.execute().await.map_err(describe).with_context(context)
    }

    async fn erase(&self, address: &IpAddr) -> Result<()> {
        let family = Family::of(*address);
        let Some(index) = self.devices.index(family) else { return Ok(()) };
        let mut message = NeighbourMessage::default();
        message.header.family = address_family(family);
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination((*address).into()));
        absent_is_success(self.handle.neighbours().del(message).execute().await)
            .with_context(|| format!("cannot remove neighbour {address} on {}", self.devices.name(family)))
    }
}

impl Table for NeighbourTable {
    type Key = IpAddr;
    type Row = Mac;

    fn name(&self) -> &'static str {
        "neighbour"
    }

    async fn rows(&mut self) -> Result<BTreeMap<IpAddr, Mac>> {
        self.devices.look_up(&self.handle).await?;
        let mut rows = BTreeMap::new();
        for family in Family::ALL {
            let Some(index) = self.devices.index(family) else { continue };
            let mut request = self.handle.neighbours().get().set_address_family(address_family(family));
            request.message_mut().header.ifindex = index;
            let mut messages = request.execute();
            // One by one: a large cluster's answer is large.
            while let Some(message) = messages.try_next().await.map_err(describe)? {
                if message.header.ifindex == index && message.header.state == NeighbourState::Permanent {
                    rows.extend(row(&message));
                }
            }
        }
        Ok(rows)
    }

    async fn put(&mut self, address: &IpAddr, mac: &Mac) -> Result<()> {
        self.write(address, mac).await
    }

    async fn put_all(&mut self, rows: &[(IpAddr, Mac)]) -> Vec<Result<()>> {
        pipelined(rows, |(address, mac)| self.write(address, mac)).await
    }

    async fn delete(&mut self, address: &IpAddr) -> Result<()> {
        self.erase(address).await
    }

    async fn delete_all(&mut self, keys: &[IpAddr]) -> Vec<Result<()>> {
        pipelined(keys, |address| self.erase(address)).await
    }
}

fn row(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    let mut address = None;
    let mut link_layer = None;
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) = attribute {
            address = Some(IpAddr::V4(*v4));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) = attribute {
            address = Some(IpAddr::V6(*v6));
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            link_layer = Some(mac(bytes));
        }
    }
    Some((address?, link_layer?))
}
