//! The forwarding engine of the udp backend: a TUN device, whose packets travel as they are in UDP datagrams
//! (FLANNEL.md 5.3), and what makes that fast in user space.
//!
//! Between the pods and this process packets are aggregates of up to 64 KiB, which the device's header of virtio-net
//! describes; on the wire every packet is a datagram of its own, as flannel's peers expect. `segment` takes aggregates
//! apart, `outbox` makes messages of the parts, which the kernel cuts at the end of its way (`UDP_SEGMENT`); in the
//! other direction the kernel collects datagrams (`UDP_GRO`), and `coalesce` makes aggregates of them again.

mod checksum;
mod coalesce;
mod delivery;
mod device;
mod icmp;
mod offload;
mod outbox;
mod packet;
mod path;
mod peers;
mod reason;
mod segment;
mod socket;
mod tun;
mod worker;

pub use path::{Surroundings, UdpPath};
