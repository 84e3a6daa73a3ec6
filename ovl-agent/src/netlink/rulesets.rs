//! Events of nftables: whatever was decided about a flow may be decided otherwise after one.
//!
//! Rules of legacy iptables make no events, nor do sets of ipset; what changes there shows when a flow is verified anew.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

use super::nfnetlink::{NFTABLES, Netlink};

/// `NFNLGRP_NFTABLES` in linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;
/// `NFT_MSG_NEWGEN` in linux/netfilter/nf_tables.h: the end of a transaction.
const NEWGEN: u16 = NFTABLES | 15;
/// Before a socket that ended is opened anew.
const REOPEN: Duration = Duration::from_secs(1);
/// Before another try where the kernel has none: each makes it look for a module, which takes a process.
const RETRY: Duration = Duration::from_mins(1);

/// Calls `changed` after every transaction of nftables in this network namespace, iptables-nft's and our own among them,
/// until the task ends. A socket that the kernel overran says so, which counts as a change, as does one that was
/// opened, the first included.
pub async fn watch_rulesets(changed: impl Fn()) {
    let mut warned = false;
    loop {
        let pause = match subscribe() {
            Ok(events) => {
                changed();
                let error = follow(&events, &changed).await;
                debug!("the socket for nftables events ended ({error}); opening another");
                REOPEN
            }
            // Without netfilter there are no rules.
            Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => RETRY,
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    warn!(
                        "cannot watch nftables events ({error}): changed rules take effect when flows are verified anew"
                    );
                }
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn subscribe() -> io::Result<AsyncFd<Netlink>> {
    let events = Netlink::subscribe(GROUP)?;
    // SAFETY: a `Netlink` owns one socket from when it is made until it is dropped, and names no other.
    Ok(unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?)
}

/// Reads events until the socket is of no more use, and returns why.
async fn follow(events: &AsyncFd<Netlink>, changed: impl Fn()) -> io::Error {
    loop {
        match events.async_io(Interest::READABLE, |netlink| Ok(netlink.event()?)).await {
            Ok(kinds) if kinds.contains(&NEWGEN) => changed(),
            Ok(_part_of_a_transaction) => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => changed(),
            Err(error) => return error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn a_task_can_watch() {
        fn is_send(_task: impl Future + Send) {}
        let wake = Arc::new(Notify::new());
        is_send(watch_rulesets(move || wake.notify_one()));
    }
}
