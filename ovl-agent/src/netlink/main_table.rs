//! The main routing table, whoever wrote it.

use std::net::IpAddr;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType,
};

use super::dump::{is_main, routes};
use super::lookup::{gateway, ip};
use crate::family::Family;

/// A route that leads somewhere: not one that is there to say no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainRoute {
    /// Where to.
    pub destination: IpNet,
    /// The lower, the better.
    pub metric: u32,
    /// The ways; several of a multipath route.
    pub hops: Vec<NextHop>,
}

/// One way of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface.
    pub ifindex: u32,
    /// The gateway, where there is one.
    pub gateway: Option<IpAddr>,
    /// Whether the kernel passes it over because its interface is down or has no carrier.
    pub dead: bool,
}

/// The routes of one family, in the kernel's order.
pub async fn main_routes(handle: &Handle, family: Family) -> Result<Vec<MainRoute>> {
    let messages: Vec<RouteMessage> = routes(handle, family).try_collect().await?;
    Ok(messages.iter().filter_map(|message| main_route(message, family)).collect())
}

fn main_route(message: &RouteMessage, family: Family) -> Option<MainRoute> {
    let header = &message.header;
    if !is_main(message) || header.kind != RouteType::Unicast {
        return None;
    }
    let (mut destination, mut metric, mut hops) = (family.unspecified(), 0, Vec::new());
    let (mut ifindex, mut via) = (None, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address)?;
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::Oif(index) = attribute {
            ifindex = Some(*index);
        } else if let RouteAttribute::MultiPath(several) = attribute {
            hops = several.iter().map(next_hop).collect();
        } else {
            via = gateway(attribute).or(via);
        }
    }
    // IPv6 lists the first way of several beside the list, too.
    if let Some(ifindex) = ifindex.filter(|_| hops.is_empty()) {
        let dead = header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown);
        hops.push(NextHop { ifindex, gateway: via, dead });
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(MainRoute { destination, metric, hops })
}

fn next_hop(hop: &RouteNextHop) -> NextHop {
    NextHop {
        ifindex: hop.interface_index,
        gateway: hop.attributes.iter().find_map(gateway),
        dead: hop.flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown),
    }
}
