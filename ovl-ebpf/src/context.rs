//! A socket buffer as a packet: the only pointer code.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel's helpers take and return C integers; every number here is small"
)]

use core::marker::PhantomData;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
    BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
    BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_INGRESS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LOOKUP_OUTPUT, bpf_redir_neigh,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_level, bpf_csum_update, bpf_fib_lookup, bpf_get_hash_recalc, bpf_redirect, bpf_redirect_neigh,
    bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_load_bytes, bpf_skb_pull_data,
};
use bytemuck::{AnyBitPattern, NoUninit};
use ovl_common::{HEAD, IpKey, Reason};
use ovl_ebpf::ip::{Family, IpHeader};
use ovl_ebpf::packet::{Bytes, IP, Packet};
use ovl_ebpf::tunnel::Tunnel;

use crate::show::Shown;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// `PACKET_HOST` of `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
/// Inner Ethernet header.
const INNER_L2: u64 = 14;

/// Room for outer headers, told so that GSO and offloads know the packet for a tunnel's. `FIXED_GSO`: the sender's segment
/// size already allows for the tunnel. `NO_CSUM_RESET`: the inner checksum's state stays what it is.
const PUSH: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;
/// The same in front of UDP and an inner frame. Without it there is only an outer header.
const PUSH_VXLAN: u64 = PUSH
    | (BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
    | (INNER_L2 << BPF_ADJ_ROOM_ENCAP_L2_SHIFT);

/// Without `FIXED_GSO` the kernel would add the tunnel's bytes to the segment size.
const POP: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Not 0 in the packet tests, which run on zeroed headroom: fresh headroom then holds this byte, as it holds anything
/// in life, and a header byte that nobody wrote is noticed. A constant to the verifier, which removes what it guards.
#[unsafe(no_mangle)]
static OVL_POISON: u8 = 0;

/// What `struct bpf_fib_lookup` of `linux/bpf.h` is for IPv6, in words: its fields of six bytes make the compiler call a
/// `memset`, for which the stack has no room, and ports of two bytes one misaligned store.
#[repr(C)]
struct RouteQuery {
    /// Family, protocol, both ports, and the packet's length in host byte order.
    head: u64,
    ifindex: u32,
    flow: u32,
    source: IpKey,
    destination: IpKey,
    /// For the kernel to write; until then anything but a byte over and over, which would be a `memset`, too.
    answer: [u64; 2],
}

/// What `struct bpf_redir_neigh` of `linux/bpf.h` is, from the family on: in a place where the words are aligned.
#[repr(C)]
struct NextHop {
    reserved: u32,
    family: u32,
    words: [u64; 2],
}

/// The packet a tc program was called for, of a network with tunnels of kind `K`, on a device whose packets have `L2` bytes
/// in front of the IP header: an Ethernet header, or nothing on the kernel's tunnel devices of IP.
pub(crate) struct Skb<K, const L2: usize = IP> {
    context: *mut __sk_buff,
    kind: PhantomData<K>,
}

impl<K: Tunnel, const L2: usize> Skb<K, L2> {
    /// What is missing in front of the packet.
    const MISSING: usize = IP - L2;

    /// Takes the pointer that the kernel hands to a tc program, for the length of that call.
    pub(crate) fn new(context: *mut __sk_buff) -> Self {
        Self { context, kind: PhantomData }
    }

    #[inline(always)]
    fn context(&self) -> &__sk_buff {
        // SAFETY: the kernel's pointer is valid while the program runs, and `Skb` does not outlive that.
        unsafe { &*self.context }
    }

    /// Where the packet begins.
    #[inline(always)]
    fn data(&self) -> usize {
        if K::HEADERS == 0 {
            // Volatile, or the compiler here extends the 32 bits that it has read before once more, which the verifier takes
            // for a number made of a pointer. The programs of VXLAN do without, and have fewer instructions for that.
            // SAFETY: the kernel's pointer is valid while the program runs.
            unsafe { core::ptr::read_volatile(&raw const (*self.context).data) as usize }
        } else {
            self.context().data as usize
        }
    }

    /// The address of `size` bytes at `offset`, checked in the form the verifier understands.
    #[inline(always)]
    fn pointer(&self, offset: usize, size: usize) -> Result<usize, Reason> {
        let Some(offset) = offset.checked_sub(Self::MISSING) else { return Err(Reason::NotIp) };
        let start = self.data() + offset;
        if start + size > self.context().data_end as usize { Err(Reason::Short) } else { Ok(start) }
    }
}

impl<K: Tunnel, const L2: usize> Shown for Skb<K, L2> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.context().ifindex
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        self.context().mark
    }

    #[inline(always)]
    fn ethertype(&self) -> [u8; 2] {
        (self.context().protocol as u16).to_ne_bytes()
    }

    #[inline(always)]
    fn copy(&self, to: &mut [u8; HEAD], length: usize) -> bool {
        let to = to.as_mut_ptr().cast();
        // SAFETY: there is room, and the context is valid; the packet need not be linear. Where it is shorter, the
        // kernel writes zeros.
        unsafe { bpf_skb_load_bytes(self.context.cast(), L2 as u32, to, length as u32) == 0 }
    }
}

