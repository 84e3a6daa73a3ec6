//! The packet path, without the kernel: pure functions over a [`packet::Packet`] and the [`tables::Tables`].
//!
//! The BPF object (`main.rs`) gives them a socket buffer and BPF maps; the tests give them bytes and plain maps. On
//! any doubt a function returns `Err(reason)`, which always means: the packet is untouched, the kernel carries it.
#![cfg_attr(target_arch = "bpf", no_std)]
#![forbid(unsafe_code)]

pub mod active;
pub mod decap;
pub mod early;
pub mod egress;
pub mod encap;
pub mod flow;
pub mod ingress;
pub mod inspect;
pub mod ip;
pub mod ipip;
pub mod learn;
pub mod overlay;
pub mod packet;
mod stand_in;
pub mod tables;
pub mod trace;
pub mod tunnel;
pub mod verdict;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
