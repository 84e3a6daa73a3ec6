//! The only view of a packet's bytes.

use bytemuck::{AnyBitPattern, NoUninit};
use ovl_common::Reason;

/// Offset of the IP header behind an untagged Ethernet header.
pub const IP: usize = 14;
/// Bytes that VXLAN over IPv4 puts between the Ethernet header and the inner IP header.
pub const TUNNEL: usize = 50;
/// Offset of the inner IP header of a VXLAN-over-IPv4 packet.
pub const INNER_IP: usize = IP + TUNNEL;

/// A packet that starts with an untagged Ethernet header.
///
/// References borrow the packet, so none outlives a call that moves the headers: the borrow checker enforces what
/// the verifier would reject.
pub trait Packet {
    /// Reads a header; [`Reason::Short`] where the packet ends before it does.
    fn at<T: AnyBitPattern>(&self, offset: usize) -> Result<&T, Reason>;

    /// The same for writing.
    fn at_mut<T: AnyBitPattern + NoUninit>(&mut self, offset: usize) -> Result<&mut T, Reason>;

    /// Makes the first `bytes` bytes readable through [`Packet::at`] where the packet is that long.
    fn make_linear(&mut self, bytes: usize);

    /// Length in bytes from the Ethernet header on, of all segments together.
    fn length(&self) -> usize;

    /// The EtherType as the device's driver read it, network byte order; that of the payload where there is a VLAN tag.
    fn ethertype(&self) -> [u8; 2];

    /// Whether the packet carries a VLAN tag. The kernel has taken it out of the bytes before any program sees them,
    /// and puts it back when the packet leaves.
    fn is_tagged(&self) -> bool;

    /// Whether the link-layer destination is this very host.
    fn to_this_host(&self) -> bool;

    /// Index of the interface the program runs on.
    fn ifindex(&self) -> u32;

    /// Payload bytes per segment where the packet is several in one (GSO, GRO); else `None`.
    fn segment_size(&self) -> Option<usize>;

    /// A hash of the inner flow: the same for all its packets.
    fn flow_hash(&mut self) -> u32;

    /// A number that the next packet will most likely not have.
    fn random(&mut self) -> u16;

    /// Makes [`TUNNEL`] bytes of room behind the Ethernet header, whose content is undefined. An error leaves the
    /// packet as it was.
    fn push_tunnel(&mut self) -> Result<(), Reason>;

    /// Takes [`TUNNEL`] bytes away behind the Ethernet header. An error leaves the packet as it was.
    fn pop_tunnel(&mut self) -> Result<(), Reason>;
}
