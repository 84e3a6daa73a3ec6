//! Which program of XDP a device runs.

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};

use super::describe;
use crate::xdp::Mode;

/// The program that a device runs in a mode, by its number.
pub async fn xdp_program(handle: &Handle, ifindex: u32, mode: Mode) -> Result<Option<u32>> {
    let mut found = handle.link().get().match_index(ifindex).execute();
    let message = found.try_next().await.map_err(describe).context("cannot look for XDP programs")?;
    let attributes = message.map(|message| message.attributes).unwrap_or_default();
    Ok(attributes.iter().find_map(|attribute| {
        let LinkAttribute::Xdp(items) = attribute else { return None };
        items.iter().find_map(|item| match (item, mode) {
            (LinkXdp::DrvProgId(id), Mode::Native) | (LinkXdp::SkbProgId(id), Mode::Skb) => Some(*id),
            _ => None,
        })
    }))
}
