//! clsact filters, which outlive the agent that was killed.

use anyhow::{Context as _, Result};
use rtnetlink::Handle;

use super::{Leftover, Removal};
use crate::bpf::filters::Filter;
use crate::netlink::interfaces;

/// The filters that any agent made, of whatever overlay.
pub(super) async fn find(handle: &Handle) -> Result<Vec<Leftover>> {
    let mut leftovers = Vec::new();
    for (ifindex, interface) in interfaces(handle).await? {
        let filters = Filter::list(handle, ifindex).await.with_context(|| interface.name.clone())?;
        leftovers.extend(filters.into_iter().map(|filter| {
            let program = filter.hook.program;
            let direction = if filter.hook.is_ingress() { "ingress" } else { "egress" };
            let what = format!("tc filter {} on {} {direction}", program.name(), interface.name);
            Leftover { what, how: Removal::Filter(filter) }
        }));
    }
    Ok(leftovers)
}