impl<K: Tunnel, const L2: usize> Bytes for Skb<K, L2> {
    type Tunnel = K;

    #[inline(always)]
    fn at<T: AnyBitPattern>(&self, offset: usize) -> Result<&T, Reason> {
        const { assert!(align_of::<T>() == 1) };
        let start = self.pointer(offset, size_of::<T>())?;
        // SAFETY: in bounds, alignment 1, any bit pattern is valid, and the borrow ends before the bytes can move.
        Ok(unsafe { &*(start as *const T) })
    }

    #[inline(always)]
    fn at_mut<T: AnyBitPattern + NoUninit>(&mut self, offset: usize) -> Result<&mut T, Reason> {
        const { assert!(align_of::<T>() == 1) };
        let start = self.pointer(offset, size_of::<T>())?;
        // SAFETY: as for `at`, and `&mut self` makes it the only reference into the packet.
        Ok(unsafe { &mut *(start as *mut T) })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.context().len as usize + Self::MISSING
    }

    #[inline(always)]
    fn segment_size(&self) -> Option<usize> {
        match self.context().gso_size {
            0 => None,
            size => Some(size as usize),
        }
    }

    #[inline(always)]
    fn pop_tunnel<O: IpHeader>(&mut self, inner: Family) -> Result<(), Reason> {
        // Kernels before 6.3 don't know these: there a tunnel of one family that carries the other is the kernel's.
        let family = match (O::FAMILY, inner) {
            (Family::V4, Family::V4) | (Family::V6, Family::V6) => 0,
            (Family::V4, Family::V6) => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
            (Family::V6, Family::V4) => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        };
        let (room, flags) = (-(K::length::<O>() as i32), POP | u64::from(family));
        // SAFETY: the context is valid; no reference into the packet is alive.
        let error = unsafe { bpf_skb_adjust_room(self.context, room, BPF_ADJ_ROOM_MAC, flags) };
        if error != 0 {
            return Err(Reason::NoRoom);
        }
        if K::IS_SUMMED {
            self.lower_checksum_level();
        }
        Ok(())
    }
}

impl<K: Tunnel, const L2: usize> Packet for Skb<K, L2> {
    #[inline(always)]
    fn make_linear(&mut self, bytes: usize) {
        if self.pointer(Self::MISSING, bytes - Self::MISSING).is_err() {
            let bytes = bytes - Self::MISSING;
            let length = self.context().len;
            let bytes = if (bytes as u32) < length { bytes as u32 } else { length };
            // SAFETY: the context is valid; no reference into the packet is alive. Where it fails for want of memory,
            // `at` finds the packet short.
            unsafe { bpf_skb_pull_data(self.context, bytes) };
        }
    }

    #[inline(always)]
    fn ethertype(&self) -> [u8; 2] {
        (self.context().protocol as u16).to_ne_bytes()
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        self.context().vlan_present != 0
    }

    #[inline(always)]
    fn to_this_host(&self) -> bool {
        self.context().pkt_type == PACKET_HOST
    }

    #[inline(always)]
    fn is_own(&self) -> bool {
        self.context().ingress_ifindex == 0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.context().ifindex
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        self.context().mark
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u32) {
        // SAFETY: the context is valid, and tc programs may write this field.
        unsafe { (*self.context).mark = mark };
    }

