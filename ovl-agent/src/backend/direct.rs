//! Rows of a peer that is reached without a tunnel: one route, with the peer itself as next hop.

use std::net::IpAddr;
use std::sync::Arc;

use bytemuck::Zeroable as _;
use ipnet::IpNet;
use ovl_common::{Remote, Travel};

use super::{Desired, Route, RouteKey, bpf_prefix};

/// Routes `subnet` through `public_ip`, which is on the link of `device`.
pub(super) fn peer_rows(subnet: IpNet, public_ip: IpAddr, device: &Arc<str>, desired: &mut Desired) {
    let route = Route::Via { gateway: public_ip, device: Arc::clone(device), onlink: false };
    desired.routes.insert(RouteKey::usual(subnet), route);
    if let (Some(prefix), IpAddr::V4(node)) = (bpf_prefix(subnet), public_ip) {
        let remote = Remote { node: node.into(), travel: Travel::Direct as u16, ..Remote::zeroed() };
        desired.remotes.insert(prefix, remote);
    }
}
