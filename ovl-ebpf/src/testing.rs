//! A packet and tables in memory, and the packets that every implementation of the path must treat alike: the host's
//! tests run them through the library, the `prog` tests through the loaded programs.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytemuck::{AnyBitPattern, NoUninit, Zeroable as _};
use ovl_common::wire::{ETHERTYPE_IPV4, Ethernet, Ipv4, Udp, Vxlan, VxlanOverIpv4};
use ovl_common::{ABI, Config, Endpoint, FastPath, IpKey, Mac, Port, Reason, Remote, Travel};

use crate::packet::{INNER_IP, IP, Packet, TUNNEL};
use crate::tables::Tables;

/// Address of the known pod.
pub const POD: [u8; 4] = [10, 42, 3, 2];
/// Its MAC.
pub const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x32]);
/// The MAC of its gateway, the pod bridge.
pub const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 0x31]);
/// Its host-side interface.
pub const POD_PORT: u32 = 21;
/// The underlay interface.
pub const UNDERLAY: u32 = 7;
/// A pod on the peer.
pub const PEER_POD: [u8; 4] = [10, 42, 7, 2];
/// The peer.
pub const PEER_NODE: [u8; 4] = [192, 0, 2, 12];
/// This node.
pub const NODE: [u8; 4] = [192, 0, 2, 11];
/// This node's tunnel MAC.
pub const VTEP: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
/// The peer's tunnel MAC.
pub const PEER_VTEP: Mac = Mac([2, 0, 0, 0, 0, 0x0c]);
/// MAC of the underlay interface.
pub const UNDERLAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xe0]);

/// What fresh headroom holds: not zeros, so that a header byte nobody wrote is noticed.
const POISON: u8 = 0xa5;

/// Bytes with the properties that a socket buffer has besides.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The interface it came in on, or goes out of.
    pub ifindex: u32,
    /// What [`Packet::is_tagged`] says.
    pub tagged: bool,
    /// What [`Packet::to_this_host`] says.
    pub to_this_host: bool,
    /// What [`Packet::segment_size`] says.
    pub segment_size: Option<usize>,
    /// Makes [`Packet::push_tunnel`] and [`Packet::pop_tunnel`] fail, as they do for packets they don't support.
    pub rigid: bool,
}

impl Frame {
    /// A packet on an interface.
    pub fn new(ifindex: u32, bytes: Vec<u8>) -> Self {
        Self { bytes, ifindex, tagged: false, to_this_host: true, segment_size: None, rigid: false }
    }

    /// A header of a frame that has it.
    ///
    /// # Panics
    /// Where it ends before.
    pub fn read<T: AnyBitPattern>(&self, offset: usize) -> T {
        *self.at(offset).expect("the frame is long enough")
    }

    /// Changes a header of a frame that has it.
    ///
    /// # Panics
    /// Where it ends before.
    pub fn change<T: AnyBitPattern + NoUninit>(&mut self, offset: usize, change: impl FnOnce(&mut T)) {
        change(self.at_mut(offset).expect("the frame is long enough"));
    }
}

impl Packet for Frame {
    fn at<T: AnyBitPattern>(&self, offset: usize) -> Result<&T, Reason> {
        let bytes = self.bytes.get(offset..offset + size_of::<T>()).ok_or(Reason::Short)?;
        Ok(bytemuck::from_bytes(bytes))
    }

    fn at_mut<T: AnyBitPattern + NoUninit>(&mut self, offset: usize) -> Result<&mut T, Reason> {
        let bytes = self.bytes.get_mut(offset..offset + size_of::<T>()).ok_or(Reason::Short)?;
        Ok(bytemuck::from_bytes_mut(bytes))
    }

    fn make_linear(&mut self, _bytes: usize) {}

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn ethertype(&self) -> [u8; 2] {
        self.at::<Ethernet>(0).map_or([0; 2], |ethernet| ethernet.ethertype)
    }

    fn is_tagged(&self) -> bool {
        self.tagged
    }

