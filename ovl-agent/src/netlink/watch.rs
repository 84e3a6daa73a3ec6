//! Kernel events. They carry no news, they only say that something changed.

use std::time::Duration;

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourState;
use tokio::sync::mpsc;
use tracing::{debug, warn};

const GROUPS: [MulticastGroup; 4] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route, MulticastGroup::Neigh];
const REOPEN: Duration = Duration::from_secs(1);

/// Sends `()` whenever links, addresses, routes or permanent neighbours may have changed, until `wake` is closed.
///
/// A full channel is fine: a wake-up is pending then. A socket that the kernel overran is opened anew, and counts as
/// a change.
pub async fn watch(wake: mpsc::Sender<()>) {
    while !wake.is_closed() {
        match rtnetlink::new_multicast_connection(&GROUPS) {
            Ok((connection, _handle, mut messages)) => {
                let connection = tokio::spawn(connection);
                let _pending = wake.try_send(());
                while let Some((message, _)) = messages.next().await {
                    if matters(&message.payload) {
                        let _pending = wake.try_send(());
                    }
                }
                connection.abort();
                debug!("the kernel's event socket ended; opening another");
            }
            Err(error) => warn!("cannot watch kernel events, changes are seen at the next resync: {error}"),
        }
        tokio::time::sleep(REOPEN).await;
    }
}

/// The state of learned neighbours changes all the time, and is none of our rows.
fn matters(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    if let NetlinkPayload::InnerMessage(
        RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour),
    ) = payload
    {
        neighbour.header.state == NeighbourState::Permanent
    } else {
        true
    }
}
