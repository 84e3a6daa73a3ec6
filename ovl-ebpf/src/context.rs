//! A socket buffer as a packet: the only pointer code.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel's helpers take and return C integers; every number here is small"
)]

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
    BPF_F_ADJ_ROOM_NO_CSUM_RESET, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_level, bpf_get_hash_recalc, bpf_get_prandom_u32, bpf_redirect_neigh, bpf_redirect_peer,
    bpf_skb_adjust_room, bpf_skb_pull_data,
};
use bytemuck::{AnyBitPattern, NoUninit};
use ovl_common::Reason;
use ovl_ebpf::packet::{IP, Packet, TUNNEL};

const AF_INET: u32 = 2;
/// `PACKET_HOST` of `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
/// Inner Ethernet header.
const INNER_L2: u64 = 14;

/// Room for outer headers in front of the inner frame, told so that GSO and offloads know the packet for a tunnel's.
/// `FIXED_GSO`: the sender's segment size already allows for the tunnel. `NO_CSUM_RESET`: the inner checksum's state
/// stays what it is.
const PUSH: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO
    | BPF_F_ADJ_ROOM_NO_CSUM_RESET
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
    | (INNER_L2 << BPF_ADJ_ROOM_ENCAP_L2_SHIFT);

/// Without `FIXED_GSO` the kernel would add the tunnel's bytes to the segment size.
const POP: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Not 0 in the packet tests, which run on zeroed headroom: fresh headroom then holds this byte, as it holds anything
/// in life, and a header byte that nobody wrote is noticed. A constant to the verifier, which removes what it guards.
#[unsafe(no_mangle)]
static OVL_POISON: u8 = 0;

/// The packet a tc program was called for.
pub(crate) struct Skb {
    context: *mut __sk_buff,
}

impl Skb {
    /// Takes the pointer that the kernel hands to a tc program, for the length of that call.
    pub(crate) fn new(context: *mut __sk_buff) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn context(&self) -> &__sk_buff {
        // SAFETY: the kernel's pointer is valid while the program runs, and `Skb` does not outlive that.
        unsafe { &*self.context }
    }

    /// The address of `size` bytes at `offset`, checked in the form the verifier understands.
    #[inline(always)]
    fn pointer(&self, offset: usize, size: usize) -> Result<usize, Reason> {
        let start = self.context().data as usize + offset;
        if start + size > self.context().data_end as usize { Err(Reason::Short) } else { Ok(start) }
    }
}

impl Packet for Skb {
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
    fn make_linear(&mut self, bytes: usize) {
        if self.pointer(0, bytes).is_err() {
            // SAFETY: the context is valid; no reference into the packet is alive. Fails where the packet is
            // shorter: `at` then says so for the header that is missing.
            unsafe { bpf_skb_pull_data(self.context, bytes as u32) };
        }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.context().len as usize
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
    fn ifindex(&self) -> u32 {
        self.context().ifindex
    }

    #[inline(always)]
    fn segment_size(&self) -> Option<usize> {
        match self.context().gso_size {
            0 => None,
            size => Some(size as usize),
        }
    }

    #[inline(always)]
    fn flow_hash(&mut self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_hash_recalc(self.context) }
    }

    #[inline(always)]
    fn random(&mut self) -> u16 {
        // SAFETY: takes no argument.
        unsafe { bpf_get_prandom_u32() as u16 }
    }

    #[inline(always)]
    fn push_tunnel(&mut self) -> Result<(), Reason> {
        // SAFETY: the context is valid; no reference into the packet is alive.
        let error = unsafe { bpf_skb_adjust_room(self.context, TUNNEL as i32, BPF_ADJ_ROOM_MAC, PUSH) };
        if error != 0 {
            return Err(Reason::NoRoom);
        }
        // SAFETY: a plain byte. Volatile, because the loader may have put another value there.
        let poison = unsafe { core::ptr::read_volatile(&raw const OVL_POISON) };
        if poison != 0
            && let Ok(room) = self.at_mut::<[u8; TUNNEL]>(IP)
        {
            *room = [poison; TUNNEL];
        }
        Ok(())
    }

    #[inline(always)]
    fn pop_tunnel(&mut self) -> Result<(), Reason> {
        // SAFETY: the context is valid; no reference into the packet is alive.
        let error = unsafe { bpf_skb_adjust_room(self.context, -(TUNNEL as i32), BPF_ADJ_ROOM_MAC, POP) };
        if error != 0 {
            return Err(Reason::NoRoom);
        }
        // A checksum that the device verified was the outer one: without this the inner one would count as verified.
        // SAFETY: the context is valid. Its failure is not possible for this level.
        unsafe { bpf_csum_level(self.context, u64::from(BPF_CSUM_LEVEL_DEC)) };
        Ok(())
    }
}

/// Sends the packet out of an interface; the kernel resolves the next hop, its own choice where none is given.
#[inline(always)]
pub(crate) fn redirect_neigh(ifindex: u32, next_hop: Option<[u8; 4]>) -> i32 {
    let action = match next_hop {
        // SAFETY: a null pointer of length 0 asks for a route lookup.
        None => unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) },
        Some(address) => {
            let mut neighbour = bpf_redir_neigh {
                nh_family: AF_INET,
                __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [0; 4] },
            };
            neighbour.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(address);
            let size = size_of::<bpf_redir_neigh>() as i32;
            // SAFETY: the struct is fully written and outlives the call.
            unsafe { bpf_redirect_neigh(ifindex, &raw mut neighbour, size, 0) }
        }
    };
    action as i32
}

/// Delivers the packet into the namespace at the other end of a host-side interface.
#[inline(always)]
pub(crate) fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: takes plain numbers.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}
