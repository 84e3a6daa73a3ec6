//! Kernel events. They carry no news, they only say that something changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourState;
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::mark;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Neigh,
];
const REOPEN: Duration = Duration::from_secs(1);

/// What the kernel's events have said since somebody last asked.
#[derive(Debug, Default)]
pub struct KernelEvents {
    wake: Notify,
    ways_changed: AtomicBool,
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

    fn note(&self, kind: &Kind) {
        match kind {
            Kind::Nothing => return,
            Kind::Row => {}
            Kind::Way => self.ways_changed.store(true, Ordering::Relaxed),
        }
        self.wake.notify_one();
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

/// Tells `events` whenever links, addresses, routes or permanent neighbours may have changed, until the task ends.
///
/// A socket that the kernel overran is opened anew, and counts as a change of everything.
pub async fn watch(events: Arc<KernelEvents>) {
    loop {
        match rtnetlink::new_multicast_connection(&GROUPS) {
            Ok((connection, _handle, mut messages)) => {
                let connection = tokio::spawn(connection);
                events.note(&Kind::Way);
                while let Some((message, _)) = messages.next().await {
                    events.note(&kind(&message.payload));
                }
                connection.abort();
                debug!("the kernel's event socket ended; opening another");
            }
            Err(error) => warn!("cannot watch kernel events, changes are seen at the next resync: {error}"),
        }
        tokio::time::sleep(REOPEN).await;
    }
}

fn kind(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Kind {
    let NetlinkPayload::InnerMessage(message) = payload else { return Kind::Way };
    if let RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour) =
        message
    {
        // The state of learned neighbours changes all the time, and is none of our rows.
        let is_permanent = neighbour.header.state == NeighbourState::Permanent;
        return if is_permanent { Kind::Row } else { Kind::Nothing };
    }
    if let RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) = message
        && mark::is_ours(route.header.protocol)
    {
        return Kind::Row;
    }
    Kind::Way
}
