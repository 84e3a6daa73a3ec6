//! Rows of a peer that is reached without a tunnel: one route, with the peer itself as next hop.

use std::sync::Arc;

use bytemuck::Zeroable as _;
use ovl_common::{Remote, Travel};

use super::{Desired, Here, Peer, Route, RouteKey, bpf_prefix};

/// Routes the peer's subnet through it, where it is on a link. The programs know no way but the underlay's.
pub(super) fn peer_rows(peer: &Peer<'_>, here: &Here<'_>, desired: &mut Desired) {
    let Some(device) = &peer.way.link else { return };
    let gateway = peer.way.node;
    let route = Route::Via { gateway, device: Arc::clone(device), onlink: false };
    desired.routes.insert(RouteKey::usual(peer.subnet), route);
    if *device == here.underlay {
        let remote = Remote { node: gateway.into(), travel: Travel::Direct as u8, ..Remote::zeroed() };
        desired.remotes.insert(bpf_prefix(peer.subnet), remote);
    }
}
