//! Routes to the peers' subnets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::lookup::ip;
use super::mark;
use super::{absent_is_success, code, describe, index_of, pipelined};
use crate::backend::Route;
use crate::family::{ByFamily, Family};
use crate::table::Table;

/// Beside the bridge's own route of the same subnet, which must win.
const BLACKHOLE_METRIC: u32 = u32::MAX - 1;

/// The routes of the main table that carry our [mark] and lead into the overlay's ranges.
#[derive(Debug)]
pub struct RouteTable {
    handle: Handle,
    ranges: ByFamily<IpNet>,
    /// Index of each interface, and name by index, as of the last listing.
    names: BTreeMap<u32, Arc<str>>,
}

impl RouteTable {
    /// The routes inside `ranges`.
    pub fn new(handle: Handle, ranges: ByFamily<IpNet>) -> Self {
        Self { handle, ranges, names: BTreeMap::new() }
    }

    /// Routes that a flanneld left: they lead to what `is_lease` says is some node's subnet, through a next hop behind
    /// one of `devices`, and are marked as nobody's, which is how flannel writes them.
    pub async fn left_by_flannel(
        &self,
        is_lease: impl Fn(IpNet) -> bool,
        devices: &BTreeSet<String>,
    ) -> Result<Vec<IpNet>> {
        let mut left = Vec::new();
        for (family, _) in self.ranges.iter() {
            for message in main_table(&self.handle, family).await? {
                if message.header.protocol == RouteProtocol::Boot
                    && let Some((net, Route::Via { device, .. })) = row(&message, &self.names)
                    && is_lease(net)
                    && devices.contains(&*device)
                {
                    left.push(net);
                }
            }
        }
        Ok(left)
    }

    /// Removes a route that flannel left.
    pub async fn delete_flannels(&self, net: IpNet) -> Result<()> {
        self.delete_marked(net, RouteProtocol::Boot).await.map(drop)
    }

    /// The protocol that our route to `net` has.
    fn protocol(&self, net: IpNet) -> RouteProtocol {
        let range = self.ranges.get(Family::of_net(&net)).copied();
        mark::protocol(range.unwrap_or(net), net)
    }

    /// Deletes a route of one protocol; whether there was one.
    async fn delete_marked(&self, net: IpNet, protocol: RouteProtocol) -> Result<bool> {
        let mut message = builder(net).protocol(protocol).build();
        // Scope "nowhere" and kind "unspecified" match any; the builder's would not match a blackhole.
        message.header.scope = RouteScope::NoWhere;
        message.header.kind = RouteType::Unspec;
        let deleted = self.handle.route().del(message).execute().await;
        let is_done = deleted.is_ok();
        absent_is_success(deleted).with_context(|| format!("cannot remove route {net}"))?;
        Ok(is_done)
    }

    /// Puts a route whose next hop the kernel believes to be elsewhere: IPv6 asks the routes that are there
    /// (`ip6_route_check_nh_onlink`), and the one to be replaced leads to the next hop, which lies in its range. For this
    /// moment a route to the next hop alone says where it is; so there is always a route.
    async fn put_past(&self, message: RouteMessage, gateway: IpAddr, index: u32) -> Result<()> {
        let hop = builder(IpNet::from(gateway))
            .output_interface(index)
            .protocol(self.protocol(gateway.into()))
            .build();
        self.handle.route().add(hop.clone()).replace().execute().await.map_err(describe)?;
        let written = self.handle.route().add(message).replace().execute().await.map_err(describe);
        absent_is_success(self.handle.route().del(hop).execute().await)?;
        written
    }

    async fn index(&self, device: &str) -> Result<u32> {
        let known = self.names.iter().find(|(_, name)| &***name == device).map(|(index, _)| *index);
        match known {
            Some(index) => Ok(index),
            None => {
                index_of(&self.handle, device).await?.with_context(|| format!("there is no device {device}"))
            }
        }
    }

