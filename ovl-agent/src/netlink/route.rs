//! Routes to the peers' subnets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{absent_is_success, describe, index_of};
use crate::backend::Route;
use crate::table::Table;

/// The mark of our routes: a protocol number that no routing daemon has (`/etc/iproute2/rt_protos`).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(111);

/// The routes of the main table that carry our mark and lead into the overlay's range.
#[derive(Debug)]
pub struct RouteTable {
    handle: Handle,
    network: Ipv4Net,
}

impl RouteTable {
    /// The routes inside `network`.
    pub fn new(handle: Handle, network: Ipv4Net) -> Self {
        Self { handle, network }
    }
}

impl Table for RouteTable {
    type Key = Ipv4Net;
    type Row = Route;

    fn name(&self) -> &'static str {
        "route"
    }

    async fn rows(&mut self) -> Result<BTreeMap<Ipv4Net, Route>> {
        let names: BTreeMap<u32, String> = super::interfaces(&self.handle)
            .await?
            .into_iter()
            .map(|(ifindex, interface)| (ifindex, interface.name))
            .collect();
        let ours =
            main_table(&self.handle).await?.into_iter().filter(|message| message.header.protocol == PROTOCOL);
        Ok(ours
            .filter_map(|message| row(&message, &names))
            .filter(|(net, _)| self.network.contains(net))
            .collect())
    }

    async fn put(&mut self, net: &Ipv4Net, route: &Route) -> Result<()> {
        let context = || format!("cannot add route {net} via {} dev {}", route.gateway, route.device);
        let index = index_of(&self.handle, &route.device).await?.with_context(context)?;
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .gateway(route.gateway)
            .output_interface(index)
            .protocol(PROTOCOL)
            .scope(RouteScope::Universe);
        if route.onlink {
            builder = builder.onlink();
        }
        self.handle
            .route()
            .add(builder.build())
            .replace()
            .execute()
            .await
            .map_err(describe)
            .with_context(context)
    }

    async fn delete(&mut self, net: &Ipv4Net) -> Result<()> {
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .protocol(PROTOCOL)
            .build();
        // Scope "nowhere" matches any; the builder's "universe" would do as well, but this cannot miss.
        message.header.scope = RouteScope::NoWhere;
        absent_is_success(self.handle.route().del(message).execute().await)
            .with_context(|| format!("cannot remove route {net}"))
    }
}

async fn main_table(handle: &Handle) -> Result<Vec<RouteMessage>> {
    let request = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
    let all: Vec<RouteMessage> =
        request.execute().try_collect().await.map_err(describe).context("cannot list the routes")?;
    Ok(all.into_iter().filter(|message| message.header.table == RouteHeader::RT_TABLE_MAIN).collect())
}

fn row(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<(Ipv4Net, Route)> {
    let mut destination = None;
    let mut gateway = Ipv4Addr::UNSPECIFIED;
    let mut device = String::new();
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            destination = Some(*address);
        } else if let RouteAttribute::Gateway(RouteAddress::Inet(address)) = attribute {
            gateway = *address;
        } else if let RouteAttribute::Oif(index) = attribute {
            device = names.get(index).cloned().unwrap_or_default();
        }
    }
    let net = Ipv4Net::new(destination?, message.header.destination_prefix_length).ok()?;
    Some((net, Route { gateway, device, onlink: message.header.flags.contains(RouteFlags::Onlink) }))
}

/// The interface of the default route, with the lowest metric where there are several.
pub async fn default_route_interface(handle: &Handle) -> Result<Option<u32>> {
    let mut best: Option<(u32, u32)> = None;
    for message in main_table(handle).await? {
        if message.header.destination_prefix_length != 0 {
            continue;
        }
        let mut metric = 0;
        let mut interface = None;
        for attribute in &message.attributes {
            if let RouteAttribute::Priority(priority) = attribute {
                metric = *priority;
            } else if let RouteAttribute::Oif(index) = attribute {
                interface = Some(*index);
            } else if let RouteAttribute::MultiPath(hops) = attribute {
                interface = interface.or(hops.first().map(|hop| hop.interface_index));
            }
        }
        if let Some(interface) = interface
            && best.is_none_or(|(lowest, _)| metric < lowest)
        {
            best = Some((metric, interface));
        }
    }
    Ok(best.map(|(_, interface)| interface))
}
