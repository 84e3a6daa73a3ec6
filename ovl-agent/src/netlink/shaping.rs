//! Interfaces whose traffic somebody shapes or polices with `tc`, as the CNI bandwidth plugin does.
//!
//! Packets that programs redirect meet neither the qdisc of the interface they would have gone out of, nor the filters
//! that stand behind tcx programs.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage};

use super::describe;
use crate::bpf::filters::PRIORITY;

/// What the kernel gives an interface by itself, and what has no effect on packets.
const HARMLESS: [&str; 4] = ["noqueue", "noop", "ingress", "clsact"];

/// The interfaces among `candidates` with a queueing discipline, or with filters of others.
pub async fn shaped(handle: &Handle, candidates: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
    let mut shaped = BTreeSet::new();
    let qdiscs: Vec<TcMessage> =
        handle.qdisc().get().execute().try_collect().await.map_err(describe).context("cannot list qdiscs")?;
    for qdisc in qdiscs {
        let Ok(ifindex) = u32::try_from(qdisc.header.index) else { continue };
        let Some(kind) = kind(&qdisc).filter(|_| candidates.contains(&ifindex)) else { continue };
        let has_hooks = kind == "ingress" || kind == "clsact";
        if !HARMLESS.contains(&kind) || (has_hooks && has_filters(handle, ifindex).await?) {
            shaped.insert(ifindex);
        }
    }
    Ok(shaped)
}

async fn has_filters(handle: &Handle, ifindex: u32) -> Result<bool> {
    let mut filters = handle.traffic_filter(i32::try_from(ifindex)?);
    for request in [filters.get().ingress(), filters.get().egress()] {
        let found: Vec<TcMessage> = request
            .execute()
            .try_collect()
            .await
            .map_err(describe)
            .with_context(|| format!("cannot list the tc filters of interface {ifindex}"))?;
        if found.iter().any(|filter| filter.header.info >> 16 != u32::from(PRIORITY)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| {
        if let TcAttribute::Kind(kind) = attribute { Some(kind.as_str()) } else { None }
    })
}
