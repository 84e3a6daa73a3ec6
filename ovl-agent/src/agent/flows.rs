//! Connections that have fallen idle after having been on the fast path.
//!
//! Conntrack did not see their last packets acknowledged, and so keeps them for minutes only
//! (`nf_conntrack_tcp_timeout_unacknowledged`), where it would keep an idle connection for days. The one that goes on
//! after an hour must still be the established one that it is, or a policy may not let it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use ovl_common::wire::TCP;
use ovl_common::{Flow, FlowKey, IpKey};
use tracing::{debug, warn};

use super::{Agent, RESYNC};
use crate::bpf::FlowMap;
use crate::cli;
use crate::conntrack::{Conntrack, Tuple};
use crate::fast_path::FastPath;

impl Agent {
    /// A look for connections that have fallen idle since the last one, where flows are verified.
    pub(super) fn look_at_flows(&self) -> Option<impl Future<Output = ()> + use<>> {
        let fast_path = self.tables.fast_path.as_ref()?;
        if fast_path.policy().fast_path != cli::FastPath::Verified {
            return None;
        }
        let flows = fast_path.flow_map();
        Some(async move {
            let looked = tokio::task::spawn_blocking(|| prolong_idle(&flows?));
            match looked.await.context("the look at idle flows ended early") {
                Ok(Ok(0)) => {}
                Ok(Ok(prolonged)) => debug!("{prolonged} idle connections keep their conntrack entries"),
                Ok(Err(error)) | Err(error) => {
                    warn!(
                        "connections that fall idle may be forgotten by conntrack after minutes: {error:#}"
                    );
                }
            }
        })
    }

    /// Removes the flows of pods that are gone, where some have gone since the last time; beside the loop, since that reads
    /// all flows. They would do no harm: a flow names its interface, and the map evicts what is idle. But who lists flows
    /// should not find the dead.
    pub(super) fn forget_flows_of_gone_pods(&mut self) {
        let left = self.tables.fast_path.as_mut().and_then(FastPath::after_pods_left);
        let forget = |(mut flows, present): (FlowMap, BTreeSet<IpKey>)| {
            flows.forget(|key| !present.contains(&key.local))
        };
        if let Some(left) = left {
            tokio::task::spawn_blocking(move || match left.and_then(forget) {
                Ok(forgotten) => debug!("{forgotten} flows of pods that are gone removed"),
                Err(error) => warn!("flows of pods that are gone stay listed: {error:#}"),
            });
        }
    }
}

fn prolong_idle(flows: &FlowMap) -> Result<usize> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?);
    let idle = flows.rows().filter_map(|row| match row {
        Ok((key, flow)) => fell_idle(&key, &flow, now).then(|| Ok(tuple(&key))),
        Err(error) => Some(Err(error)),
    });
    let idle = idle.collect::<Result<Vec<Tuple>>>()?;
    if idle.is_empty() {
        return Ok(0);
    }
    let prolonged = Conntrack::open()?.prolong(&idle)?;
    Ok(prolonged.prolonged)
}

/// Whether a flow was last used between one and three looks ago: old enough to be idle, and not looked at for ever.
fn fell_idle(key: &FlowKey, flow: &Flow, now: Duration) -> bool {
    let last = Duration::from_nanos(flow.out.last.max(flow.into.last));
    let since = now.saturating_sub(last);
    key.protocol == u32::from(TCP) && !last.is_zero() && since >= RESYNC && since < RESYNC * 3
}

fn tuple(key: &FlowKey) -> Tuple {
    let socket = |address, port| SocketAddr::new(IpAddr::from(address), u16::from_be_bytes(port));
    Tuple {
        protocol: TCP,
        source: socket(key.local, key.local_port),
        destination: socket(key.remote, key.remote_port),
    }
}

#[cfg(test)]
mod tests {
    use ovl_common::{Half, IpKey};

    use super::*;

    #[test]
    fn a_connection_is_prolonged_after_its_last_packet() {
        let key = FlowKey {
            local: IpKey::from_ipv4_octets([10, 42, 3, 2]),
            remote: IpKey::from_ipv4_octets([10, 42, 7, 2]),
            local_port: 40000u16.to_be_bytes(),
            remote_port: 80u16.to_be_bytes(),
            protocol: TCP.into(),
        };
        let now = Duration::from_secs(1000);
        let at = |seconds: u64| Half { last: seconds * 1_000_000_000, ..Half::default() };
        for (out, into, idle) in [
            (0, 0, false),
            (999, 0, false),
            (900, 999, false),
            (930, 900, true),
            (0, 920, true),
            (810, 0, false),
        ] {
            let flow = Flow { out: at(out), into: at(into), ..Flow::default() };
            assert_eq!(fell_idle(&key, &flow, now), idle, "{out} {into}");
            assert!(!fell_idle(&FlowKey { protocol: 17, ..key }, &flow, now));
        }
        let tuple = tuple(&key);
        assert_eq!(tuple.source.to_string(), "10.42.3.2:40000");
        assert_eq!(tuple.destination.to_string(), "10.42.7.2:80");
    }
}