    fn to_this_host(&self) -> bool {
        self.to_this_host
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn segment_size(&self) -> Option<usize> {
        self.segment_size
    }

    fn flow_hash(&mut self) -> u32 {
        0x1234_5678
    }

    fn random(&mut self) -> u16 {
        0xbeef
    }

    fn push_tunnel(&mut self) -> Result<(), Reason> {
        if self.rigid {
            return Err(Reason::NoRoom);
        }
        self.bytes.splice(IP..IP, [POISON; TUNNEL]);
        Ok(())
    }

    fn pop_tunnel(&mut self) -> Result<(), Reason> {
        if self.rigid {
            return Err(Reason::NoRoom);
        }
        self.bytes.drain(IP..IP + TUNNEL);
        Ok(())
    }
}

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

/// An Ethernet frame around a UDP packet with `payload` bytes.
///
/// # Panics
/// Where that is more than a UDP packet can hold.
pub fn udp(source: [u8; 4], destination: [u8; 4], macs: (Mac, Mac), payload: usize) -> Vec<u8> {
    let ethernet = Ethernet { source: macs.0, destination: macs.1, ethertype: ETHERTYPE_IPV4 };
    let length = |headers: usize| u16::try_from(headers + payload).expect("fits").to_be_bytes();
    let mut ip = Ipv4 {
        version_and_length: 0x45,
        tos: 0,
        total_length: length(28),
        id: [0x12, 0x34],
        fragment: [0x40, 0],
        ttl: 64,
        protocol: 17,
        checksum: [0; 2],
        source,
        destination,
    };
    ip.checksum = ip.computed_checksum();
    let udp = Udp { source: [0x30, 0x39], destination: [0, 53], length: length(8), checksum: [0; 2] };
    let mut bytes =
        [bytemuck::bytes_of(&ethernet), bytemuck::bytes_of(&ip), bytemuck::bytes_of(&udp)].concat();
    bytes.extend((0..=u8::MAX).cycle().take(payload));
    bytes
}

/// What the pod sends to its peer.
pub fn from_pod_frame() -> Frame {
    Frame::new(POD_PORT, udp(POD, PEER_POD, (POD_MAC, GATEWAY), 100))
}

/// The peer's answer in its tunnel.
///
/// # Panics
/// Never: it is short.
pub fn from_wire_frame() -> Frame {
    let inner = udp(PEER_POD, POD, (PEER_VTEP, VTEP), 100);
    let length = |headers: usize| u16::try_from(headers + inner.len()).expect("fits").to_be_bytes();
    let mut outer = VxlanOverIpv4::zeroed();
    outer.ip = Ipv4 {
        version_and_length: 0x45,
        tos: 0,
        total_length: length(36),
        id: [0xab, 0xcd],
        fragment: [0; 2],
        ttl: 64,
        protocol: 17,
        checksum: [0; 2],
        source: PEER_NODE,
        destination: NODE,
    };
    outer.ip.checksum = outer.ip.computed_checksum();
    outer.udp =
        Udp { source: [0xc0, 0], destination: 8472u16.to_be_bytes(), length: length(16), checksum: [0; 2] };
    outer.vxlan = Vxlan::new(1);
    let ethernet = Ethernet { source: Mac([2; 6]), destination: UNDERLAY_MAC, ethertype: ETHERTYPE_IPV4 };
    let mut bytes = bytemuck::bytes_of(&ethernet).to_vec();
    bytes.extend_from_slice(&bytemuck::bytes_of(&outer)[..36]);
    bytes.extend_from_slice(&inner);
    Frame::new(UNDERLAY, bytes)
}

/// How a good packet becomes one that the path must leave alone.
pub type Change = fn(&mut Frame);

/// Packets of a pod that go to the kernel untouched, with the reason, made from [`from_pod_frame`].
pub fn left_to_the_kernel_from_pod() -> Vec<(&'static str, Change, Reason)> {
    vec![
        ("arp", |f| f.change::<Ethernet>(0, |e| e.ethertype = [8, 6]), Reason::NotIp),
        ("vlan", |f| f.tagged = true, Reason::Vlan),
        ("ipv6", |f| f.change::<Ethernet>(0, |e| e.ethertype = [0x86, 0xdd]), Reason::NotIp),
        ("empty", |f| f.bytes.truncate(14), Reason::Short),
        ("half a header", |f| f.bytes.truncate(30), Reason::Short),
        ("version 6", |f| f.change::<Ipv4>(IP, |i| i.version_and_length = 0x65), Reason::BadHeader),
        ("header of 16", |f| f.change::<Ipv4>(IP, |i| i.version_and_length = 0x44), Reason::BadHeader),
        ("options", |f| f.change::<Ipv4>(IP, |i| i.version_and_length = 0x46), Reason::Options),
        ("first fragment", |f| f.change::<Ipv4>(IP, |i| i.fragment = [0x20, 0]), Reason::Fragment),
        ("last fragment", |f| f.change::<Ipv4>(IP, |i| i.fragment = [0, 9]), Reason::Fragment),
        ("ttl 1", |f| f.change::<Ipv4>(IP, |i| i.ttl = 1), Reason::Ttl),
        ("ttl 0", |f| f.change::<Ipv4>(IP, |i| i.ttl = 0), Reason::Ttl),
        ("sctp", |f| f.change::<Ipv4>(IP, |i| i.protocol = 132), Reason::Protocol),
        ("longer than said", |f| f.bytes.push(0), Reason::BadLength),
        ("shorter than said", |f| f.bytes.truncate(100), Reason::BadLength),
        ("length 0", |f| f.change::<Ipv4>(IP, |i| i.total_length = [0; 2]), Reason::BadLength),
        ("elsewhere", |f| f.change::<Ipv4>(IP, |i| i.destination = [8, 8, 8, 8]), Reason::NotOverlay),
        ("group", |f| f.change::<Ipv4>(IP, |i| i.destination = [224, 0, 0, 1]), Reason::NotOverlay),
        ("borrowed source", |f| f.change::<Ipv4>(IP, |i| i.source = [10, 42, 3, 9]), Reason::UnknownSource),
        ("borrowed mac", |f| f.change::<Ethernet>(0, |e| e.source = Mac([2; 6])), Reason::UnknownSource),
        (
            "to a neighbour",
            |f| f.change::<Ethernet>(0, |e| e.destination = Mac([2; 6])),
            Reason::NotToGateway,
        ),
        ("other port", |f| f.ifindex = POD_PORT + 1, Reason::MovedSource),
        ("no room", |f| f.rigid = true, Reason::NoRoom),
    ]
}

const UDP: usize = IP + 20;
const VXLAN: usize = IP + 28;
const INNER: usize = IP + 36;

/// Changes the outer IP header and makes its checksum right again.
pub fn outer(frame: &mut Frame, change: impl FnOnce(&mut Ipv4)) {
    frame.change::<Ipv4>(IP, |ip| {
        change(ip);
        ip.checksum = ip.computed_checksum();
    });
}

/// Packets on the underlay that go to the kernel untouched, with the reason, made from [`from_wire_frame`].
pub fn left_to_the_kernel_from_wire() -> Vec<(&'static str, Change, Reason)> {
    vec![
        ("arp", |f| f.change::<Ethernet>(0, |e| e.ethertype = [8, 6]), Reason::NotIp),
        ("vlan", |f| f.tagged = true, Reason::Vlan),
        ("another host's", |f| f.to_this_host = false, Reason::NotForUs),
        ("empty", |f| f.bytes.truncate(20), Reason::Short),
        ("no vxlan header", |f| f.bytes.truncate(IP + 30), Reason::Short),
        ("another address", |f| outer(f, |i| i.destination = [192, 0, 2, 99]), Reason::NotTunnel),
        ("not udp", |f| outer(f, |i| i.protocol = 6), Reason::NotTunnel),
        ("another port", |f| f.change::<Udp>(UDP, |u| u.destination = [0, 53]), Reason::NotTunnel),
        ("outer options", |f| outer(f, |i| i.version_and_length = 0x46), Reason::Options),
        ("outer fragment", |f| outer(f, |i| i.fragment = [0x20, 0]), Reason::Fragment),
        ("outer checksum", |f| f.change::<Ipv4>(IP, |i| i.checksum = [1, 2]), Reason::BadHeader),
        ("outer length", |f| outer(f, |i| i.total_length = [0, 100]), Reason::BadLength),
        ("udp length", |f| f.change::<Udp>(UDP, |u| u.length = [0, 9]), Reason::BadLength),
        ("udp length 0", |f| f.change::<Udp>(UDP, |u| u.length = [0; 2]), Reason::BadLength),
        ("no vni bit", |f| f.change::<Vxlan>(VXLAN, |v| v.flags = 0), Reason::TunnelFlags),
        ("gbp bit", |f| f.change::<Vxlan>(VXLAN, |v| v.flags = 0x88), Reason::TunnelFlags),
        ("reserved bits", |f| f.change::<Vxlan>(VXLAN, |v| v.reserved[1] = 1), Reason::TunnelFlags),
        ("last reserved byte", |f| f.change::<Vxlan>(VXLAN, |v| v.reserved2 = 1), Reason::TunnelFlags),
        ("another vni", |f| f.change::<Vxlan>(VXLAN, |v| v.vni = [0, 0, 2]), Reason::OtherVni),
        ("inner mac", |f| f.change::<Ethernet>(INNER, |e| e.destination = Mac([2; 6])), Reason::InnerMac),
        ("inner group", |f| f.change::<Ethernet>(INNER, |e| e.destination = Mac([255; 6])), Reason::InnerMac),
        ("inner arp", |f| f.change::<Ethernet>(INNER, |e| e.ethertype = [8, 6]), Reason::NotIp),
        ("inner options", |f| f.change::<Ipv4>(INNER_IP, |i| i.version_and_length = 0x4f), Reason::Options),
        ("inner length", |f| f.change::<Ipv4>(INNER_IP, |i| i.total_length = [0, 40]), Reason::BadLength),
        ("inner fragment", |f| f.change::<Ipv4>(INNER_IP, |i| i.fragment = [0, 1]), Reason::Fragment),
        ("inner ttl", |f| f.change::<Ipv4>(INNER_IP, |i| i.ttl = 1), Reason::Ttl),
        ("unknown node", |f| outer(f, |i| i.source = [192, 0, 2, 99]), Reason::WrongNode),
        ("another's pod", |f| f.change::<Ipv4>(INNER_IP, |i| i.source = [10, 42, 9, 2]), Reason::WrongNode),
        (
            "unknown pod",
            |f| f.change::<Ipv4>(INNER_IP, |i| i.destination = [10, 42, 3, 9]),
            Reason::UnknownPod,
        ),
        ("congestion it can't mark", |f| outer(f, |i| i.tos = 0b11), Reason::Ecn),
        ("no room", |f| f.rigid = true, Reason::NoRoom),
    ]
}
