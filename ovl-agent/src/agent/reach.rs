//! Which peers are on the same link: what DirectRouting goes by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rtnetlink::Handle;

use crate::backend::OnLink;
use crate::netlink::{Interface, lookup, pipelined};

/// The kernel's answers, kept until somebody else's route, an address or a link changes.
#[derive(Debug, Default)]
pub(super) struct Reach {
    answers: BTreeMap<IpAddr, Option<Arc<str>>>,
}

impl Reach {
    /// Forgets all answers.
    pub(super) fn doubt(&mut self) {
        self.answers.clear();
    }

    /// The peers on the same link and the interface each is behind, and what went wrong. `overlay` are devices that lead
    /// to no link.
    ///
    /// Flannel's rule: the kernel has one way there, and it has no gateway. Where it cannot say, there is the tunnel.
    pub(super) async fn on_link(
        &mut self,
        handle: &Handle,
        peers: BTreeSet<IpAddr>,
        interfaces: &BTreeMap<u32, Interface>,
        overlay: &BTreeSet<String>,
    ) -> (OnLink, Vec<String>) {
        self.answers.retain(|peer, _| peers.contains(peer));
        let unknown: Vec<IpAddr> =
            peers.into_iter().filter(|peer| !self.answers.contains_key(peer)).collect();
        let hops = pipelined(&unknown, |peer| lookup(handle, *peer)).await;
        let mut errors = Vec::new();
        for (peer, hop) in unknown.into_iter().zip(hops) {
            let hop = hop.unwrap_or_else(|error| {
                errors.push(format!("{error:#}"));
                None
            });
            let hop = hop.filter(|hop| hop.single && hop.gateway.is_none());
            let device = hop.and_then(|hop| interfaces.get(&hop.ifindex)).map(|device| device.name.as_str());
            let device = device.filter(|name| *name != "lo" && !overlay.contains(*name));
            self.answers.insert(peer, device.map(Arc::from));
        }
        let on_link = self.answers.iter().filter_map(|(peer, device)| Some((*peer, device.clone()?)));
        (on_link.collect(), errors)
    }
}
