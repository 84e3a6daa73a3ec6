//! A packet and tables in memory, and the packets that every implementation of the path must treat alike: the host's
//! tests run them through the library, the `prog` tests through the loaded programs.

mod frame;
mod ipip_rows;
mod node;
mod packets;
mod rows;

pub use frame::Frame;
pub use ipip_rows::{Fate, Row as IpipRow, ipip_from_wire_rows};
pub use node::{
    Mem, config, endpoint, ipip_config, ipip_tables, nodes, remote, remote_subnets, tables, tables_over,
};
pub use packets::{
    from_pod_frame, from_pod_frame_of, from_wire_frame, from_wire_frame_of, from_wire_frame_with,
    ipip_from_pod_frame_of, ipip_from_wire_frame_of, is_udp_intact, to_pod_frame_of, udp,
};
pub use rows::{
    Change, dropped_from_wire, left_to_the_kernel_from_pod, left_to_the_kernel_from_pod6,
    left_to_the_kernel_from_wire, left_to_the_kernel_from_wire6, outer,
};

use ovl_common::Mac;

/// Address of the known pod.
pub const POD: [u8; 4] = [10, 42, 3, 2];
/// Its IPv6 address.
pub const POD6: [u8; 16] = [0xfd, 0x42, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2];
/// Its MAC.
pub const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x32]);
/// The MAC of its gateway, the pod bridge.
pub const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 0x31]);
/// Its host-side interface.
pub const POD_PORT: u32 = 21;
/// The underlay interface.
pub const UNDERLAY: u32 = 7;
/// The overlay device of IPv4.
pub const OVERLAY: u32 = 8;
/// The overlay device of IPv6.
pub const OVERLAY6: u32 = 9;
/// What XDP writes in front of what it strips.
pub const TOKEN: u64 = 0x1234_5678_9abc_def0;
/// The mark of packets that netfilter accepted.
pub const MARK: u32 = 0x2000;
/// IPv6 address of a pod on the peer.
pub const PEER_POD6: [u8; 16] = [0xfd, 0x42, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2];
/// The peer's IPv6 address.
pub const PEER_NODE6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12];
/// This node's IPv6 address.
pub const NODE6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
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
