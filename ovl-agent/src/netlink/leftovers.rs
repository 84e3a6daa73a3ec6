//! Routes that somebody before us left: flanneld, or ourselves when the network was another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol};

use super::dump::{is_main, routes};
use super::mark;
use super::route::{delete_route, interface_names, row};
use crate::backend::{Route, RouteKey};
use crate::family::{ByFamily, Family};

/// A route to be removed.
#[derive(Clone, Copy, Debug)]
pub struct Leftover {
    /// Which.
    pub key: RouteKey,
    protocol: RouteProtocol,
}

impl Leftover {
    /// Removes it; a route that is gone is a success.
    pub async fn remove(self, handle: &Handle) -> Result<()> {
        delete_route(handle, self.key, self.protocol).await
    }
}

/// Routes that a flanneld left, in the usual place and marked as nobody's, which is how it writes them: to what
/// `is_lease` says is some node's subnet, through a next hop behind one of `devices`; and blackholes.
pub async fn left_by_flannel(
    handle: &Handle,
    is_lease: impl Fn(IpNet) -> bool,
    devices: &BTreeSet<Arc<str>>,
) -> Result<Vec<Leftover>> {
    let names = interface_names(handle).await?;
    let boot = |protocol| protocol == RouteProtocol::Boot;
    let all = marked(handle, &names, boot).await?;
    let is_flannels = |key: &RouteKey, route: &Route| {
        let is_there = match route {
            Route::Via { device, .. } => devices.contains(device),
            Route::Device(_) => false,
            Route::Blackhole => true,
        };
        is_there && *key == RouteKey::usual(key.net) && is_lease(key.net)
    };
    Ok(all.into_iter().filter(|(key, route, _)| is_flannels(key, route)).map(leftover).collect())
}

/// Our own routes in `ranges`.
pub async fn left_in(handle: &Handle, ranges: &ByFamily<IpNet>) -> Result<Vec<Leftover>> {
    let all = marked(handle, &BTreeMap::new(), mark::is_ours).await?;
    let is_inside = |key: &RouteKey| ranges.iter().any(|(_, range)| range.contains(&key.net));
    Ok(all.into_iter().filter(|(key, ..)| is_inside(key)).map(leftover).collect())
}

fn leftover((key, _, protocol): (RouteKey, Route, RouteProtocol)) -> Leftover {
    Leftover { key, protocol }
}

/// The routes of the main table whose protocol `is_one` of those.
async fn marked(
    handle: &Handle,
    names: &BTreeMap<u32, Arc<str>>,
    is_one: impl Fn(RouteProtocol) -> bool,
) -> Result<Vec<(RouteKey, Route, RouteProtocol)>> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let messages: Vec<RouteMessage> = routes(handle, family).try_collect().await?;
        let ours = messages.iter().filter(|message| is_main(message) && is_one(message.header.protocol));
        found.extend(ours.filter_map(|message| {
            let (key, route) = row(message, names)?;
            Some((key, route, message.header.protocol))
        }));
    }
    Ok(found)
}
