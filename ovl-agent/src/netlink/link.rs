//! The overlay device.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVxlan};
use tracing::info;

use super::vxlan::Vxlan;
use super::{LinkFacts, absent_is_success, describe, links};
use crate::backend::VxlanDevice;
use crate::family::ByFamily;
use crate::table::Table;

/// VXLAN devices that carry our mark, and the one whose name we want, whoever made it.
#[derive(Debug)]
pub struct DeviceTable {
    handle: Handle,
    /// The mark: the device's alias.
    alias: String,
    wanted: ByFamily<String>,
}

/// A device as the kernel has it.
struct Found {
    ifindex: u32,
    name: String,
    alias: String,
    up: bool,
    /// `None` for a device of another kind.
    vxlan: Option<Vxlan>,
}

impl DeviceTable {
    /// The devices of the overlay `alias` names; `wanted` is taken over where somebody else made it.
    pub fn new(handle: Handle, alias: String, wanted: ByFamily<String>) -> Self {
        Self { handle, alias, wanted }
    }

    /// An existing VXLAN device called `name`. Its MAC is to be kept over a restart, since peers have it in their tables,
    /// and so is what can't be changed.
    pub async fn existing(handle: &Handle, name: &str) -> Result<Option<VxlanDevice>> {
        let wanted = ByFamily { v4: Some(name.to_owned()), v6: None };
        let table = Self::new(handle.clone(), String::new(), wanted);
        let found = table.found().await.with_context(|| format!("cannot look for device {name}"))?;
        Ok(found
            .into_iter()
            .find(|link| link.name == name)
            .and_then(|link| link.vxlan)
            .map(|vxlan| vxlan.device))
    }

    async fn found(&self) -> Result<Vec<Found>> {
        let messages = links(&self.handle).await?;
        let is_wanted = |link: &Found| self.wanted.iter().any(|(_, name)| *name == link.name);
        let found = messages.iter().map(found);
        Ok(found.filter(|link| link.alias == self.alias || is_wanted(link)).collect())
    }

    async fn create(&self, name: &str, device: &VxlanDevice) -> Result<()> {
        let mut message = changeable(name, device).port(device.port);
        if device.gbp {
            message = message.gbp();
        }
        if device.zero_checksums {
            message = message.udp_zero_csum6_rx(true);
        }
        let message = message
            // Set at creation: systemd's MACAddressPolicy replaces an address that the kernel made up.
            .address(device.mac.0.to_vec())
            .mtu(device.mtu)
            .txqueuelen(0)
            .up()
            .build();
        self.handle.link().add(message).execute().await.map_err(describe).with_context(|| {
            format!("cannot create VXLAN device {name} (id {}, UDP port {})", device.vni, device.port)
        })?;
        // An alias is not taken at creation.
        let message = LinkUnspec::new_with_name(name).alias(self.alias.as_str()).build();
        self.set(name, message).await?;
        refuse_router_advertisements(name);
        Ok(())
    }

    async fn recreate(&self, name: &str, have: &Found, device: &VxlanDevice) -> Result<()> {
        absent_is_success(self.handle.link().del(have.ifindex).execute().await)
            .with_context(|| format!("cannot remove device {name}"))?;
        self.create(name, device).await
    }

    async fn set(&self, name: &str, message: LinkMessage) -> Result<()> {
        let request = self.handle.link().set(message).execute();
        request.await.map_err(describe).with_context(|| format!("cannot change device {name}"))
    }
}

impl Table for DeviceTable {
    type Key = String;
    type Row = VxlanDevice;

    fn name(&self) -> &'static str {
        "device"
    }

    fn label(name: &String) -> String {
        name.clone()
    }

    /// A device that is down, lacks our mark or has what none of ours has is listed with MTU 0, so that it is put right.
    async fn rows(&mut self) -> Result<BTreeMap<String, VxlanDevice>> {
        let rows = self.found().await?.into_iter().filter_map(|link| {
            let Vxlan { mut device, plain } = link.vxlan?;
            if !(plain && link.up && link.alias == self.alias) {
                device.mtu = 0;
            }
            Some((link.name, device))
        });
        Ok(rows.collect())
    }

    async fn put(&mut self, name: &String, want: &VxlanDevice) -> Result<()> {
        let Some(have) = self.found().await?.into_iter().find(|link| &link.name == name) else {
            return self.create(name, want).await;
        };
        let Some(Vxlan { device: vxlan, plain }) = have.vxlan.clone() else {
            bail!("interface {name} exists and is no VXLAN device; remove it or choose another VNI");
        };
        if !plain || !same_kind(&vxlan, want) {
            info!("device {name} is another tunnel; it is made anew with its MAC");
            return self.recreate(name, &have, want).await;
        }
        if !same_ends(&vxlan, want) {
            let message = changeable(name, want).build();
            if let Err(error) = self.handle.link().change(message).execute().await {
                info!(
                    "device {name} cannot be changed ({:#}); it is made anew with its MAC",
                    describe(error)
                );
                return self.recreate(name, &have, want).await;
            }
        }
        refuse_router_advertisements(name);
        let mut message =
            LinkUnspec::new_with_index(have.ifindex).mtu(want.mtu).alias(self.alias.as_str()).up();
        // Setting an address, also to what it is, makes the kernel forget the device's neighbours, permanent ones too.
        if vxlan.mac != want.mac {
            message = message.address(want.mac.0.to_vec());
        }
        self.set(name, message.build()).await
    }

    async fn delete(&mut self, name: &String) -> Result<()> {
        match self.found().await?.into_iter().find(|link| &link.name == name && link.alias == self.alias) {
            Some(link) => absent_is_success(self.handle.link().del(link.ifindex).execute().await)
                .with_context(|| format!("cannot remove device {name}")),
            None => Ok(()),
        }
    }
}

/// What the kernel changes on a living device (`vxlan_changelink`), beside the name and number to know it by.
fn changeable(name: &str, device: &VxlanDevice) -> LinkMessageBuilder<LinkVxlan> {
    let message = LinkVxlan::new(name, device.vni).dev(device.underlay).learning(device.learning);
    match device.local {
        IpAddr::V4(local) => message.local(local),
        IpAddr::V6(local) => message.local6(local),
    }
}

/// What it does not change.
fn same_kind(have: &VxlanDevice, want: &VxlanDevice) -> bool {
    let kind = |device: &VxlanDevice| {
        (device.vni, device.port, device.gbp, device.zero_checksums, device.local.is_ipv4())
    };
    kind(have) == kind(want)
}

fn same_ends(have: &VxlanDevice, want: &VxlanDevice) -> bool {
    let ends = |device: &VxlanDevice| (device.local, device.underlay, device.learning);
    ends(have) == ends(want)
}

/// Router advertisements from the overlay must not configure the node; where IPv6 is off there is no such file.
pub(super) fn refuse_router_advertisements(device: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/accept_ra");
    if crate::sysctl::write(&path, "0").is_err() {
        tracing::debug!("{path} cannot be written: IPv6 is off or read-only");
    }
}

fn found(message: &LinkMessage) -> Found {
    let facts = LinkFacts::of(message);
    let mut vxlan = Vxlan::of(facts.infos);
    if let Some(Vxlan { device, .. }) = &mut vxlan {
        (device.mtu, device.mac) = (facts.mtu, facts.mac);
    }
    Found {
        ifindex: facts.ifindex,
        name: facts.name.to_owned(),
        alias: facts.alias.to_owned(),
        up: facts.is_up(),
        vxlan,
    }
}