    // A function of its own for the sake of the stack.
    #[inline(never)]
    fn fits_way(&mut self, ifindex: u32, source: &IpKey, node: &IpKey, bytes: usize) -> bool {
        let [low, high] = (bytes as u16).to_ne_bytes();
        let (family, source, destination) = if node.is_ipv4() {
            (AF_INET, IpKey::from_words(ipv4_first(source)), IpKey::from_words(ipv4_first(node)))
        } else {
            (AF_INET6, *source, *node)
        };
        let mut query = RouteQuery {
            head: u64::from_ne_bytes([family as u8, K::PROTOCOL, 0, 0, 0, 0, low, high]),
            ifindex,
            flow: 0,
            source,
            destination,
            answer: [1; 2],
        };
        let size = size_of::<RouteQuery>() as i32;
        // SAFETY: the context is valid, the struct fully written and of the kernel's layout.
        let answer = unsafe {
            bpf_fib_lookup(self.context.cast(), (&raw mut query).cast(), size, BPF_FIB_LOOKUP_OUTPUT)
        };
        // Without a known neighbour the kernel resolves it. Any other answer came before the kernel looked at the size,
        // such as where this interface does not forward: what it makes of that is its own to know.
        answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS) || answer == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH)
    }

    #[inline(always)]
    fn add_to_sum(&mut self, difference: u16) {
        // The kernel sums words as they lie in memory.
        let difference = u32::from(difference.to_be());
        // SAFETY: the context is valid. It fails where the device made no sum, which is as well.
        unsafe { bpf_csum_update(self.context, difference) };
    }

    #[inline(always)]
    fn flow_hash(&mut self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_hash_recalc(self.context) }
    }

    #[inline(always)]
    fn push_tunnel<O: IpHeader>(&mut self) -> Result<(), Reason> {
        let outer = match O::FAMILY {
            Family::V4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
            Family::V6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        };
        let kind = if K::HEADERS == 0 { PUSH } else { PUSH_VXLAN };
        let (room, flags) = (K::length::<O>() as i32, kind | u64::from(outer));
        // SAFETY: the context is valid; no reference into the packet is alive.
        let error = unsafe { bpf_skb_adjust_room(self.context, room, BPF_ADJ_ROOM_MAC, flags) };
        if error != 0 {
            return Err(Reason::NoRoom);
        }
        // SAFETY: a plain byte. Volatile, because the loader may have put another value there.
        let poison = unsafe { core::ptr::read_volatile(&raw const OVL_POISON) };
        if poison != 0 {
            // As much as every tunnel of the kind has.
            if K::HEADERS == 0 {
                if let Ok(room) = self.at_mut::<[u8; 20]>(IP) {
                    *room = [poison; 20];
                }
            } else if let Ok(room) = self.at_mut::<[u8; 50]>(IP) {
                *room = [poison; 50];
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn note(&self) -> Option<u64> {
        let start = self.context().data_meta as usize;
        if start + size_of::<u64>() > self.context().data as usize {
            return None;
        }
        // SAFETY: in bounds, alignment 1, any bit pattern is valid.
        Some(u64::from_ne_bytes(unsafe { *(start as *const [u8; 8]) }))
    }

    #[inline(always)]
    fn lower_checksum_level(&mut self) {
        // A checksum that the device verified was the outer one: without this the inner one would count as verified.
        // SAFETY: the context is valid. Its failure is not possible for this level.
        unsafe { bpf_csum_level(self.context, u64::from(BPF_CSUM_LEVEL_DEC)) };
    }
}

/// An IPv4 address as the kernel reads it where there is room for either family: from the first bytes on.
#[inline(always)]
fn ipv4_first(address: &IpKey) -> [u64; 2] {
    let [_, low] = address.words();
    [low.to_be() << 32, 0].map(u64::from_be)
}

/// Sends the packet out of an interface; the kernel resolves the next hop, its own choice where none is given.
#[inline(always)]
pub(crate) fn redirect_neigh(ifindex: u32, next_hop: Option<&IpKey>) -> i32 {
    match next_hop {
        // SAFETY: a null pointer of length 0 asks for a route lookup.
        None => unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 },
        Some(address) => redirect_to(ifindex, address),
    }
}

/// A function of its own for the sake of the stack.
#[inline(never)]
fn redirect_to(ifindex: u32, next_hop: &IpKey) -> i32 {
    let (family, words) =
        if next_hop.is_ipv4() { (AF_INET, ipv4_first(next_hop)) } else { (AF_INET6, next_hop.words()) };
    let mut next_hop = NextHop { reserved: 0, family, words };
    let neighbour = (&raw mut next_hop.family).cast::<bpf_redir_neigh>();
    // SAFETY: family and words are what that struct is made of, fully written, and outlive the call.
    unsafe { bpf_redirect_neigh(ifindex, neighbour, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// Delivers the packet into the namespace at the other end of a host-side interface.
#[inline(always)]
pub(crate) fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: takes plain numbers.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Has the kernel take the packet for one that an interface received.
#[inline(always)]
pub(crate) fn redirect_ingress(ifindex: u32) -> i32 {
    // SAFETY: takes plain numbers.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Asks for room as the context says, and returns the errno.
#[inline(always)]
pub(crate) fn probe(context: *mut __sk_buff) -> i32 {
    // SAFETY: the kernel's pointer is valid while the program runs.
    let asked = unsafe { &*context };
    let flags = u64::from(asked.mark) | u64::from(asked.priority) << 32;
    // SAFETY: the context is valid; no reference into the packet is alive.
    let error = unsafe { bpf_skb_adjust_room(context, asked.cb[0] as i32, BPF_ADJ_ROOM_MAC, flags) };
    -(error as i32)
}
