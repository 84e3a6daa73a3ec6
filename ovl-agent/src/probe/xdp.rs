//! What `--xdp auto` would make of the interfaces that agents choose without other orders: those of the default routes.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cli;
use crate::family::Family;
use crate::netlink::{connect, interfaces, main_routes};
use crate::xdp::{Device, Mode, choose};

/// What would become of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Outlook {
    pub(super) interface: String,
    pub(super) mode: &'static str,
    pub(super) reason: String,
}

/// One for each interface; none where the kernel does not say.
pub(super) async fn outlook() -> Vec<Outlook> {
    let Ok(handle) = connect() else { return Vec::new() };
    let mut defaults = BTreeSet::new();
    for family in Family::ALL {
        let routes = main_routes(&handle, family).await.unwrap_or_default();
        let ways = routes
            .into_iter()
            .filter(|route| route.destination.prefix_len() == 0)
            .flat_map(|route| route.hops);
        defaults.extend(ways.map(|hop| hop.ifindex));
    }
    let interfaces = interfaces(&handle).await.unwrap_or_default();
    let chosen = interfaces.values().filter(|interface| defaults.contains(&interface.ifindex));
    chosen
        .map(|interface| {
            let device = Device::look(&interface.name, interface.mtu, interface.veth);
            let choice = choose(cli::Xdp::Auto, &device);
            let mode = choice.mode.map_or("off", Mode::name);
            Outlook { interface: interface.name.clone(), mode, reason: choice.reason }
        })
        .collect()
}
