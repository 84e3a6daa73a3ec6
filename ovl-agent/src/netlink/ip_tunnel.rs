//! The devices of IP in IP: the kernel's own, and what stands in for them where it has none.

mod found;

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, Ip6TunnelFlags, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tracing::info;

use self::found::{Found, found};
use super::link::refuse_router_advertisements;
use super::{absent_is_success, code, describe, links};
use crate::backend::IpTunnel;
use crate::family::{ByFamily, Family};
use crate::sysctl;
use crate::table::Table;

/// `IFLA_IPTUN_PROTO` (`linux/if_tunnel.h`), and a protocol that no device carries: drivers answer EINVAL to it
/// (`ipip_tunnel_validate`, `ip6_tnl_validate`).
const PROTOCOL: u16 = 9;
const NO_PROTOCOL: u8 = 255;

/// Whether this kernel has the tunnel device for packets over `family`, whose module it loads for the question where it can.
///
/// # Errors
/// The errno of any other answer, 0 where there was none.
pub async fn has_ip_tunnel(handle: &Handle, family: Family) -> Result<bool, i32> {
    let mut message = LinkMessage::default();
    let data = vec![InfoIpTunnel::Other(DefaultNla::new(PROTOCOL, vec![NO_PROTOCOL]))];
    let info = vec![LinkInfo::Kind(kind(family)), LinkInfo::Data(InfoData::IpTunnel(data))];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    match handle.link().add(message).execute().await.map_err(|error| code(&error).unwrap_or(0)) {
        Ok(()) | Err(nix::libc::EINVAL | nix::libc::EEXIST) => Ok(true),
        Err(nix::libc::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// What the kernel calls the tunnel device for packets over `family`.
fn kind(family: Family) -> InfoKind {
    match family {
        Family::V4 => InfoKind::IpIp,
        Family::V6 => InfoKind::Ip6Tnl,
    }
}

/// The other end of the stand-in of a family.
fn end(family: Family) -> &'static str {
    match family {
        Family::V4 => "ovl-ipip",
        Family::V6 => "ovl-ipip-v6",
    }
}

/// The devices that carry our mark, and those whose names we want, whoever made them.
#[derive(Debug)]
pub struct IpTunnelTable {
    handle: Handle,
    /// The mark: the device's alias.
    alias: String,
    wanted: ByFamily<String>,
}

impl IpTunnelTable {
    /// The devices of the overlay `alias` names; `wanted` is taken over where somebody else made it.
    pub fn new(handle: Handle, alias: String, wanted: ByFamily<String>) -> Self {
        Self { handle, alias, wanted }
    }

    async fn found(&self) -> Result<Vec<Found>> {
        let is_wanted = |link: &Found| self.wanted.iter().any(|(_, name)| *name == link.name);
        let found = links(&self.handle).await?.iter().map(found).collect::<Vec<_>>();
        Ok(found.into_iter().filter(|link| link.alias == self.alias || is_wanted(link)).collect())
    }

    async fn create(&self, name: &str, family: Family, device: &IpTunnel) -> Result<()> {
        let (message, what) = match device {
            IpTunnel::Kernel { local, mtu } => (kernel_device(name, *local, *mtu), kind(family).to_string()),
            IpTunnel::StandIn { mtu } => {
                let message = LinkVeth::new(name, end(family)).mtu(*mtu).arp(false).build();
                (message, format!("veth (the other end {})", end(family)))
            }
        };
        let made = self.handle.link().add(message).execute().await;
        made.map_err(describe).with_context(|| format!("cannot create {what} device {name}"))?;
        self.finish(name, family, device).await
    }

    /// What is not taken at creation, or may have been changed since.
    async fn finish(&self, name: &str, family: Family, device: &IpTunnel) -> Result<()> {
        refuse_router_advertisements(name);
        let mut message = LinkUnspec::new_with_name(name).alias(self.alias.as_str()).up();
        match device {
            IpTunnel::Kernel { mtu, .. } => message = message.mtu(*mtu),
            IpTunnel::StandIn { mtu } => {
                // Nothing is to come out there.
                let silent = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", end(family));
                if sysctl::write(&silent, "1").is_err() {
                    tracing::debug!("{silent} cannot be written: IPv6 is off or read-only");
                }
                self.set(LinkUnspec::new_with_name(end(family)).up().build(), end(family)).await?;
                message = message.mtu(*mtu).arp(false);
            }
        }
        self.set(message.build(), name).await
    }

    async fn set(&self, message: LinkMessage, name: &str) -> Result<()> {
        let request = self.handle.link().set(message).execute();
        request.await.map_err(describe).with_context(|| format!("cannot change device {name}"))
    }

    async fn remove(&self, link: &Found) -> Result<()> {
        absent_is_success(self.handle.link().del(link.ifindex).execute().await)
            .with_context(|| format!("cannot remove device {}", link.name))
    }
}

impl Table for IpTunnelTable {
    type Key = String;
    type Row = IpTunnel;

    fn name(&self) -> &'static str {
        "tunnel device"
    }

    fn label(name: &String) -> String {
        name.clone()
    }

    /// A device that is down, lacks our mark or has what none of ours has is listed with MTU 0, so that it is put right.
    async fn rows(&mut self) -> Result<BTreeMap<String, IpTunnel>> {
        let rows = self.found().await?.into_iter().filter_map(|link| {
            let mut tunnel = link.tunnel?;
            if !(link.plain && link.alias == self.alias) {
                *tunnel.mtu_mut() = 0;
            }
            Some((link.name, tunnel))
        });
        Ok(rows.collect())
    }

    async fn put(&mut self, name: &String, want: &IpTunnel) -> Result<()> {
        let wanted = self.wanted.iter().find(|(_, wanted)| *wanted == name);
        let (family, _) = wanted.context("it is no device of this backend")?;
        let Some(have) = self.found().await?.into_iter().find(|link| link.name == *name) else {
            return self.create(name, family, want).await;
        };
        let Some(tunnel) =
            have.tunnel.as_ref().filter(|tunnel| tunnel.is_kernels() || have.alias == self.alias)
        else {
            bail!(
                "interface {name} exists and is no {} device; remove it (`ip link del {name}`)",
                kind(family)
            );
        };
        let is_same = match (tunnel, want) {
            (IpTunnel::Kernel { local, .. }, IpTunnel::Kernel { local: wanted, .. }) => local == wanted,
            (IpTunnel::StandIn { .. }, IpTunnel::StandIn { .. }) => true,
            _ => false,
        };
        // A plain one that is down or has another MTU is put right as it stands.
        if is_same && self.finish(name, family, want).await.is_ok() {
            let now = self.found().await?.into_iter().find(|link| link.name == *name);
            if now.is_some_and(|link| link.plain && link.tunnel.as_ref() == Some(want)) {
                return Ok(());
            }
        }
        info!("device {name} is another tunnel; it is made anew");
        self.remove(&have).await?;
        self.create(name, family, want).await
    }

    async fn delete(&mut self, name: &String) -> Result<()> {
        match self.found().await?.into_iter().find(|link| link.name == *name && link.alias == self.alias) {
            Some(link) => self.remove(&link).await,
            None => Ok(()),
        }
    }
}

/// A device as flannel makes it: outer packets have the inner one's hop limit and DF. Over IPv6 without the option that
/// limits nesting (RFC 2473 section 5.1), which stands in the way of offloads.
fn kernel_device(name: &str, local: IpAddr, mtu: u32) -> LinkMessage {
    let mut data = vec![InfoIpTunnel::Local(local)];
    let family = Family::of(local);
    match family {
        Family::V4 => data.push(InfoIpTunnel::PMtuDisc(false)),
        Family::V6 => {
            // Both families inside.
            data.push(InfoIpTunnel::Other(DefaultNla::new(PROTOCOL, vec![0])));
            data.push(InfoIpTunnel::Ipv6Flags(Ip6TunnelFlags::IgnEncapLimit));
        }
    }
    LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind(family))
        .name(name.to_owned())
        .set_info_data(InfoData::IpTunnel(data))
        .mtu(mtu)
        .build()
}
