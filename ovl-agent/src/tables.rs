//! All tables of the node, and the one order in which they are made equal to what is wanted.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use ovl_common::{Prefix, Remote};
use rtnetlink::Handle;

use crate::backend::{Backend, Desired, Tunnel};
use crate::fast_path::{FastPath, PodPort, Unwanted};
use crate::netlink::{AddressTable, DeviceTable, FdbTable, NeighbourTable, RouteTable};
use crate::node::Node;
use crate::reconcile::{Outcome, delete, put_missing};

/// The node's tables.
pub struct Tables {
    devices: DeviceTable,
    overlay: Option<OverlayTables>,
    routes: RouteTable,
    /// The fast path, where it works.
    pub fast_path: Option<FastPath>,
}

/// The tables of the overlay device.
struct OverlayTables {
    addresses: AddressTable,
    neighbours: NeighbourTable,
    fdb: FdbTable,
}

impl Tables {
    /// The tables of `network` on this node. Ours are the devices that carry its name as their alias, what hangs on
    /// them, and the routes into it that carry our protocol number.
    pub fn new(handle: &Handle, backend: &Backend, network: Ipv4Net) -> Self {
        let device = backend.device();
        let overlay = device.clone().map(|device| OverlayTables {
            addresses: AddressTable::new(handle.clone(), device.clone(), network),
            neighbours: NeighbourTable::new(handle.clone(), device.clone()),
            fdb: FdbTable::new(handle.clone(), device),
        });
        Self {
            devices: DeviceTable::new(handle.clone(), format!("ovl {network}"), device),
            overlay,
            routes: RouteTable::new(handle.clone(), network),
            fast_path: None,
        }
    }

    /// Makes everything equal to `desired`: first what is missing, from the device up to the routes that lead traffic
    /// to it and the fast path past both, then away with what is too much, the other way round.
    pub async fn make(
        &mut self,
        node: &Node,
        tunnel: Tunnel,
        desired: &Desired,
        pods: &BTreeMap<u32, PodPort>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let out = &mut outcome;

        let devices = put_missing(&mut self.devices, &desired.devices, out).await.unwanted;
        let mut overlay = None;
        if let Some(tables) = &mut self.overlay {
            let addresses = put_missing(&mut tables.addresses, &desired.addresses, out).await.unwanted;
            out.own_rows_stand = out.errors.is_empty();
            let neighbours = put_missing(&mut tables.neighbours, &desired.neighbours, out).await.unwanted;
            let fdb = put_missing(&mut tables.fdb, &desired.fdb, out).await.unwanted;
            overlay = Some((addresses, neighbours, fdb));
        } else {
            out.own_rows_stand = out.errors.is_empty();
        }
        let routes = put_missing(&mut self.routes, &desired.routes, out).await;
        let mut bpf = Unwanted::default();
        if let Some(fast_path) = &mut self.fast_path {
            let remotes = carried_by_the_kernel(&desired.remotes, &routes.refused);
            bpf = fast_path.put(node, tunnel, &remotes, pods, out).await;
        }

        if let Some(fast_path) = &mut self.fast_path {
            fast_path.delete(&bpf, out).await;
        }
        delete(&mut self.routes, &routes.unwanted, out).await;
        if let (Some(tables), Some((addresses, neighbours, fdb))) = (&mut self.overlay, overlay) {
            delete(&mut tables.fdb, &fdb, out).await;
            delete(&mut tables.neighbours, &neighbours, out).await;
            delete(&mut tables.addresses, &addresses, out).await;
        }
        delete(&mut self.devices, &devices, out).await;
        outcome
    }
}

/// The peers that the kernel path reaches: the fast path goes where the kernel would, or not at all.
fn carried_by_the_kernel(
    remotes: &BTreeMap<Prefix, Remote>,
    refused: &[Ipv4Net],
) -> BTreeMap<Prefix, Remote> {
    let refused = refused.iter().map(|net| Prefix::new(net.addr().into(), net.prefix_len()));
    let mut carried = remotes.clone();
    for prefix in refused {
        carried.remove(&prefix);
    }
    carried
}
