//! Permanent neighbours on the overlay devices: which MAC a peer's subnet is behind.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use ovl_common::Mac;
use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::devices::Devices;
use super::{absent_is_success, address_family, describe, mac, pipelined};
use crate::family::{ByFamily, Family};
use crate::table::Table;

/// The permanent neighbours on the overlay devices, each of which may have peers of both families: all of the family of
/// its outer packets, as flannel has it, and of the other those in the overlay's range.
#[derive(Debug)]
pub struct NeighbourTable {
    handle: Handle,
    devices: Devices,
    ranges: ByFamily<IpNet>,
}

impl NeighbourTable {
    /// The neighbours on `devices`, in an overlay of these ranges.
    pub fn new(handle: Handle, devices: ByFamily<String>, ranges: ByFamily<IpNet>) -> Self {
        Self { handle, devices: Devices::new(devices), ranges }
    }

    fn is_ours(&self, device: Family, address: IpAddr) -> bool {
        let family = Family::of(address);
        device == family || self.ranges.get(family).is_some_and(|range| range.contains(&address))
    }

    async fn write(&self, (device, address): &(Family, IpAddr), mac: &Mac) -> Result<()> {
        let context = || format!("cannot add neighbour {address} ({mac}) on {}", self.devices.name(*device));
        let index = self.devices.require(*device).with_context(context)?;
        let request = self
            .handle
            .neighbours()
            .add(index, *address)
            .link_layer_address(&mac.0)
            .state(NeighbourState::Permanent)
            .replace();
        request.execute().await.map_err(describe).with_context(context)
    }

    async fn erase(&self, (device, address): &(Family, IpAddr)) -> Result<()> {
        let Some(index) = self.devices.index(*device) else { return Ok(()) };
        let mut message = NeighbourMessage::default();
        message.header.family = address_family(Family::of(*address));
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination((*address).into()));
        absent_is_success(self.handle.neighbours().del(message).execute().await)
            .with_context(|| format!("cannot remove neighbour {address} on {}", self.devices.name(*device)))
    }
}

impl Table for NeighbourTable {
    type Key = (Family, IpAddr);
    type Row = Mac;

    fn name(&self) -> &'static str {
        "neighbour"
    }

    fn label((_, address): &(Family, IpAddr)) -> String {
        address.to_string()
    }

    async fn rows(&mut self) -> Result<BTreeMap<(Family, IpAddr), Mac>> {
        self.devices.look_up(&self.handle).await?;
        let mut rows = BTreeMap::new();
        for family in Family::ALL {
            if self.devices.index(family).is_none() && self.ranges.get(family).is_none() {
                continue;
            }
            // The kernel lists the whole namespace, whatever device is asked for.
            let request = self.handle.neighbours().get().set_address_family(address_family(family));
            let mut messages = request.execute();
            // One by one: a large cluster's answer is large.
            while let Some(message) = messages.try_next().await.map_err(describe)? {
                let Some(device) = self.devices.with_index(message.header.ifindex) else { continue };
                if message.header.state == NeighbourState::Permanent
                    && let Some((address, mac)) = row(&message)
                    && self.is_ours(device, address)
                {
                    rows.insert((device, address), mac);
                }
            }
        }
        Ok(rows)
    }

    async fn put(&mut self, key: &(Family, IpAddr), mac: &Mac) -> Result<()> {
        self.write(key, mac).await
    }

    async fn put_all(&mut self, rows: &[((Family, IpAddr), Mac)]) -> Vec<Result<()>> {
        pipelined(rows, |(key, mac)| self.write(key, mac)).await
    }

    async fn delete(&mut self, key: &(Family, IpAddr)) -> Result<()> {
        self.erase(key).await
    }

    async fn delete_all(&mut self, keys: &[(Family, IpAddr)]) -> Vec<Result<()>> {
        pipelined(keys, |key| self.erase(key)).await
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
