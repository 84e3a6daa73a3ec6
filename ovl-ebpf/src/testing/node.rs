//! The maps in memory, filled as those of a node with one peer and one pod.

use std::cell::RefCell;
use std::collections::BTreeMap;

use ovl_common::{ABI, Config, Endpoint, FastPath, IpKey, Mac, Port, Remote, Travel};

use super::{GATEWAY, NODE, PEER_NODE, PEER_VTEP, POD, POD_MAC, POD_PORT, UNDERLAY, VTEP};
use crate::tables::Tables;

/// The maps.
#[derive(Debug)]
pub struct Mem {
    /// The node's configuration.
    pub config: Option<Config>,
    /// The clock.
    pub now: u64,
    /// Peers by the first three bytes of their subnet.
    pub remotes: BTreeMap<[u8; 3], Remote>,
    /// Pod ports.
    pub ports: BTreeMap<u32, Port>,
    /// Whether there is no room for another endpoint.
    pub full: bool,
    // Boxed and never freed while borrowed: the packet path holds references into the maps, as in the kernel.
    endpoints: RefCell<BTreeMap<IpKey, &'static Endpoint>>,
    pod_macs: RefCell<BTreeMap<u32, &'static Mac>>,
}

impl Mem {
    /// Makes a pod known.
    pub fn set_endpoint(&self, address: [u8; 4], endpoint: Endpoint) {
        let row = Box::leak(Box::new(endpoint));
        self.endpoints.borrow_mut().insert(IpKey::from_ipv4_octets(address), row);
    }

    /// What is known of a pod.
    pub fn endpoint_of(&self, address: [u8; 4]) -> Option<Endpoint> {
        self.endpoint(IpKey::from_ipv4_octets(address)).copied()
    }

    /// Who last sent on a port.
    pub fn pod_mac_of(&self, ifindex: u32) -> Option<Mac> {
        self.pod_mac(ifindex).copied()
    }
}

impl Tables for Mem {
    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn remote(&self, address: IpKey) -> Option<&Remote> {
        let [a, b, c, _] = address.ipv4_octets();
        self.remotes.get(&[a, b, c])
    }

    fn endpoint(&self, address: IpKey) -> Option<&Endpoint> {
        self.endpoints.borrow().get(&address).copied()
    }

    fn learn_endpoint(&self, address: IpKey, endpoint: &Endpoint) -> bool {
        if !self.full {
            self.endpoints.borrow_mut().insert(address, Box::leak(Box::new(*endpoint)));
        }
        !self.full
    }

    fn forget_endpoint(&self, address: IpKey) {
        self.endpoints.borrow_mut().remove(&address);
    }

    fn port(&self, ifindex: u32) -> Option<&Port> {
        self.ports.get(&ifindex)
    }

    fn pod_mac(&self, ifindex: u32) -> Option<&Mac> {
        self.pod_macs.borrow().get(&ifindex).copied()
    }

    fn learn_pod_mac(&self, ifindex: u32, mac: &Mac) {
        self.pod_macs.borrow_mut().insert(ifindex, Box::leak(Box::new(*mac)));
    }
}

/// The configuration of a node with VXLAN network 1.
pub fn config() -> Config {
    Config {
        abi: ABI,
        fast_path: FastPath::Always as u32,
        deadline: 1000,
        underlay: UNDERLAY,
        encapsulation: ovl_common::Encapsulation::Vxlan as u32,
        vni: 1,
        tunnel_mtu: 1450,
        underlay_mtu: 1500,
        source_port_min: 32768,
        source_port_max: 60999,
        tunnel_port: 8472u16.to_be_bytes(),
        vtep_mac: VTEP,
        underlay_address: IpKey::from_ipv4_octets(NODE),
        local_subnet: IpKey::from_ipv4_octets([10, 42, 3, 0]),
        local_bits: 120,
        outer_ttl: 64,
        carry_tcp: 1,
        reserved: [0; 2],
    }
}

/// The known pod.
pub fn endpoint() -> Endpoint {
    Endpoint { ifindex: POD_PORT, pod: POD_MAC, gateway: GATEWAY }
}

/// A node with one peer (10.42.7.0/24) and one known pod.
pub fn tables(travel: Travel) -> Mem {
    let remote =
        Remote { node: IpKey::from_ipv4_octets(PEER_NODE), travel: travel as u16, vtep_mac: PEER_VTEP };
    let tables = Mem {
        config: Some(config()),
        now: 500,
        remotes: BTreeMap::from([([10, 42, 7], remote)]),
        ports: BTreeMap::from([(POD_PORT, Port { gateway: GATEWAY, reserved: [0; 2] })]),
        full: false,
        endpoints: RefCell::default(),
        pod_macs: RefCell::default(),
    };
    tables.set_endpoint(POD, endpoint());
    tables
}
