//! A packet in memory.

use std::marker::PhantomData;

use bytemuck::{AnyBitPattern, NoUninit};
use ovl_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use ovl_common::{IpKey, Reason};

use crate::ip::{Family, IpHeader};
use crate::packet::{Bytes, Early, IP, Packet};
use crate::tunnel::{Tunnel, Vxlan};

/// What fresh headroom holds: not zeros, so that a header byte nobody wrote is noticed.
const POISON: u8 = 0xa5;

/// Bytes with the properties that a socket buffer has besides.
#[expect(clippy::struct_excessive_bools, reason = "they are the properties of a packet, one field each")]
#[derive(Clone, Debug)]
pub struct Frame<K = Vxlan> {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The interface it came in on, or goes out of.
    pub ifindex: u32,
    /// What [`Packet::is_tagged`] says.
    pub tagged: bool,
    /// What [`Packet::to_this_host`] says.
    pub to_this_host: bool,
    /// What [`Packet::is_own`] says.
    pub is_own: bool,
    /// What [`Packet::mark`] says.
    pub mark: u32,
    /// What [`Bytes::segment_size`] says.
    pub segment_size: Option<usize>,
    /// The largest packet that [`Packet::fits_way`] says fits.
    pub way: usize,
    /// What [`Packet::add_to_sum`] was told, all together.
    pub added_to_sum: u32,
    /// Makes [`Packet::push_tunnel`] and [`Bytes::pop_tunnel`] fail, as they do for packets they don't support.
    pub rigid: bool,
    /// What stands in front of the packet.
    pub note: Option<u64>,
    /// The kind of tunnel.
    pub kind: PhantomData<K>,
}

impl Frame {
    /// A packet on an interface, of a network with VXLAN.
    pub fn new(ifindex: u32, bytes: Vec<u8>) -> Self {
        Self::of(ifindex, bytes)
    }
}

impl<K> Frame<K> {
    /// A packet on an interface, of a network with tunnels of kind `K`.
    pub fn of(ifindex: u32, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ifindex,
            tagged: false,
            to_this_host: true,
            is_own: false,
            mark: 0,
            segment_size: None,
            way: 65_535,
            added_to_sum: 0,
            rigid: false,
            note: None,
            kind: PhantomData,
        }
    }
}

impl<K: Clone> Frame<K> {
    /// Every frame that it begins with, itself not among them.
    pub fn prefixes(&self) -> impl Iterator<Item = Self> + '_ {
        (0..self.bytes.len()).map(|length| Self { bytes: self.bytes[..length].to_vec(), ..self.clone() })
    }

    /// It with one byte changed, each of them in some ways, and which.
    pub fn damaged(&self) -> impl Iterator<Item = (String, Self)> + '_ {
        let places =
            (0..self.bytes.len()).flat_map(|place| [0x01, 0x7f, 0x80, 0xff].map(|bits| (place, bits)));
        places.map(|(place, bits)| {
            let mut frame = self.clone();
            frame.bytes[place] ^= bits;
            (format!("byte {place} ^ {bits:#x}"), frame)
        })
    }
}

impl<K: Tunnel> Frame<K> {
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

impl<K: Tunnel> Bytes for Frame<K> {
    type Tunnel = K;

    fn at<T: AnyBitPattern>(&self, offset: usize) -> Result<&T, Reason> {
        let bytes = self.bytes.get(offset..offset + size_of::<T>()).ok_or(Reason::Short)?;
        Ok(bytemuck::from_bytes(bytes))
    }

    fn at_mut<T: AnyBitPattern + NoUninit>(&mut self, offset: usize) -> Result<&mut T, Reason> {
        let bytes = self.bytes.get_mut(offset..offset + size_of::<T>()).ok_or(Reason::Short)?;
        Ok(bytemuck::from_bytes_mut(bytes))
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn segment_size(&self) -> Option<usize> {
        self.segment_size
    }

    fn pop_tunnel<O: IpHeader>(&mut self, inner: Family) -> Result<(), Reason> {
        if self.rigid {
            return Err(Reason::NoRoom);
        }
        self.bytes.drain(IP..IP + K::length::<O>());
        let ethertype = match inner {
            Family::V4 => ETHERTYPE_IPV4,
            Family::V6 => ETHERTYPE_IPV6,
        };
        self.change::<Ethernet>(0, |ethernet| ethernet.ethertype = ethertype);
        Ok(())
    }
}

impl<K: Tunnel> Early for Frame<K> {
    fn write_note(&mut self, note: u64) -> Result<(), Reason> {
        if self.note.is_some() {
            return Err(Reason::Metadata);
        }
        self.note = Some(note);
        Ok(())
    }

    fn remove_note(&mut self) {
        self.note = None;
    }
}

impl<K: Tunnel> Packet for Frame<K> {
    fn make_linear(&mut self, _bytes: usize) {}

    fn ethertype(&self) -> [u8; 2] {
        self.at::<Ethernet>(0).map_or([0; 2], |ethernet| ethernet.ethertype)
    }

    fn is_tagged(&self) -> bool {
        self.tagged
    }

    fn to_this_host(&self) -> bool {
        self.to_this_host
    }

    fn is_own(&self) -> bool {
        self.is_own
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn mark(&self) -> u32 {
        self.mark
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = mark;
    }

    fn fits_way(&mut self, _ifindex: u32, _source: &IpKey, _node: &IpKey, bytes: usize) -> bool {
        bytes <= self.way
    }

    fn add_to_sum(&mut self, difference: u16) {
        self.added_to_sum += u32::from(difference);
    }

    fn flow_hash(&mut self) -> u32 {
        0x1234_5678
    }

    fn push_tunnel<O: IpHeader>(&mut self) -> Result<(), Reason> {
        if self.rigid {
            return Err(Reason::NoRoom);
        }
        self.bytes.splice(IP..IP, std::iter::repeat_n(POISON, K::length::<O>()));
        self.change::<Ethernet>(0, |ethernet| ethernet.ethertype = O::ETHERTYPE);
        Ok(())
    }

    fn note(&self) -> Option<u64> {
        self.note
    }

    fn lower_checksum_level(&mut self) {}
}