    async fn write(&self, net: &IpNet, route: &Route) -> Result<()> {
        let (gateway, device, onlink) = match route {
            Route::Via { gateway, device, onlink } => (gateway, device, *onlink),
            Route::Blackhole => {
                let message = builder(*net).protocol(self.protocol(*net)).kind(RouteType::BlackHole);
                let message = message.priority(BLACKHOLE_METRIC).build();
                let written = self.handle.route().add(message).replace().execute().await.map_err(describe);
                return written.with_context(|| format!("cannot add blackhole route {net}"));
            }
        };
        let context = || format!("cannot add route {net} via {gateway} dev {device}");
        let index = self.index(device).await.with_context(context)?;
        let builder = builder(*net).gateway(*gateway).map_err(anyhow::Error::new).with_context(context)?;
        let mut builder =
            builder.output_interface(index).protocol(self.protocol(*net)).scope(RouteScope::Universe);
        if onlink {
            builder = builder.onlink();
        }
        let message = builder.build();
        match self.handle.route().add(message.clone()).replace().execute().await {
            Err(error) if onlink && code(&error) == Some(nix::libc::EINVAL) => {
                self.put_past(message, *gateway, index).await.with_context(context)
            }
            written => written.map_err(describe).with_context(context),
        }
    }
}

impl Table for RouteTable {
    type Key = IpNet;
    type Row = Route;

    fn name(&self) -> &'static str {
        "route"
    }

    async fn rows(&mut self) -> Result<BTreeMap<IpNet, Route>> {
        let interfaces = super::interfaces(&self.handle).await?;
        self.names =
            interfaces.into_iter().map(|(ifindex, interface)| (ifindex, interface.name.into())).collect();
        let mut rows = BTreeMap::new();
        for (family, range) in self.ranges.iter() {
            let mut messages = self.handle.route().get(dump(family)).execute();
            while let Some(message) =
                messages.try_next().await.map_err(describe).context("cannot list the routes")?
            {
                if is_main(&message) && mark::is_ours(message.header.protocol) {
                    rows.extend(row(&message, &self.names).filter(|(net, _)| range.contains(net)));
                }
            }
        }
        Ok(rows)
    }

    async fn put(&mut self, net: &IpNet, route: &Route) -> Result<()> {
        self.write(net, route).await
    }

    async fn put_all(&mut self, rows: &[(IpNet, Route)]) -> Vec<Result<()>> {
        pipelined(rows, |net, route| self.write(net, route)).await
    }

    async fn delete(&mut self, net: &IpNet) -> Result<()> {
        if self.delete_marked(*net, self.protocol(*net)).await? {
            return Ok(());
        }
        // By hand, or by a network of another range, it was given another of our numbers.
        for protocol in mark::all() {
            self.delete_marked(*net, protocol).await?;
        }
        Ok(())
    }
}

/// A route to `net`.
fn builder(net: IpNet) -> RouteMessageBuilder<IpAddr> {
    // It fails for lengths that an `IpNet` cannot have.
    RouteMessageBuilder::<IpAddr>::new().destination_prefix(net.addr(), net.prefix_len()).unwrap_or_default()
}

/// The request for every route of one family.
fn dump(family: Family) -> RouteMessage {
    match family {
        Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    }
}

fn is_main(message: &RouteMessage) -> bool {
    message.header.table == RouteHeader::RT_TABLE_MAIN
}

async fn main_table(handle: &Handle, family: Family) -> Result<Vec<RouteMessage>> {
    let request = handle.route().get(dump(family));
    let all: Vec<RouteMessage> =
        request.execute().try_collect().await.map_err(describe).context("cannot list the routes")?;
    Ok(all.into_iter().filter(is_main).collect())
}

fn row(message: &RouteMessage, names: &BTreeMap<u32, Arc<str>>) -> Option<(IpNet, Route)> {
    let mut destination = None;
    let mut gateway = None;
    let mut device: Option<Arc<str>> = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address);
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = ip(address);
        } else if let RouteAttribute::Oif(index) = attribute {
            device = names.get(index).cloned();
        }
    }
    let net = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    if message.header.kind == RouteType::BlackHole {
        return Some((net, Route::Blackhole));
    }
    let unspecified = match net {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    Some((
        net,
        Route::Via { gateway: gateway.unwrap_or(unspecified), device: device.unwrap_or_default(), onlink },
    ))
}
