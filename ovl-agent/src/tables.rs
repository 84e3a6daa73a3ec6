//! All tables of the node, and the one order in which they are made equal to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ovl_common::{Mac, Prefix, Remote};
use rtnetlink::Handle;
use tracing::{info, warn};

use crate::backend::{Backend, Desired, RouteKey, bpf_prefix};
use crate::cli::SourceCheck;
use crate::family::{ByFamily, Family};
use crate::fast_path::{Cluster, FastPath, Places};
use crate::instance::Instance;
use crate::netlink::{
    AddressTable, DeviceTable, FdbTable, IpTunnelTable, NeighbourTable, RouteTable, left_by_flannel, left_in,
};
use crate::network::Network;
use crate::node::Node;
use crate::reconcile::{History, Known, Outcome, delete, put_missing};
use crate::table::Table;
use crate::udp::{Surroundings, UdpPath};

/// The node's tables.
pub struct Tables {
    handle: Handle,
    devices: Own<DeviceTable>,
    ip_tunnels: Own<IpTunnelTable>,
    addresses: Own<AddressTable>,
    neighbours: Own<NeighbourTable>,
    fdb: Own<FdbTable>,
    routes: Own<RouteTable>,
    /// Whether routes that a flanneld left have been looked for.
    is_adopted: bool,
    /// The udp backend's device, workers and peers.
    pub udp: UdpPath,
    /// The fast path, where it works.
    pub fast_path: Option<FastPath>,
}

/// A table and what is known of it.
#[derive(Debug)]
pub(crate) struct Own<T: Table> {
    pub(crate) table: T,
    pub(crate) known: Known<T::Key, T::Row>,
}

impl<T: Table> Own<T> {
    pub(crate) fn new(table: T) -> Self {
        Self { table, known: Known::default() }
    }

    pub(crate) fn report(&self) -> Report {
        Report { name: self.table.name(), rows: self.known.len(), history: self.known.history() }
    }
}

/// Rows that nobody asks for.
struct Unwanted {
    addresses: Vec<(Family, IpNet)>,
    neighbours: Vec<(Family, IpAddr)>,
    fdb: Vec<(Family, Mac)>,
    routes: Vec<RouteKey>,
}

/// What to say of one table.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// What its rows are.
    pub name: &'static str,
    /// How many of them are ours.
    pub rows: usize,
    /// What has happened to them.
    pub history: History,
}

/// Whether what is known of the tables is still true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nobody but us has touched them as far as we heard: write what the leases ask for.
    Trust,
    /// Nothing but where programs are attached can have changed: nobody is told when one is taken off.
    Hooks,
    /// List them.
    Anew,
}

impl Tables {
    /// The tables of `network` on this node. Ours are the devices that carry its name as their alias, what hangs on
    /// them, and the routes into it that carry our protocol number.
    pub fn new(handle: &Handle, backend: &Backend, network: &Network) -> Self {
        let (devices, ranges) = (backend.devices(), network.ranges());
        let alias = format!("ovl {}", network.name());
        // What of them each table is to have.
        let none = ByFamily::default;
        let (vxlans, ip_tunnels, tun) = match backend {
            Backend::Vxlan(_) => (devices.clone(), none(), None),
            Backend::Ipip(_) => (none(), devices.clone(), None),
            Backend::Udp(_) => (none(), none(), devices.v4.clone()),
            Backend::HostGw(_) | Backend::Alloc => (none(), none(), None),
        };
        Self {
            handle: handle.clone(),
            devices: Own::new(DeviceTable::new(handle.clone(), alias.clone(), vxlans)),
            ip_tunnels: Own::new(IpTunnelTable::new(handle.clone(), alias.clone(), ip_tunnels)),
            addresses: Own::new(AddressTable::new(handle.clone(), devices.clone(), ranges)),
            neighbours: Own::new(NeighbourTable::new(handle.clone(), devices.clone(), ranges)),
            fdb: Own::new(FdbTable::new(handle.clone(), devices)),
            routes: Own::new(RouteTable::new(handle.clone(), ranges)),
            udp: UdpPath::new(handle.clone(), alias, tun),
            is_adopted: false,
            fast_path: None,
        }
    }

    /// Makes everything equal to `desired`: first what is missing, from the device up to the routes that lead traffic
    /// to it and the fast path past both, then away with what is too much, the other way round.
    pub async fn make(
        &mut self,
        node: &Node,
        desired: &Desired,
        cluster: &Cluster<'_>,
        places: &Places<'_>,
        (look, check): (Look, SourceCheck),
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let out = &mut outcome;
        if look == Look::Anew {
            self.doubt();
        }

        let around = Surroundings { nodes: cluster.nodes, nodes_unsure: cluster.nodes_unsure, check };
        let tuns = self.udp.make(node, desired, &around, out).await;
        let devices = put(&mut self.devices, &desired.devices, out).await;
        let ip_tunnels = put(&mut self.ip_tunnels, &desired.ip_tunnels, out).await;
        if out.put > 0 {
            // What hung on a device that was made anew went with the old one.
            self.doubt();
        }
        let addresses = put(&mut self.addresses, &desired.addresses, out).await;
        out.own_rows_stand = out.errors.is_empty();
        let neighbours = put(&mut self.neighbours, &desired.neighbours, out).await;
        let fdb = put(&mut self.fdb, &desired.fdb, out).await;
        let routes = put_missing(&mut self.routes.table, &mut self.routes.known, &desired.routes, out).await;
        let unwanted = Unwanted { addresses, neighbours, fdb, routes: routes.unwanted };
        let unwanted = self.past_kept(desired, unwanted);
        if let Some(fast_path) = &mut self.fast_path {
            let remotes = carried_by_the_kernel(cluster.remotes, &routes.refused);
            let remotes_withheld = !routes.refused.is_empty();
            let cluster = Cluster { remotes: &remotes, remotes_withheld, ..*cluster };
            fast_path.make(node, &cluster, places, out).await;
        }
        take(&mut self.routes, &unwanted.routes, out).await;
        take(&mut self.fdb, &unwanted.fdb, out).await;
        take(&mut self.neighbours, &unwanted.neighbours, out).await;
        take(&mut self.addresses, &unwanted.addresses, out).await;
        take(&mut self.ip_tunnels, &ip_tunnels, out).await;
        take(&mut self.devices, &devices, out).await;
        self.udp.remove(&tuns, out).await;
        outcome
    }

