//! Kernel events. They carry no news, they only say that something changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::mark;
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
    ways_changed: AtomicBool,
    /// Indexes of the overlay devices; 0 is none.
    overlay: [AtomicU32; 2],
}

impl KernelEvents {
    /// Waits for the next event; one that came before counts.
    pub async fn next(&self) {
        self.wake.notified().await;
    }

    /// Whether the way to some address may be another since this was last asked: somebody else's route, an address or
    /// a link changed.
    pub fn take_ways_changed(&self) -> bool {
        self.ways_changed.swap(false, Ordering::Relaxed)
    }

    /// Says which the overlay devices are: neighbours of others don't matter.
    pub fn set_overlay(&self, devices: &ByFamily<u32>) {
        for (index, family) in self.overlay.iter().zip(Family::ALL) {
            index.store(devices.get(family).copied().unwrap_or(0), Ordering::Relaxed);
        }
    }

    fn is_overlay(&self, ifindex: u32) -> bool {
        self.overlay.iter().any(|index| index.load(Ordering::Relaxed) == ifindex)
    }

    fn note(&self, kind: &Kind) {
        match kind {
            Kind::Nothing => return,
            Kind::Row => {}
            Kind::Way => self.ways_changed.store(true, Ordering::Relaxed),
        }
        self.wake.notify_one();
    }
}

impl KernelEvents {
    fn kind(&self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> Kind {
        let NetlinkPayload::InnerMessage(message) = payload else { return Kind::Way };
        if let RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour) =
            message
        {
            let header = &neighbour.header;
            // What a device learned is no row of ours. A neighbour that is deleted says "failed" here.
            let is_learned =
                header.family == AddressFamily::Bridge && header.state == NeighbourState::Reachable;
            return if self.is_overlay(header.ifindex) && !is_learned { Kind::Row } else { Kind::Nothing };
        }
        if let RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) = message
            && is_pods(link)
        {
            return Kind::Row;
        }
        if let RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) = message
            && mark::is_ours(route.header.protocol)
        {
            return Kind::Row;
        }
        Kind::Way
    }
}

/// Whether a link is a bridge's port into another namespace. Pods come and go all the time; an underlay interface is no
/// port, and where it becomes one its addresses move, which makes events of their own.
fn is_pods(link: &LinkMessage) -> bool {
    let has = |wanted: fn(&LinkAttribute) -> bool| link.attributes.iter().any(wanted);
    has(|attribute| matches!(attribute, LinkAttribute::Controller(_)))
        && has(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)))
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
                    events.note(&events.kind(&message.payload));
                }
                connection.abort();
                debug!("the kernel's event socket ended; opening another");
            }
            Err(error) => warn!("cannot watch kernel events, changes are seen at the next resync: {error}"),
        }
        tokio::time::sleep(REOPEN).await;
    }
}
