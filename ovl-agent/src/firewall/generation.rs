//! The kernel's count of nftables transactions, which says cheapest of all whether anything changed.

use anyhow::{Context as _, Result};
use nix::errno::Errno;

use crate::netlink::nfnetlink::{Attributes, NFTABLES, Netlink, Scope, attributes};

/// `NFT_MSG_GETGEN` and `NFTA_GEN_ID` in linux/netfilter/nf_tables.h.
const GETGEN: u16 = NFTABLES | 16;
const GEN_ID: u16 = 1;

/// The generation of this thread's network namespace: every transaction adds one. `None` where the kernel has no
/// nf_tables.
pub(super) fn now() -> Result<Option<u32>> {
    let mut generation = None;
    let asked = Netlink::open().and_then(|netlink| {
        netlink.ask(GETGEN, Scope::One, 0, &Attributes::default(), |answer| {
            let id = attributes(answer).find(|(kind, _)| *kind == GEN_ID);
            // Numbers in nftables' attributes are big-endian.
            generation = id.and_then(|(_, value)| value.try_into().ok()).map(u32::from_be_bytes);
        })
    });
    match asked {
        Ok(()) => Ok(generation),
        Err(Errno::EINVAL | Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error)
            .context("cannot ask the kernel for its nftables generation; the agent needs CAP_NET_ADMIN"),
    }
}
