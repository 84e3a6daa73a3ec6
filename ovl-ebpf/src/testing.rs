//! A packet and tables in memory, and the packets that every implementation of the path must treat alike: the host's
//! tests run them through the library, the `prog` tests through the loaded programs.

mod frame;
mod node;
mod packets;
mod rows;

pub use frame::Frame;
pub use node::{Mem, config, endpoint, tables};
pub use packets::{from_pod_frame, from_wire_frame, udp};
pub use rows::{Change, left_to_the_kernel_from_pod, left_to_the_kernel_from_wire, outer};

use ovl_common::Mac;

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
