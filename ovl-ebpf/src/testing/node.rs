//! The maps in memory, filled as those of a node with one peer and one pod.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ovl_common::{
    ABI, Config, Encapsulation, Endpoint, FastPath, Flow, FlowKey, IpKey, Mac, Port, Range, Reason, Remote,
    SourceCheck, Travel, Tunnel,
};

use super::{
    GATEWAY, MARK, NODE, NODE6, OVERLAY, OVERLAY6, PEER_NODE, PEER_NODE6, PEER_VTEP, POD, POD_MAC, POD_PORT,
    POD6, TOKEN, UNDERLAY, UNDERLAY_MAC, VTEP,
};
use crate::flow::{Acceptance, Usage};
use crate::ip::Family;
use crate::tables::Tables;

/// The maps.
#[derive(Debug)]
pub struct Mem {
    /// The node's configuration.
    pub config: Option<Config>,
    /// The clock.
    pub now: u64,
    /// Peers by their subnets.
    pub remotes: Vec<(Range, Remote)>,
    /// Nodes' addresses.
    pub nodes: BTreeSet<IpKey>,
    /// Pod ports.
    pub ports: BTreeMap<u32, Port>,
    /// Whether there is no room for another endpoint or flow.
    pub full: bool,
    // Boxed and never freed while borrowed: the packet path holds references into the maps, as in the kernel.
    endpoints: RefCell<BTreeMap<IpKey, &'static Endpoint>>,
    pod_macs: RefCell<BTreeMap<u32, &'static Mac>>,
    flows: RefCell<BTreeMap<FlowKey, Flow>>,
    next_id: Cell<u16>,
}

impl Mem {
    /// Makes a pod known.
    pub fn set_endpoint(&self, address: impl Into<IpAddr>, endpoint: Endpoint) {
        let row = Box::leak(Box::new(endpoint));
        self.endpoints.borrow_mut().insert(address.into().into(), row);
    }

    /// What is known of a pod.
    pub fn endpoint_of(&self, address: impl Into<IpAddr>) -> Option<Endpoint> {
        self.endpoint(address.into().into()).copied()
    }

    /// Who last sent on a port.
    pub fn pod_mac_of(&self, ifindex: u32) -> Option<Mac> {
        self.pod_mac(ifindex).copied()
    }

    /// Every flow.
    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        self.flows.borrow().iter().map(|(key, flow)| (*key, *flow)).collect()
    }
}

impl Tables for Mem {
    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn identifications(&self, count: u16) -> u16 {
        let first = self.next_id.get();
        self.next_id.set(first.wrapping_add(count));
        first
    }

    fn remote(&self, address: IpKey) -> Option<&Remote> {
        self.remotes.iter().find(|(range, _)| range.contains(address)).map(|(_, remote)| remote)
    }

