//! Verdicts that somebody wants to see, into aya-log's ring.
//!
//! Two functions, beside and not within each other, for the sake of the stack: the largest entry point has over 400 of its 512
//! bytes, and kernels before 6.8 round every function's share up to a multiple of 32.
#![expect(clippy::cast_possible_truncation, reason = "no packet has 4 GiB")]

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use ovl_common::HEAD;
use ovl_ebpf::tables::Tables as _;
use ovl_ebpf::trace::Summary;

use crate::maps::{Maps, trace, traced};

/// A packet that can be shown.
pub(crate) trait Shown {
    /// The interface that the program runs on.
    fn ifindex(&self) -> u32;
    /// The mark; 0 where it has none yet.
    fn mark(&self) -> u32;
    /// The EtherType, network byte order.
    fn ethertype(&self) -> [u8; 2];
    /// Copies `length` bytes behind the Ethernet header, or says that there are fewer. `to` has room for [`HEAD`].
    fn copy(&self, to: &mut [u8; HEAD], length: usize) -> bool;
}

/// Copies what follows the Ethernet header, as much as fits and there is of it, and returns how much that is.
///
/// In the few lengths that are worth it, up to the ports: with these families, inside and outside of a tunnel. What a
/// packet's own length is at least and at most, older verifiers lose track of.
#[inline(always)]
fn copy_head<S: Shown>(packet: &S, head: &mut [u8; HEAD]) -> u8 {
    let mut copy = |length: usize| packet.copy(head, length);
    if copy(HEAD) {
        HEAD as u8
    } else if copy(94) {
        94
    } else if copy(74) {
        74
    } else if copy(44) {
        44
    } else if copy(24) {
        24
    } else if copy(20) {
        20
    } else {
        0
    }
}

/// Shows a verdict about a packet of `length` bytes, if it is one that is wanted.
#[inline(always)]
pub(crate) fn show<S: Shown>(packet: &S, summary: Summary, length: usize) {
    if note(packet, summary, length) {
        log();
    }
}

/// Puts the record together.
#[inline(never)]
fn note<S: Shown>(packet: &S, summary: Summary, length: usize) -> bool {
    let Some(trace) = trace() else { return false };
    // SAFETY: takes no argument.
    let random = unsafe { bpf_get_prandom_u32() };
    if !summary.is_wanted(trace, Maps.now(), random) {
        return false;
    }
    let Some(row) = traced() else { return false };
    row.events += 1;
    let event = &mut row.event;
    event.program = summary.program();
    event.reason = summary.reason();
    event.action = summary.action();
    event.length = length as u32;
    event.ifindex = packet.ifindex();
    event.mark = packet.mark();
    event.ethertype = packet.ethertype();
    event.captured = copy_head(packet, &mut event.head);
    true
}

/// Hands it to aya-log as the bytes that it is, in two halves: values of their own would need more stack than there is, and
/// longer ones a function that copies them.
#[inline(never)]
fn log() {
    let Some(row) = traced() else { return };
    let bytes = bytemuck::bytes_of(&row.event);
    let (start, end) = bytes.split_at(bytes.len() / 2);
    aya_log_ebpf::info!((), target: "ovl", "{:x}{:x}", start, end);
}
