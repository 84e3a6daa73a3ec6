//! A node of the overlay without an agent: what flanneld's udp backend does (FLANNEL.md 5.3), written from its
//! description. One packet at a time, without offloads, IPv4 only: what it takes to be understood by flannel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::node::Node;
use crate::sockets;
use crate::subnet::SubnetEnv;

/// The name of the device.
pub const DEVICE: &str = "flannel0";
/// The UDP port of all nodes unless the network config says otherwise.
pub const PORT: u16 = 8285;

/// The bytes between looks at whether it is to end.
const PATIENCE_MILLIS: u16 = 100;

/// A node that carries packets as flanneld does; it ends when this is dropped.
#[derive(Debug)]
pub struct FlannelUdp {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    address: IpAddr,
}

/// What its thread works with.
struct Proxy {
    tun: File,
    socket: UdpSocket,
    /// The peers: base address and prefix length of their subnets, and where they are.
    routes: BTreeMap<(Ipv4Addr, u8), Ipv4Addr>,
    mtu: usize,
}

impl FlannelUdp {
    /// Starts on a node that holds the subnet of `env`, with its peers' subnets and addresses.
    pub fn start(node: &Node, env: &SubnetEnv, peers: &[(&SubnetEnv, IpAddr)]) -> Result<Self> {
        let (netns, subnet) = (node.netns(), env.subnets.first());
        let tun = netns.inside(open_tun)??;
        let mtu = env.mtu;
        netns.ip(&format!("link set {DEVICE} mtu {mtu} up"))?;
        netns.ip(&format!("address add {}/32 dev {DEVICE}", subnet.base()))?;
        netns.ip(&format!("route add {} dev {DEVICE} scope global", subnet.network))?;
        let socket = sockets::udp(netns, SocketAddr::new(node.address(), PORT))?;
        let mut routes = BTreeMap::new();
        for (peer, address) in peers {
            let (IpAddr::V4(base), IpAddr::V4(address)) = (peer.base(), *address) else {
                bail!("flannel's udp backend knows no IPv6");
            };
            routes.insert((base, peer.subnets.first().prefix_len), address);
        }
        let proxy = Proxy { tun, socket, routes, mtu: mtu.try_into()? };
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = thread::spawn(move || proxy.run(&told));
        Ok(Self { end, thread: Some(thread), address: node.address() })
    }

    /// The lease value that tells flannel and us of this node: nothing but its address.
    pub fn lease_json(&self) -> String {
        format!(r#"{{"PublicIP":"{}","PublicIPv6":null}}"#, self.address)
    }
}

impl Drop for FlannelUdp {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Proxy {
    fn run(mut self, end: &AtomicBool) {
        while !end.load(Ordering::Relaxed) {
            let mut ready =
                [self.tun.as_fd(), self.socket.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut ready, PollTimeout::from(PATIENCE_MILLIS)).is_err() {
                return;
            }
            let [from_tun, from_wire] = ready.map(|fd| fd.any().unwrap_or(false));
            // The device's MTU is the size of the buffer, and what is longer is cut off.
            let mut packet = vec![0; self.mtu];
            if from_tun && let Ok(length) = self.tun.read(&mut packet) {
                self.send(&mut packet[..length]);
            }
            if from_wire && let Ok((length, _)) = self.socket.recv_from(&mut packet) {
                self.deliver(&mut packet[..length]);
            }
        }
    }

    fn send(&self, packet: &mut [u8]) {
        let Some(&[a, b, c, d]) = packet.get(16..20).and_then(|bytes| bytes.first_chunk()) else { return };
        let destination = Ipv4Addr::new(a, b, c, d).to_bits();
        let is_in = |(base, length): &(Ipv4Addr, u8)| {
            (destination ^ base.to_bits()).checked_shr(32 - u32::from(*length)).unwrap_or(0) == 0
        };
        let node = self.routes.iter().find(|(subnet, _)| is_in(subnet)).map(|(_, node)| *node);
        if let Some(node) = node
            && take_hop(packet)
        {
            // The network may be shaken by the test; a packet that is lost is sent again by whom it matters to.
            let _lost = self.socket.send_to(packet, (node, PORT));
        }
    }

    fn deliver(&mut self, packet: &mut [u8]) {
        if take_hop(packet) {
            let _refused = self.tun.write(packet);
        }
    }
}

/// Takes one off the TTL of an IPv4 packet; `false` where nothing is left.
fn take_hop(packet: &mut [u8]) -> bool {
    if packet.len() < 20 || packet[0] >> 4 != 4 || packet[8] <= 1 {
        return false;
    }
    packet[8] -= 1;
    packet[10..12].fill(0);
    let mut sum: u32 = packet[..usize::from(packet[0] & 15) * 4]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = u16::try_from(!sum & 0xffff).unwrap_or(0);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// A TUN device of one queue with bare packets, which goes away with the descriptor.
fn open_tun() -> Result<File> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun").context("open /dev/net/tun")?;
    let flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    for (place, byte) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(made).with_context(|| format!("make the TUN device {DEVICE}"))?;
    Ok(tun)
}
