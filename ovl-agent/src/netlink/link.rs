//! The overlay device.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use ovl_common::Mac;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};
use tracing::info;

use super::{absent_is_success, describe, mac};
use crate::backend::VxlanDevice;
use crate::table::Table;

/// VXLAN devices that carry our mark, and the one whose name we want, whoever made it.
#[derive(Debug)]
pub struct DeviceTable {
    handle: Handle,
    /// The mark: the device's alias.
    alias: String,
    wanted: Option<String>,
}

/// A device as the kernel has it.
struct Found {
    ifindex: u32,
    name: String,
    alias: String,
    up: bool,
    /// `None` for a device of another kind.
    vxlan: Option<VxlanDevice>,
}

impl DeviceTable {
    /// The devices of the overlay `alias` names; `wanted` is taken over where somebody else made it.
    pub fn new(handle: Handle, alias: String, wanted: Option<String>) -> Self {
        Self { handle, alias, wanted }
    }

    /// The MAC of an existing VXLAN device called `name`, to be kept over a restart: peers have it in their tables.
    pub async fn existing_mac(handle: &Handle, name: &str) -> Result<Option<Mac>> {
        let table = Self::new(handle.clone(), String::new(), Some(name.to_owned()));
        let found = table.found().await.with_context(|| format!("cannot look for device {name}"))?;
        Ok(found
            .into_iter()
            .find(|link| link.name == name)
            .and_then(|link| link.vxlan)
            .map(|device| device.mac))
    }

    async fn found(&self) -> Result<Vec<Found>> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(describe)?;
        let found = messages.iter().map(found);
        Ok(found
            .filter(|link| link.alias == self.alias || Some(&link.name) == self.wanted.as_ref())
            .collect())
    }

    async fn create(&self, name: &str, device: &VxlanDevice) -> Result<()> {
        let message = LinkVxlan::new(name, device.vni)
            .dev(device.underlay)
            .local(device.local)
            .port(device.port)
            .learning(device.learning)
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
        // Router advertisements from the overlay must not configure the node; where IPv6 is off there is no such file.
        let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        if std::fs::write(&path, "0").is_err() {
            tracing::debug!("{path} cannot be written: IPv6 is off or read-only");
        }
        Ok(())
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

    /// A device that is down or lacks our mark is listed with MTU 0, so that it is put right.
    async fn rows(&mut self) -> Result<BTreeMap<String, VxlanDevice>> {
        let rows = self.found().await?.into_iter().filter_map(|link| {
            let ours = link.up && link.alias == self.alias;
            let mut device = link.vxlan?;
            if !ours {
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
        let Some(vxlan) = have.vxlan else {
            bail!("interface {name} exists and is no VXLAN device; remove it or choose another VNI");
        };
        if !same_tunnel(&vxlan, want) {
            info!("device {name} has other tunnel parameters; it is made anew");
            absent_is_success(self.handle.link().del(have.ifindex).execute().await)
                .with_context(|| format!("cannot remove device {name}"))?;
            return self.create(name, want).await;
        }
        let message = LinkUnspec::new_with_index(have.ifindex)
            .mtu(want.mtu)
            .alias(self.alias.as_str())
            .address(want.mac.0.to_vec())
            .up()
            .build();
        self.set(name, message).await
    }

    async fn delete(&mut self, name: &String) -> Result<()> {
        match self.found().await?.into_iter().find(|link| &link.name == name && link.alias == self.alias) {
            Some(link) => absent_is_success(self.handle.link().del(link.ifindex).execute().await)
                .with_context(|| format!("cannot remove device {name}")),
            None => Ok(()),
        }
    }
}

/// What the kernel can't change on a living device.
fn same_tunnel(have: &VxlanDevice, want: &VxlanDevice) -> bool {
    let parameters =
        |device: &VxlanDevice| (device.vni, device.port, device.local, device.underlay, device.learning);
    parameters(have) == parameters(want)
}

fn found(message: &LinkMessage) -> Found {
    let mut link = Found {
        ifindex: message.header.index,
        name: String::new(),
        alias: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        vxlan: None,
    };
    let mut mtu = 0;
    let mut address = Mac::default();
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias.clone_from(alias);
        } else if let LinkAttribute::Mtu(bytes) = attribute {
            mtu = *bytes;
        } else if let LinkAttribute::Address(bytes) = attribute {
            address = mac(bytes);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            link.vxlan = vxlan(infos);
        }
    }
    if let Some(device) = &mut link.vxlan {
        device.mtu = mtu;
        device.mac = address;
    }
    link
}

fn vxlan(infos: &[LinkInfo]) -> Option<VxlanDevice> {
    if !infos.contains(&LinkInfo::Kind(InfoKind::Vxlan)) {
        return None;
    }
    let mut device = VxlanDevice {
        vni: 0,
        port: 0,
        local: Ipv4Addr::UNSPECIFIED,
        underlay: 0,
        mtu: 0,
        mac: Mac::default(),
        learning: false,
    };
    let data = infos
        .iter()
        .find_map(|info| if let LinkInfo::Data(InfoData::Vxlan(data)) = info { Some(data) } else { None });
    for item in data.into_iter().flatten() {
        if let InfoVxlan::Id(vni) = item {
            device.vni = *vni;
        } else if let InfoVxlan::Port(port) = item {
            device.port = *port;
        } else if let InfoVxlan::Local(address) = item {
            device.local = *address;
        } else if let InfoVxlan::Learning(learning) = item {
            device.learning = *learning;
        } else if let InfoVxlan::Link(ifindex) = item {
            device.underlay = *ifindex;
        }
    }
    Some(device)
}
