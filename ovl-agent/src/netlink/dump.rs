//! The kernel's lists, as netlink has them.

use std::future::ready;

use anyhow::{Context as _, Result};
use futures_util::{TryStream, TryStreamExt as _};
use rtnetlink::Handle;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage};

use super::{address_family, describe};
use crate::family::Family;

/// All interfaces.
pub(crate) async fn links(handle: &Handle) -> Result<Vec<LinkMessage>> {
    let messages = handle.link().get().execute();
    messages.try_collect().await.map_err(describe).context("cannot list the interfaces")
}

/// All routes of one family, whatever table they are in, one by one: a large cluster's list is large.
pub(crate) fn routes(
    handle: &Handle,
    family: Family,
) -> impl TryStream<Ok = RouteMessage, Error = anyhow::Error> + Unpin {
    let mut question = RouteMessage::default();
    question.header.address_family = address_family(family);
    let answers = handle.route().get(question).execute();
    answers
        .map_err(move |error| describe(error).context(format!("cannot list the {family} routes")))
        // A kernel without IPv6 answers with the routes that it has.
        .try_filter(move |route| ready(route.header.address_family == address_family(family)))
}

/// Whether a route is in the main table.
pub(super) fn is_main(message: &RouteMessage) -> bool {
    message.header.table == RouteHeader::RT_TABLE_MAIN
}
