//! Kernel events. They carry no news, they only say that something changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use ovl_common::Mac;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::{fdb, mark};
use crate::family::{ByFamily, Family};

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
    MulticastGroup::Neigh,
];
const REOPEN: Duration = Duration::from_secs(1);

/// What the kernel's events have said since somebody last asked.
#[derive(Debug, Default)]
pub struct KernelEvents {
    wake: Notify,
    decisions: Notify,
    ways_changed: AtomicBool,
    /// Indexes of the overlay devices; 0 is none.
    overlay: [AtomicU32; 2],
    /// The socket that our own requests come from; 0 is none.
    own_port: u32,
    /// Forwarding entries as they should be: the kernel does not say who changed one.
    fdb: Mutex<BTreeMap<(Family, Mac), IpAddr>>,
}

impl KernelEvents {
    /// Waits for the next event; one that came before counts.
    pub async fn next(&self) {
        self.wake.notified().await;
    }

    /// Waits until netfilter's rules, or others' routes, addresses or links, have changed; a change that came before counts.
    pub async fn next_decision(&self) {
        self.decisions.notified().await;
    }

    /// Notes a change of netfilter's rules.
    pub fn note_rules(&self) {
        self.decisions.notify_one();
    }

    /// Whether the way to some address may be another since this was last asked: somebody else's route, an address or
    /// a link changed.
    pub fn take_ways_changed(&self) -> bool {
        self.ways_changed.swap(false, Ordering::Relaxed)
    }

    /// Events, but not of what the socket with this number asked for.
    pub fn past(own_port: u32) -> Self {
        Self { own_port, ..Self::default() }
    }

    /// Says which forwarding entries there should be, before they are written.
    pub fn set_fdb(&self, fdb: BTreeMap<(Family, Mac), IpAddr>) {
        *self.fdb.lock().unwrap_or_else(PoisonError::into_inner) = fdb;
    }

    /// Says which the overlay devices are: neighbours of others don't matter.
    pub fn set_overlay(&self, devices: &ByFamily<u32>) {
        for (index, family) in self.overlay.iter().zip(Family::ALL) {
            index.store(devices.get(family).copied().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// The family of an overlay device.
    fn overlay(&self, ifindex: u32) -> Option<Family> {
        let mut devices = Family::ALL.into_iter().zip(&self.overlay);
        devices.find(|(_, index)| index.load(Ordering::Relaxed) == ifindex).map(|(family, _)| family)
    }

    /// Whether an event says of a forwarding entry what should be so.
    fn is_expected(&self, family: Family, entry: &NeighbourMessage, is_new: bool) -> bool {
        let fdb = self.fdb.lock().unwrap_or_else(PoisonError::into_inner);
        match (fdb::row(entry), is_new) {
            (Some((mac, node)), true) => fdb.get(&(family, mac)) == Some(&node),
            (Some((mac, _)), false) => !fdb.contains_key(&(family, mac)),
            (None, _) => false,
        }
    }

    fn note(&self, kind: &Kind) {
        match kind {
            Kind::Nothing => return,
            Kind::Row => {}
            Kind::Way => {
                self.ways_changed.store(true, Ordering::Relaxed);
                self.decisions.notify_one();
            }
        }
        self.wake.notify_one();
    }
}

impl KernelEvents {
    fn kind(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> Kind {
        let NetlinkPayload::InnerMessage(inner) = &message.payload else { return Kind::Way };
        // What we asked for is no news.
        if self.own_port != 0 && message.header.port_number == self.own_port {
            return Kind::Nothing;
        }
        if let RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour) =
            inner
        {
            let is_new = matches!(inner, RouteNetlinkMessage::NewNeighbour(_));
            return self.neighbours_kind(neighbour, is_new);
        }
        if let RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) = inner
            && is_pods(link)
        {
            return Kind::Row;
        }
        if let RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) = inner
            && mark::is_ours(route.header.protocol)
        {
            return Kind::Row;
        }
        Kind::Way
    }

    fn neighbours_kind(&self, neighbour: &NeighbourMessage, is_new: bool) -> Kind {
        let header = &neighbour.header;
        let Some(family) = self.overlay(header.ifindex) else { return Kind::Nothing };
        if header.family != AddressFamily::Bridge {
            // One that is deleted says "failed" here.
            return Kind::Row;
        }
        // What a device learned is no row of ours.
        let is_learned = header.state == NeighbourState::Reachable;
        if is_learned || self.is_expected(family, neighbour, is_new) { Kind::Nothing } else { Kind::Row }
    }
}

/// What an event is about.
enum Kind {
    /// Nothing that matters here.
    Nothing,
    /// One of the tables that we write.
    Row,
    /// The ways that the kernel knows, too.
    Way,
}

/// Whether a link is a bridge's port into another namespace. Pods come and go all the time; an underlay interface is no
/// port, and where it becomes one its addresses move, which makes events of their own.
fn is_pods(link: &LinkMessage) -> bool {
    let has = |wanted: fn(&LinkAttribute) -> bool| link.attributes.iter().any(wanted);
    has(|attribute| matches!(attribute, LinkAttribute::Controller(_)))
        && has(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)))
}

