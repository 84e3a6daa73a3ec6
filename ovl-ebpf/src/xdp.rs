//! A packet as a driver hands it to XDP: the other half of the pointer code.
//!
//! Headers are read from the first buffer alone. Drivers put at least 128 bytes there; where they put less, the packet goes
//! on as it is.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel's helpers take and return C integers; every number here is small"
)]

use core::marker::PhantomData;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use bytemuck::{AnyBitPattern, NoUninit};
use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use ovl_common::{HEAD, Reason};
use ovl_ebpf::ip::{Family, IpHeader};
use ovl_ebpf::packet::{Bytes, Early, IP};
use ovl_ebpf::tunnel::Tunnel;

use crate::show::Shown;

/// Bytes of a note: a multiple of 4, as the kernel wants it.
const NOTE: usize = size_of::<u64>();

/// The packet an XDP program was called for, of a network with tunnels of kind `K`.
pub(crate) struct Xdp<K> {
    context: *mut xdp_md,
    kind: PhantomData<K>,
}

impl<K> Xdp<K> {
    /// Takes the pointer that the kernel hands to an XDP program, for the length of that call.
    pub(crate) fn new(context: *mut xdp_md) -> Self {
        Self { context, kind: PhantomData }
    }

    #[inline(always)]
    fn context(&self) -> &xdp_md {
        // SAFETY: the kernel's pointer is valid while the program runs, and `Xdp` does not outlive that.
        unsafe { &*self.context }
    }

    /// The address of `size` bytes at `offset`, checked in the form the verifier understands.
    #[inline(always)]
    fn pointer(&self, offset: usize, size: usize) -> Result<usize, Reason> {
        let start = self.context().data as usize + offset;
        if start + size > self.context().data_end as usize { Err(Reason::Short) } else { Ok(start) }
    }
}

impl<K: Tunnel> Shown for Xdp<K> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.context().ingress_ifindex
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn ethertype(&self) -> [u8; 2] {
        self.at::<Ethernet>(0).map_or([0; 2], |ethernet| ethernet.ethertype)
    }

    #[inline(always)]
    fn copy(&self, to: &mut [u8; HEAD], length: usize) -> bool {
        let to = to.as_mut_ptr().cast();
        // SAFETY: there is room, and the context is valid.
        unsafe { bpf_xdp_load_bytes(self.context, IP as u32, to, length as u32) == 0 }
    }
}

impl<K: Tunnel> Bytes for Xdp<K> {
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
        // SAFETY: the context is valid.
        unsafe { bpf_xdp_get_buff_len(self.context) as usize }
    }

    #[inline(always)]
    fn segment_size(&self) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn pop_tunnel<O: IpHeader>(&mut self, inner: Family) -> Result<(), Reason> {
        let before: Ethernet = *self.at(0)?;
        // SAFETY: the context is valid; no reference into the packet is alive.
        if unsafe { bpf_xdp_adjust_head(self.context, K::length::<O>() as i32) } != 0 {
            return Err(Reason::NoRoom);
        }
        let ethertype = match inner {
            Family::V4 => ETHERTYPE_IPV4,
            Family::V6 => ETHERTYPE_IPV6,
        };
        *self.at_mut(0).map_err(|_short| Reason::Mangled)? = Ethernet { ethertype, ..before };
        Ok(())
    }
}

impl<K: Tunnel> Early for Xdp<K> {
    #[inline(always)]
    fn write_note(&mut self, note: u64) -> Result<(), Reason> {
        let context = self.context();
        if context.data_meta as usize + 4 <= context.data as usize {
            return Err(Reason::Metadata);
        }
        // SAFETY: the context is valid; no reference into the packet is alive.
        if unsafe { bpf_xdp_adjust_meta(self.context, -(NOTE as i32)) } != 0 {
            return Err(Reason::Metadata);
        }
        let start = self.context().data_meta as usize;
        if start + NOTE > self.context().data as usize {
            return Err(Reason::Metadata);
        }
        // SAFETY: in bounds, alignment 1.
        unsafe { *(start as *mut [u8; NOTE]) = note.to_ne_bytes() };
        Ok(())
    }

    #[inline(always)]
    fn remove_note(&mut self) {
        // SAFETY: the context is valid; no reference into the packet is alive. There is one.
        unsafe { bpf_xdp_adjust_meta(self.context, NOTE as i32) };
    }
}
