//! The only view of a packet's bytes.

use bytemuck::{AnyBitPattern, NoUninit};
use ovl_common::{IpKey, Reason};

use crate::encap::HEADERS;
use crate::ip::{Family, IpHeader};
use crate::tunnel::Tunnel;

/// Offset of the IP header behind an untagged Ethernet header.
pub const IP: usize = 14;

/// Bytes that VXLAN with outer headers of family `O` puts between the Ethernet header and the inner IP header: 50 or 70.
pub const fn tunnel_length<O: IpHeader>() -> usize {
    O::LENGTH + HEADERS
}

/// Offset of the inner IP header of such a packet.
pub const fn inner_ip<O: IpHeader>() -> usize {
    IP + tunnel_length::<O>()
}

/// The bytes of a packet that starts with an untagged Ethernet header: what XDP and tc both can do with it.
///
/// References borrow the packet, so none outlives a call that moves the headers: the borrow checker enforces what
/// the verifier would reject.
pub trait Bytes {
    /// The kind of tunnel that packets travel in.
    type Tunnel: Tunnel;

    /// Reads a header; [`Reason::Short`] where the packet ends before it does.
    fn at<T: AnyBitPattern>(&self, offset: usize) -> Result<&T, Reason>;

    /// The same for writing.
    fn at_mut<T: AnyBitPattern + NoUninit>(&mut self, offset: usize) -> Result<&mut T, Reason>;

    /// Length in bytes from the Ethernet header on, of all segments together.
    fn length(&self) -> usize;

    /// Payload bytes per segment where the packet is several in one (GSO, GRO); else `None`.
    fn segment_size(&self) -> Option<usize>;

    /// Takes [`Tunnel::length`] bytes away behind the Ethernet header, which leaves a packet of family `inner`. An error
    /// leaves the packet as it was.
    fn pop_tunnel<O: IpHeader>(&mut self, inner: Family) -> Result<(), Reason>;
}

/// A packet as XDP has it, before there is a socket buffer.
pub trait Early: Bytes {
    /// Writes `note` in front of the packet, for the program at tc. An error leaves the packet as it was.
    fn write_note(&mut self, note: u64) -> Result<(), Reason>;

    /// Takes it away again.
    fn remove_note(&mut self);
}

/// A packet as tc has it.
pub trait Packet: Bytes {
    /// Makes the first `bytes` bytes, or all where there are fewer, readable through [`Bytes::at`].
    fn make_linear(&mut self, bytes: usize);

    /// The EtherType as the device's driver read it, network byte order; that of the payload where there is a VLAN tag.
    fn ethertype(&self) -> [u8; 2];

    /// Whether the packet carries a VLAN tag. The kernel has taken it out of the bytes before any program sees them,
    /// and puts it back when the packet leaves.
    fn is_tagged(&self) -> bool;

    /// Whether the link-layer destination is this very host.
    fn to_this_host(&self) -> bool;

    /// Whether this host made the packet, rather than forwards it.
    fn is_own(&self) -> bool;

    /// Index of the interface the program runs on.
    fn ifindex(&self) -> u32;

    /// The mark that netfilter and routing rules see.
    fn mark(&self) -> u32;

    /// Changes the mark.
    fn set_mark(&mut self, mark: u32);

    /// Whether a packet of `bytes` fits the way from this node's `source` to `node` through an interface, as far as the
    /// kernel knows: routers on it may have said that it is narrower than the interface.
    fn fits_way(&mut self, ifindex: u32, source: &IpKey, node: &IpKey, bytes: usize) -> bool;

    /// Adds to the sum over the IP packet that the device may have made (`CHECKSUM_COMPLETE`): what its bytes have changed
    /// by, a number of RFC 1071.
    fn add_to_sum(&mut self, difference: u16);

    /// A hash of the inner flow: the same for all its packets.
    fn flow_hash(&mut self) -> u32;

    /// Makes [`Tunnel::length`] bytes of room behind the Ethernet header, whose content is undefined. An error leaves
    /// the packet as it was.
    fn push_tunnel<O: IpHeader>(&mut self) -> Result<(), Reason>;

    /// What XDP wrote in front of the packet, if it wrote anything.
    fn note(&self) -> Option<u64>;

    /// Has the kernel forget that the device verified the outermost checksum, which was the tunnel's.
    fn lower_checksum_level(&mut self);
}
