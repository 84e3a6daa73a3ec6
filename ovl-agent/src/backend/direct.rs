//! Rows of a peer that is reached without a tunnel: one route, with the peer itself as next hop.

use std::net::IpAddr;
use std::sync::Arc;

use bytemuck::Zeroable as _;
use ipnet::IpNet;
use ovl_common::{Remote, Travel};

use super::{Desired, Route, RouteKey, bpf_prefix};

/// Routes `subnet` through `public_ip`, which is on the link of `device`. The programs know no way but the underlay's.
pub(super) fn peer_rows(
    subnet: IpNet,
    public_ip: IpAddr,
    (device, underlay): (&Arc<str>, &Arc<str>),
    desired: &mut Desired,
) {
    let route = Route::Via { gateway: public_ip, device: Arc::clone(device), onlink: false };
    desired.routes.insert(RouteKey::usual(subnet), route);
    if device == underlay {
        let remote = Remote { node: public_ip.into(), travel: Travel::Direct as u8, ..Remote::zeroed() };
        desired.remotes.insert(bpf_prefix(subnet), remote);
    }
}
