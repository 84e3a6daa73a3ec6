//! Routes to the peers' subnets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::dump::{is_main, routes};
use super::lookup::{self, ip};
use super::mark;
use super::{absent_is_success, code, describe, index_of, pipelined};
use crate::backend::{Route, RouteKey};
use crate::family::{ByFamily, Family};
use crate::table::Table;

/// The routes of the main table that carry our [mark] and lead into the overlay's ranges.
#[derive(Debug)]
pub struct RouteTable {
    handle: Handle,
    ranges: ByFamily<IpNet>,
    /// The interfaces' names by index, as of the last listing.
    names: BTreeMap<u32, Arc<str>>,
    /// Routes of ours whose protocol is not the one that we would give them, as of the last listing.
    odd: BTreeMap<RouteKey, RouteProtocol>,
}

impl RouteTable {
    /// The routes inside `ranges`.
    pub fn new(handle: Handle, ranges: ByFamily<IpNet>) -> Self {
        Self { handle, ranges, names: BTreeMap::new(), odd: BTreeMap::new() }
    }

    /// The protocol that our route to `net` has.
    fn protocol(&self, net: IpNet) -> RouteProtocol {
        let range = self.ranges.get(Family::of_net(&net)).copied();
        mark::protocol(range.unwrap_or(net), net)
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

    async fn write(&self, key: &RouteKey, route: &Route) -> Result<()> {
        let context = || match route {
            Route::Via { gateway, device, .. } => {
                format!("cannot add route {key} via {gateway} dev {device}")
            }
            Route::Device(device) => format!("cannot add route {key} dev {device}"),
            Route::Blackhole => format!("cannot add blackhole route {key}"),
        };
        let message = builder(key.net).protocol(self.protocol(key.net)).priority(key.metric);
        let (gateway, device, onlink) = match route {
            Route::Via { gateway, device, onlink } => (gateway, device, onlink),
            Route::Device(device) => {
                let index = self.index(device).await.with_context(context)?;
                let message = message.output_interface(index).scope(RouteScope::Universe).build();
                let written = self.handle.route().add(message).replace().execute().await;
                return written.map_err(describe).with_context(context);
            }
            Route::Blackhole => {
                let message = message.kind(RouteType::BlackHole).build();
                let written = self.handle.route().add(message).replace().execute().await;
                return written.map_err(describe).with_context(context);
            }
        };
        let index = self.index(device).await.with_context(context)?;
        let message = message.gateway(*gateway).map_err(anyhow::Error::new).with_context(context)?;
        let mut message = message.output_interface(index).scope(RouteScope::Universe);
        if *onlink {
            message = message.onlink();
        }
        let message = message.build();
        match self.handle.route().add(message.clone()).replace().execute().await {
            Err(error) if *onlink && code(&error) == Some(nix::libc::EINVAL) => {
                self.put_past(message, *gateway, index).await.with_context(context)
            }
            written => written.map_err(describe).with_context(context),
        }
    }

    async fn erase(&self, key: &RouteKey) -> Result<()> {
        let protocol = self.odd.get(key).copied().unwrap_or_else(|| self.protocol(key.net));
        delete_route(&self.handle, *key, protocol).await
    }
}

/// Deletes the route of one protocol; one that is absent is a success.
pub(super) async fn delete_route(handle: &Handle, key: RouteKey, protocol: RouteProtocol) -> Result<()> {
    let mut message = builder(key.net).protocol(protocol).priority(key.metric).build();
    // Scope "nowhere" and kind "unspecified" match any; the builder's would not match a blackhole.
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unspec;
    absent_is_success(handle.route().del(message).execute().await)
        .with_context(|| format!("cannot remove route {key}"))
}

impl Table for RouteTable {
    type Key = RouteKey;
    type Row = Route;

    fn name(&self) -> &'static str {
        "route"
    }

    fn label(key: &RouteKey) -> String {
        key.to_string()
    }

    async fn rows(&mut self) -> Result<BTreeMap<RouteKey, Route>> {
        self.names = interface_names(&self.handle).await?;
        self.odd.clear();
        let mut rows = BTreeMap::new();
        for (family, range) in self.ranges.iter() {
            let mut messages = routes(&self.handle, family);
            while let Some(message) = messages.try_next().await? {
                let protocol = message.header.protocol;
                if !is_main(&message) || !mark::is_ours(protocol) {
                    continue;
                }
                let Some((key, route)) =
                    row(&message, &self.names).filter(|(key, _)| range.contains(&key.net))
                else {
                    continue;
                };
                if protocol != mark::protocol(*range, key.net) {
                    self.odd.insert(key, protocol);
                }
                rows.insert(key, route);
            }
        }
        Ok(rows)
    }

    async fn put(&mut self, key: &RouteKey, route: &Route) -> Result<()> {
        self.write(key, route).await
    }

    async fn put_all(&mut self, rows: &[(RouteKey, Route)]) -> Vec<Result<()>> {
        pipelined(rows, |(key, route)| self.write(key, route)).await
    }

    async fn delete(&mut self, key: &RouteKey) -> Result<()> {
        self.erase(key).await
    }

    async fn delete_all(&mut self, keys: &[RouteKey]) -> Vec<Result<()>> {
        pipelined(keys, |key| self.erase(key)).await
    }
}

/// The interfaces' names by index.
pub(super) async fn interface_names(handle: &Handle) -> Result<BTreeMap<u32, Arc<str>>> {
    let interfaces = super::interfaces(handle).await?;
    Ok(interfaces.into_iter().map(|(ifindex, interface)| (ifindex, interface.name.into())).collect())
}

/// A route to `net`.
fn builder(net: IpNet) -> RouteMessageBuilder<IpAddr> {
    // It fails for lengths that an `IpNet` cannot have.
    RouteMessageBuilder::<IpAddr>::new().destination_prefix(net.addr(), net.prefix_len()).unwrap_or_default()
}

/// A route as [`RouteTable`] has it.
pub(super) fn row(message: &RouteMessage, names: &BTreeMap<u32, Arc<str>>) -> Option<(RouteKey, Route)> {
    let mut destination = None;
    let mut gateway = None;
    let mut metric = 0;
    let mut device: Option<Arc<str>> = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address);
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::Oif(index) = attribute {
            device = names.get(index).cloned();
        } else {
            gateway = lookup::gateway(attribute).or(gateway);
        }
    }
    let net = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    let key = RouteKey { net, metric };
    if message.header.kind == RouteType::BlackHole {
        return Some((key, Route::Blackhole));
    }
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    let device = device.unwrap_or_default();
    let Some(gateway) = gateway else { return Some((key, Route::Device(device))) };
    Some((key, Route::Via { gateway, device, onlink }))
}
