//! Addresses of the overlay devices.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};

use super::addresses::node_addresses;
use super::devices::Devices;
use super::{absent_is_success, address_family, code, describe};
use crate::family::{ByFamily, Family};
use crate::sysctl;
use crate::table::Table;

/// The addresses of the overlay devices that are the overlay's: those inside its ranges, and on IPv6's device all IPv6
/// ones that are not link-local, as flannel has it.
#[derive(Debug)]
pub struct AddressTable {
    handle: Handle,
    devices: Devices,
    ranges: ByFamily<IpNet>,
}

impl AddressTable {
    /// The addresses of `devices`, in an overlay of these ranges.
    pub fn new(handle: Handle, devices: ByFamily<String>, ranges: ByFamily<IpNet>) -> Self {
        Self { handle, devices: Devices::new(devices), ranges }
    }

    /// The device that an address is on, where it is one of ours.
    fn device(&self, ifindex: u32, net: &IpNet) -> Option<Family> {
        let device = self.devices.with_index(ifindex)?;
        let in_range = || {
            let range = self.ranges.get(Family::of_net(net));
            range.is_some_and(|range| range.contains(&net.addr()))
        };
        let is_ours = match (net, device) {
            (IpNet::V6(net), Family::V6) => !net.addr().is_unicast_link_local(),
            (IpNet::V4(_), _) | (IpNet::V6(_), Family::V4) => in_range(),
        };
        is_ours.then_some(device)
    }

    /// Puts an address that is there already: as it should be, or with another length, of which IPv6 has but one.
    async fn put_past(&self, index: u32, net: &IpNet) -> Result<()> {
        let all = node_addresses(&self.handle).await?;
        let same = all.into_iter().find(|has| has.ifindex == index && has.net.addr() == net.addr());
        let Some(other) = same.filter(|has| has.net != *net) else { return Ok(()) };
        self.erase(index, &other.net).await?;
        let mut request = self.handle.address().add(index, net.addr(), net.prefix_len());
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.map_err(describe)
    }

    async fn erase(&self, index: u32, net: &IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = address_family(Family::of_net(net));
        message.header.index = index;
        message.header.prefix_len = net.prefix_len();
        message.attributes.push(AddressAttribute::Local(net.addr()));
        absent_is_success(self.handle.address().del(message).execute().await)
    }
}

impl Table for AddressTable {
    type Key = (Family, IpNet);
    type Row = ();

    fn name(&self) -> &'static str {
        "address"
    }

    fn label((_, net): &(Family, IpNet)) -> String {
        net.to_string()
    }

    async fn rows(&mut self) -> Result<BTreeMap<(Family, IpNet), ()>> {
        self.devices.look_up(&self.handle).await?;
        let all = node_addresses(&self.handle).await?;
        let ours = all.into_iter().filter_map(|address| {
            let device = self.device(address.ifindex, &address.net)?;
            Some(((device, address.net), ()))
        });
        Ok(ours.collect())
    }

    async fn put(&mut self, (device, net): &(Family, IpNet), (): &()) -> Result<()> {
        let name = self.devices.name(*device);
        let context = || format!("cannot add address {net} to {name}");
        let index = self.devices.require(*device).with_context(context)?;
        if Family::of_net(net) == Family::V6 {
            sysctl::enable_ipv6(name);
        }
        let mut request = self.handle.address().add(index, net.addr(), net.prefix_len());
        // Nobody else can have it, and until the search for one ended, IPv6 would not send from it.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        match request.execute().await {
            Err(error) if code(&error) == Some(nix::libc::EEXIST) => {
                self.put_past(index, net).await.with_context(context)
            }
            other => other.map_err(describe).with_context(context),
        }
    }

    async fn delete(&mut self, (device, net): &(Family, IpNet)) -> Result<()> {
        let Some(index) = self.devices.index(*device) else { return Ok(()) };
        self.erase(index, net)
            .await
            .with_context(|| format!("cannot remove address {net} from {}", self.devices.name(*device)))
    }
}