    fn is_node(&self, address: IpKey) -> bool {
        self.nodes.contains(&address)
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

    fn use_flow(&self, key: &FlowKey, usage: &Usage) -> Result<(), Reason> {
        let mut flows = self.flows.borrow_mut();
        let flow = flows.get_mut(key).ok_or(Reason::NoFlow)?;
        usage.check(flow)?;
        usage.count(flow);
        Ok(())
    }

    fn check_flow(&self, key: &FlowKey, usage: &Usage) -> Result<(), Reason> {
        usage.check(self.flows.borrow().get(key).ok_or(Reason::NoFlow)?)
    }

    fn accept_flow(&self, key: &FlowKey, acceptance: &Acceptance) -> Reason {
        let mut flows = self.flows.borrow_mut();
        let mut flow = flows.get(key).copied().unwrap_or_default();
        let reason = acceptance.note(&mut flow);
        if reason == Reason::Verified {
            if self.full {
                return Reason::Full;
            }
            flows.insert(*key, flow);
        }
        reason
    }

    fn close_flow(&self, key: &FlowKey, tick: u32) {
        if let Some(flow) = self.flows.borrow_mut().get_mut(key) {
            flow.close(tick);
        }
    }
}

/// The configuration of a node with VXLAN network 1 in both families, whose fast path asks nobody.
pub fn config() -> Config {
    let tunnel = |address: IpAddr, device: u32, mtu: u32| Tunnel {
        address: address.into(),
        device,
        vni: 1,
        mtu,
        mac: VTEP,
        port: 8472u16.to_be_bytes(),
        encapsulation: Encapsulation::Vxlan as u8,
        hop_limit: 64,
        stand_in: 0,
        reserved: [0; 1],
    };
    Config {
        abi: ABI,
        fast_path: FastPath::Always as u32,
        deadline: 1000,
        epoch: 3,
        verified_for: 100,
        token: TOKEN,
        mark: MARK,
        source_check: SourceCheck::Loose as u32,
        underlay: UNDERLAY,
        underlay_mtu: 1500,
        source_port_min: 32768,
        source_port_max: 60999,
        carry_tcp: 1,
        xdp_after_gro: 0,
        underlay_mac: UNDERLAY_MAC,
        reserved: [0; 4],
        tunnel_v4: tunnel(NODE.into(), OVERLAY, 1450),
        tunnel_v6: tunnel(NODE6.into(), OVERLAY6, 1430),
        local_v4: Range::new(IpAddr::from([10, 42, 3, 0]).into(), 120),
        local_v6: Range::new(prefix6(3), 64),
    }
}

/// The same of a node with IP in IP; where `stand_in`, its kernel has no devices for that.
pub fn ipip_config(stand_in: bool) -> Config {
    let tunnel = |tunnel: Tunnel, mtu: u32| Tunnel {
        vni: 0,
        mtu,
        mac: if stand_in { VTEP } else { Mac::default() },
        port: [0; 2],
        encapsulation: Encapsulation::Ipip as u8,
        stand_in: u8::from(stand_in),
        ..tunnel
    };
    let config = config();
    Config { tunnel_v4: tunnel(config.tunnel_v4, 1480), tunnel_v6: tunnel(config.tunnel_v6, 1460), ..config }
}

/// The known pod.
pub fn endpoint() -> Endpoint {
    Endpoint::new(POD_PORT, POD_MAC, GATEWAY)
}

/// The peer, known by its address of one family.
pub fn remote(travel: Travel, outer: Family) -> Remote {
    let node = match outer {
        Family::V4 => IpAddr::from(PEER_NODE),
        Family::V6 => IpAddr::from(PEER_NODE6),
    };
    let vtep_mac = if travel == Travel::Ipip { Mac::default() } else { PEER_VTEP };
    Remote { node: node.into(), travel: travel as u8, zero_checksum: 0, vtep_mac }
}

/// The peer's subnets.
pub fn remote_subnets() -> [(IpAddr, u8); 2] {
    [([10, 42, 7, 0].into(), 24), (IpAddr::from(prefix6(7)), 64)]
}

/// Every node's addresses.
pub fn nodes() -> [IpAddr; 3] {
    [PEER_NODE.into(), PEER_NODE6.into(), [192, 0, 2, 13].into()]
}

fn prefix6(subnet: u16) -> IpKey {
    IpAddr::from([0xfd42, 0, 0, subnet, 0, 0, 0, 0]).into()
}

/// A node with one peer (10.42.7.0/24 and fd42:0:0:7::/64) over IPv4 and one known pod.
pub fn tables(travel: Travel) -> Mem {
    tables_over(travel, Family::V4)
}

/// The same with IP in IP.
pub fn ipip_tables(outer: Family, stand_in: bool) -> Mem {
    Mem { config: Some(ipip_config(stand_in)), ..tables_over(Travel::Ipip, outer) }
}

/// The same with the nodes' addresses of one family.
pub fn tables_over(travel: Travel, outer: Family) -> Mem {
    let remotes = remote_subnets().map(|(base, length)| {
        let bits = u32::from(length) + if base.is_ipv4() { 96 } else { 0 };
        (Range::new(base.into(), bits), remote(travel, outer))
    });
    let tables = Mem {
        config: Some(config()),
        now: 500,
        remotes: remotes.to_vec(),
        nodes: nodes().into_iter().map(IpKey::from).collect(),
        ports: BTreeMap::from([(POD_PORT, Port { gateway: GATEWAY, reserved: [0; 2] })]),
        full: false,
        endpoints: RefCell::default(),
        pod_macs: RefCell::default(),
        flows: RefCell::default(),
        next_id: Cell::new(0xbeef),
    };
    tables.set_endpoint(POD, endpoint());
    tables.set_endpoint(POD6, endpoint());
    tables
}
