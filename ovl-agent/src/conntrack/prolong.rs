//! Giving idle connections the time that connection tracking would have given them.
//!
//! It did not see the last acknowledgements of a TCP connection that was on the fast path, and remembers it for
//! `nf_conntrack_tcp_timeout_unacknowledged` (300 s) instead of `nf_conntrack_tcp_timeout_established` (5 days). A
//! connection that it forgot is a new one for the rules, in the middle of its stream.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;

use super::entry::{Tuple, is_short, with_timeout};
use super::timeouts::{ESTABLISHED, FOLDER, seconds};
use crate::netlink::nfnetlink::{Attributes, CONNTRACK, Netlink, Request};

/// `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_GET` in linux/netfilter/nfnetlink_conntrack.h. `NEW` without `NLM_F_CREATE`
/// changes what is there.
const NEW: u16 = CONNTRACK;
const GET: u16 = CONNTRACK | 1;
/// So many are asked for at once. Few: between question and change, a connection may be closed.
const AT_ONCE: usize = 64;

/// What became of some flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prolonged {
    /// So many have more time now.
    pub prolonged: usize,
    /// So many needed none: they have enough, are being closed, or are no TCP.
    pub left: usize,
    /// So many are not known to connection tracking (any more).
    pub unknown: usize,
}

/// Connection tracking in one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    netlink: Netlink,
}

impl Conntrack {
    /// Opens it in the network namespace of this thread.
    pub fn open() -> Result<Self> {
        Ok(Self { netlink: Netlink::open().context("cannot open a netlink socket to connection tracking")? })
    }

    /// Gives connections in the state ESTABLISHED the timeout of that state, where they have less. Takes a few
    /// microseconds per flow, with which a thread of its own should be spent.
    ///
    /// After an error the rest is as it was, and another [`Conntrack`] has to be opened.
    pub fn prolong(&mut self, flows: &[Tuple]) -> Result<Prolonged> {
        let mut done = Prolonged::default();
        let Some(established) = seconds(Path::new(FOLDER), ESTABLISHED) else {
            // No connection tracking at all.
            return Ok(Prolonged { unknown: flows.len(), ..done });
        };
        for flows in flows.chunks(AT_ONCE) {
            self.prolong_some(flows, established, &mut done).context(
                "cannot prolong idle connections in connection tracking; the agent needs CAP_NET_ADMIN",
            )?;
        }
        Ok(done)
    }

    fn prolong_some(&self, flows: &[Tuple], established: Duration, done: &mut Prolonged) -> nix::Result<()> {
        let seconds = u32::try_from(established.as_secs()).unwrap_or(u32::MAX);
        let names: Vec<(u8, Attributes)> = flows.iter().filter_map(Tuple::of_tcp).collect();
        done.left += flows.len() - names.len();
        let questions = names.iter().map(|(family, name)| Request {
            kind: GET,
            family: *family,
            attributes: name.clone(),
            is_command: false,
        });
        let descriptions = self.netlink.ask_each(&questions.collect::<Vec<_>>())?;
        let mut changes = Vec::new();
        for ((family, name), description) in names.into_iter().zip(descriptions) {
            match description {
                Ok(description) if is_short(&description, seconds) => {
                    let attributes = with_timeout(name, seconds);
                    changes.push(Request { kind: NEW, family, attributes, is_command: true });
                }
                Ok(_) => done.left += 1,
                Err(Errno::ENOENT) => done.unknown += 1,
                Err(error) => return Err(error),
            }
        }
        for answer in self.netlink.ask_each(&changes)? {
            match answer {
                Ok(_) => done.prolonged += 1,
                Err(Errno::ENOENT) => done.unknown += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