    /// Removes, once, the routes that somebody before us left and nobody wants: a flanneld, and ourselves where the
    /// network had other ranges (`before`). Those whose leases are still there were replaced by ours.
    pub async fn adopt(&mut self, network: &Network, desired: &Desired, before: &ByFamily<IpNet>) {
        if std::mem::replace(&mut self.is_adopted, true) {
            return;
        }
        let is_stale = |net: IpNet| {
            let is_lease = network.pools.iter().any(|(_, pool)| pool.fits(net));
            is_lease && !desired.routes.contains_key(&RouteKey::usual(net)) && !desired.kept.contains(&net)
        };
        // A range that another agent has is none of ours any more.
        let is_free = |range: &IpNet| Instance::claim(&range.to_string()).is_ok();
        let former = ByFamily::from_fn(|family| {
            before
                .get(family)
                .copied()
                .filter(|range| network.range(family) != Some(*range) && is_free(range))
        });
        let removed = async {
            let flannels = left_by_flannel(&self.handle, is_stale, &desired.ways).await?;
            let ours = left_in(&self.handle, &former).await?;
            for route in flannels.into_iter().chain(ours) {
                route.remove(&self.handle).await?;
                info!("removed route {} that an earlier agent left: no lease asks for it", route.key);
            }
            anyhow::Ok(())
        };
        if let Err(error) = removed.await {
            warn!("cannot remove routes that an earlier agent left: {error:#}");
        }
    }

    /// Puts the programs back where they were taken off.
    pub async fn mend_hooks(&mut self, outcome: &mut Outcome) {
        if let Some(fast_path) = &mut self.fast_path {
            fast_path.mend_hooks(outcome).await;
        }
    }

    /// What to say of each table.
    pub fn reports(&self) -> Vec<Report> {
        let udp = self.udp.reports();
        // The devices of a kind that the backend has not are looked after all the same, and nothing to speak of.
        let devices = [self.devices.report(), self.ip_tunnels.report()];
        let devices = devices.into_iter().filter(|report| report.rows > 0 || report.name == "device");
        let others =
            [self.addresses.report(), self.neighbours.report(), self.fdb.report(), self.routes.report()];
        udp.into_iter().chain(devices).chain(others).collect()
    }

    /// What is unwanted without the rows of peers whose leases cannot be read: what is there of them stays.
    fn past_kept(&self, desired: &Desired, mut unwanted: Unwanted) -> Unwanted {
        if !desired.kept.is_empty() {
            let bases: BTreeSet<IpAddr> = desired.kept.iter().map(IpNet::addr).collect();
            let on = |device| bases.iter().map(move |base| (device, *base));
            let macs: BTreeSet<(Family, Mac)> = Family::ALL
                .into_iter()
                .flat_map(on)
                .filter_map(|key| Some((key.0, *self.neighbours.known.get(&key)?)))
                .collect();
            // On either device: who knows which of them their routes lead to.
            let own: BTreeSet<IpNet> = desired.addresses.keys().map(|(_, net)| *net).collect();
            unwanted.routes.retain(|key| !desired.kept.contains(&key.net));
            unwanted.neighbours.retain(|(_, address)| !bases.contains(address));
            unwanted.fdb.retain(|key| !macs.contains(key));
            unwanted.addresses.retain(|(_, net)| !own.contains(net));
        }
        unwanted
    }

    fn doubt(&mut self) {
        self.udp.doubt();
        self.devices.known.doubt();
        self.ip_tunnels.known.doubt();
        self.addresses.known.doubt();
        self.neighbours.known.doubt();
        self.fdb.known.doubt();
        self.routes.known.doubt();
        if let Some(fast_path) = &mut self.fast_path {
            fast_path.doubt();
        }
    }
}

/// Puts what is missing and returns what is too much.
async fn put<T: Table>(
    own: &mut Own<T>,
    want: &BTreeMap<T::Key, T::Row>,
    outcome: &mut Outcome,
) -> Vec<T::Key> {
    put_missing(&mut own.table, &mut own.known, want, outcome).await.unwanted
}

async fn take<T: Table>(own: &mut Own<T>, keys: &[T::Key], outcome: &mut Outcome) {
    delete(&mut own.table, &mut own.known, keys, outcome).await;
}

/// The peers that the kernel path reaches: the fast path goes where the kernel would, or not at all.
fn carried_by_the_kernel(
    remotes: &BTreeMap<Prefix, Remote>,
    refused: &[RouteKey],
) -> BTreeMap<Prefix, Remote> {
    let mut carried = remotes.clone();
    for route in refused {
        carried.remove(&bpf_prefix(route.net));
    }
    carried
}
