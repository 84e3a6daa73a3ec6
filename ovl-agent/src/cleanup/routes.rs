//! Routes of overlays that no device takes along when it goes.

use std::net::IpAddr;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};

use super::devices::Devices;
use super::files::Ranges;
use super::{Leftover, Removal};
use crate::family::Family;
use crate::netlink::{absent_is_success, ip, mark, next_hop, routes};

/// Our routes and, inside `ranges`, flannel's.
pub(super) async fn find(handle: &Handle, devices: &Devices, ranges: &Ranges) -> Result<Vec<Leftover>> {
    let going = devices.going();
    let mut leftovers = Vec::new();
    for message in all(handle).await? {
        let Some(route) = Route::of(&message) else { continue };
        let goes_along = route.device.is_some_and(|device| going.contains(&device));
        if goes_along || !(route.is_ours() || route.is_flannels(ranges)) {
            continue;
        }
        leftovers.push(Leftover { what: route.describe(devices), how: Removal::Route(message) });
    }
    Ok(leftovers)
}

/// Deletes exactly the route that was listed.
pub(super) async fn remove(handle: &Handle, mut route: RouteMessage) -> Result<()> {
    // The kernel refuses a request with the state of the link in it, and looks at none of the other flags.
    route.header.flags = RouteFlags::empty();
    route.attributes.retain(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Destination(_)
                | RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::Oif(_)
                | RouteAttribute::Priority(_)
                | RouteAttribute::Table(_)
        )
    });
    absent_is_success(handle.route().del(route).execute().await)
}

async fn all(handle: &Handle) -> Result<Vec<RouteMessage>> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let of_family: Vec<RouteMessage> = routes(handle, family).try_collect().await?;
        all.extend(of_family);
    }
    Ok(all)
}

/// What of a route tells whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    net: IpNet,
    table: u32,
    protocol: RouteProtocol,
    kind: RouteType,
    gateway: Option<IpAddr>,
    device: Option<u32>,
}

impl Route {
    fn of(message: &RouteMessage) -> Option<Self> {
        // A default route names no destination.
        let family =
            if message.header.address_family == AddressFamily::Inet6 { Family::V6 } else { Family::V4 };
        let mut destination = family.unspecified();
        let mut table = u32::from(message.header.table);
        let (mut gateway, mut device) = (None, None);
        for attribute in &message.attributes {
            if let RouteAttribute::Destination(found) = attribute {
                destination = ip(found)?;
            } else if let RouteAttribute::Oif(found) = attribute {
                device = Some(*found);
            } else if let RouteAttribute::Table(found) = attribute {
                table = *found;
            } else {
                gateway = next_hop(attribute).or(gateway);
            }
        }
        let net = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
        let RouteHeader { protocol, kind, .. } = message.header;
        Some(Self { net, table, protocol, kind, gateway, device })
    }

    fn is_ours(&self) -> bool {
        self.table == u32::from(RouteHeader::RT_TABLE_MAIN) && mark::is_ours(self.protocol)
    }

    /// flannel's routes have no protocol of their own: a route by hand, too, is `boot`. What flannel writes past its own
    /// devices leads to one node's part of its range, by way of that node or into nothing (FLANNEL.md 5.1, 5.2, 7.4).
    fn is_flannels(&self, ranges: &Ranges) -> bool {
        let leads_past_devices = self.kind == RouteType::Unicast && self.gateway.is_some();
        self.table == u32::from(RouteHeader::RT_TABLE_MAIN)
            && self.protocol == RouteProtocol::Boot
            && (leads_past_devices || self.kind == RouteType::BlackHole)
            && ranges.have_part(&self.net)
    }

    fn describe(&self, devices: &Devices) -> String {
        if self.kind == RouteType::BlackHole {
            return format!("blackhole route {}", self.net);
        }
        let gateway = self.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        let device = self.device.map(|device| format!(" dev {}", devices.name(device))).unwrap_or_default();
        format!("route {}{gateway}{device}", self.net)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_known_by_protocol_or_shape_and_range() {
        let ranges = Ranges::parse("FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_IPV6_NETWORK=fd77::/48\n");
        let via = |net: &str| Route {
            net: net.parse().expect("valid"),
            table: 254,
            protocol: RouteProtocol::Boot,
            kind: RouteType::Unicast,
            gateway: Some("192.0.2.12".parse().expect("valid")),
            device: Some(2),
        };
        let direct = via("10.77.7.0/24");
        let ours = Route { protocol: RouteProtocol::Other(111), ..via("10.42.7.0/24") };
        // Ours, and flannel's.
        let table = [
            (direct.clone(), false, true),
            (via("fd77:0:0:5::/64"), false, true),
            (Route { kind: RouteType::BlackHole, gateway: None, ..direct.clone() }, false, true),
            (ours.clone(), true, false),
            (Route { kind: RouteType::BlackHole, gateway: None, ..ours.clone() }, true, false),
            (Route { table: 100, ..ours }, false, false),
            (Route { table: 100, ..direct.clone() }, false, false),
            (Route { protocol: RouteProtocol::Static, ..direct.clone() }, false, false),
            (Route { protocol: RouteProtocol::Kernel, gateway: None, ..direct.clone() }, false, false),
            (Route { gateway: None, ..direct }, false, false),
            (via("10.77.0.0/16"), false, false),
            (via("10.78.7.0/24"), false, false),
            (via("0.0.0.0/0"), false, false),
            (via("::/0"), false, false),
        ];
        for (route, ours, flannels) in table {
            assert_eq!((route.is_ours(), route.is_flannels(&ranges)), (ours, flannels), "{route:?}");
        }
    }
}
