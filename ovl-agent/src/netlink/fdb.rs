//! The overlay devices' forwarding entries: which node a MAC is behind.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ovl_common::Mac;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::devices::Devices;
use super::{absent_is_success, describe, mac, pipelined};
use crate::family::{ByFamily, Family};
use crate::table::Table;

/// The permanent forwarding entries of the VXLAN devices. What a device learned is none of ours.
#[derive(Debug)]
pub struct FdbTable {
    handle: Handle,
    devices: Devices,
}

impl FdbTable {
    /// The entries of `devices`.
    pub fn new(handle: Handle, devices: ByFamily<String>) -> Self {
        Self { handle, devices: Devices::new(devices) }
    }

    async fn write(&self, (family, mac): &(Family, Mac), node: &IpAddr) -> Result<()> {
        let context = || format!("cannot add fdb entry {mac} dst {node} on {}", self.devices.name(*family));
        let index = self.devices.require(*family).with_context(context)?;
        let request = self
            .handle
            .neighbours()
            .add_bridge(index, &mac.0)
            .destination(*node)
            .state(NeighbourState::Permanent)
            .flags(NeighbourFlags::Own)
            .replace();
        request.execute().await.map_err(describe).with_context(context)
    }

    async fn erase(&self, (family, mac): &(Family, Mac)) -> Result<()> {
        let Some(index) = self.devices.index(*family) else { return Ok(()) };
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Own;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        absent_is_success(self.handle.neighbours().del(message).execute().await)
            .with_context(|| format!("cannot remove fdb entry {mac} on {}", self.devices.name(*family)))
    }
}

impl Table for FdbTable {
    type Key = (Family, Mac);
    type Row = IpAddr;

    fn name(&self) -> &'static str {
        "fdb entry"
    }

    fn label((_, mac): &(Family, Mac)) -> String {
        mac.to_string()
    }

    async fn rows(&mut self) -> Result<BTreeMap<(Family, Mac), IpAddr>> {
        self.devices.look_up(&self.handle).await?;
        let mut rows = BTreeMap::new();
        for family in Family::ALL {
            let Some(index) = self.devices.index(family) else { continue };
            let mut request = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
            request.message_mut().header.ifindex = index;
            let mut messages = request.execute();
            while let Some(message) = messages.try_next().await.map_err(describe)? {
                // Kernels that ignore the interface in the request list every device.
                if message.header.ifindex == index && is_permanent(message.header.state) {
                    rows.extend(row(&message).map(|(mac, node)| ((family, mac), node)));
                }
            }
        }
        Ok(rows)
    }

    async fn put(&mut self, key: &(Family, Mac), node: &IpAddr) -> Result<()> {
        self.write(key, node).await
    }

    async fn put_all(&mut self, rows: &[((Family, Mac), IpAddr)]) -> Vec<Result<()>> {
        pipelined(rows, |(key, node)| self.write(key, node)).await
    }

    async fn delete(&mut self, key: &(Family, Mac)) -> Result<()> {
        self.erase(key).await
    }

    async fn delete_all(&mut self, keys: &[(Family, Mac)]) -> Vec<Result<()>> {
        pipelined(keys, |key| self.erase(key)).await
    }
}

/// The state is a set of bits, and other tools set `NUD_NOARP` besides.
fn is_permanent(state: NeighbourState) -> bool {
    u16::from(state) & u16::from(NeighbourState::Permanent) != 0
}

/// An entry that leads to another port, VNI or out of an interface of its own is listed as one that leads nowhere, so that
/// it is replaced.
pub(super) fn row(message: &NeighbourMessage) -> Option<(Mac, IpAddr)> {
    let mut node = None;
    let mut plain = true;
    let mut link_layer = None;
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(address) = attribute {
            node = destination(address);
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            link_layer = Some(mac(bytes));
        } else if is_detour(attribute) {
            plain = false;
        }
    }
    let node = node?;
    // What no peer has as its address.
    let nowhere = Family::of(node).unspecified();
    Some((link_layer?, if plain { node } else { nowhere }))
}

/// Whether the attribute leads elsewhere than the device's own parameters; the kernel only tells of such.
fn is_detour(attribute: &NeighbourAttribute) -> bool {
    matches!(
        attribute,
        NeighbourAttribute::Port(_)
            | NeighbourAttribute::Vni(_)
            | NeighbourAttribute::IfIndex(_)
            | NeighbourAttribute::SourceVni(_)
    )
}

/// A forwarding entry's message says family "bridge", so its destination arrives as bytes.
fn destination(address: &NeighbourAddress) -> Option<IpAddr> {
    if let NeighbourAddress::Inet(v4) = address {
        Some(IpAddr::V4(*v4))
    } else if let NeighbourAddress::Inet6(v6) = address {
        Some(IpAddr::V6(*v6))
    } else if let NeighbourAddress::Other(bytes) = address {
        let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_leads_elsewhere_is_no_entry_for_its_node() {
        let node = IpAddr::from([192, 0, 2, 12]);
        let entry = |more: Option<NeighbourAttribute>| {
            let mut message = NeighbourMessage::default();
            message.attributes = vec![
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 12]),
                NeighbourAttribute::Destination(NeighbourAddress::Other(vec![192, 0, 2, 12])),
            ];
            message.attributes.extend(more);
            row(&message)
        };
        let mac = Mac([2, 0, 0, 0, 0, 12]);
        assert_eq!(entry(None), Some((mac, node)));
        assert_eq!(entry(Some(NeighbourAttribute::Controller(3))), Some((mac, node)));
        for detour in [
            NeighbourAttribute::Port(4789),
            NeighbourAttribute::Vni(7),
            NeighbourAttribute::IfIndex(2),
            NeighbourAttribute::SourceVni(7),
        ] {
            assert_eq!(entry(Some(detour)), Some((mac, Family::V4.unspecified())));
        }
    }
}