/// Tells `events` whenever links, addresses, routes or the overlay's neighbours may have changed, until the task ends.
///
/// A socket that the kernel overran says so, which counts as a change of everything, as does one that was opened anew.
pub async fn watch(events: Arc<KernelEvents>) {
    loop {
        match rtnetlink::new_multicast_connection(&GROUPS) {
            Ok((connection, _handle, mut messages)) => {
                let connection = tokio::spawn(connection);
                events.note(&Kind::Way);
                while let Some((message, _)) = messages.next().await {
                    events.note(&events.kind(&message));
                }
                connection.abort();
                debug!("the kernel's event socket ended; opening another");
            }
            Err(error) => warn!("cannot watch kernel events, changes are seen at the next resync: {error}"),
        }
        tokio::time::sleep(REOPEN).await;
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::neighbour::NeighbourAttribute;
    use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol};

    use super::*;

    const PORT: u32 = 4711;
    const DEVICE: u32 = 5;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 12];

    fn events() -> KernelEvents {
        let events = KernelEvents::past(PORT);
        events.set_overlay(&ByFamily { v4: Some(DEVICE), v6: None });
        events.set_fdb(BTreeMap::from([((Family::V4, Mac(MAC)), [192, 0, 2, 12].into())]));
        events
    }

    /// `nothing`, `row` or `way`.
    fn kind(port: u32, inner: RouteNetlinkMessage) -> &'static str {
        let mut message = NetlinkMessage::from(inner);
        message.header.port_number = port;
        match events().kind(&message) {
            Kind::Nothing => "nothing",
            Kind::Row => "row",
            Kind::Way => "way",
        }
    }

    fn entry(family: AddressFamily, device: u32, state: NeighbourState, mac: [u8; 6]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = device;
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let node = std::net::Ipv4Addr::new(192, 0, 2, 12);
        message.attributes.push(NeighbourAttribute::Destination(IpAddr::V4(node).into()));
        message
    }

    #[test]
    fn only_what_others_did_to_rows_and_ways_matters() {
        use AddressFamily::{Bridge, Inet};
        use NeighbourState::{Failed, Permanent, Reachable};
        use RouteNetlinkMessage::{DelNeighbour, NewNeighbour, NewRoute};
        let route = |protocol: u8| {
            let mut message = RouteMessage::default();
            message.header.protocol = RouteProtocol::from(protocol);
            NewRoute(message)
        };
        let stranger = [2, 0, 0, 0, 0, 99];
        let table = [
            ("our own route, written by us", PORT, route(111), "nothing"),
            ("our own route, written by another", 0, route(111), "row"),
            ("another's route", 0, route(3), "way"),
            ("an entry as it should be", 0, NewNeighbour(entry(Bridge, DEVICE, Permanent, MAC)), "nothing"),
            (
                "an entry that should be there goes",
                0,
                DelNeighbour(entry(Bridge, DEVICE, Permanent, MAC)),
                "row",
            ),
            ("one of nobody", 0, NewNeighbour(entry(Bridge, DEVICE, Permanent, stranger)), "row"),
            ("which goes", 0, DelNeighbour(entry(Bridge, DEVICE, Permanent, stranger)), "nothing"),
            ("one that was learned", 0, NewNeighbour(entry(Bridge, DEVICE, Reachable, stranger)), "nothing"),
            ("a neighbour that was deleted", 0, DelNeighbour(entry(Inet, DEVICE, Failed, MAC)), "row"),
            ("on another device", 0, NewNeighbour(entry(Inet, 9, Permanent, MAC)), "nothing"),
        ];
        for (name, port, message, expected) in table {
            assert_eq!(kind(port, message), expected, "{name}");
        }
    }
}
