//! Verdicts that somebody wants to see, into aya-log's ring.
//!
//! Two functions, beside and not within each other, for the sake of the stack: the largest entry point has over 400 of its 512
//! bytes, and kernels before 6.8 round every function's share up to a multiple of 32.
#![expect(clippy::cast_possible_truncation, reason = "no packet has 4 GiB")]

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use ovl_ebpf::packet::Packet as _;
use ovl_ebpf::tables::Tables as _;
use ovl_ebpf::trace::Summary;

use crate::context::Skb;
use crate::maps::{Maps, trace, traced};

/// Shows a verdict about a packet of `length` bytes, if it is one that is wanted.
#[inline(always)]
pub(crate) fn show(context: *mut __sk_buff, summary: Summary, length: usize) {
    if note(context, summary, length) {
        log();
    }
}

/// Puts the record together.
#[inline(never)]
fn note(context: *mut __sk_buff, summary: Summary, length: usize) -> bool {
    let Some(trace) = trace() else { return false };
    // SAFETY: takes no argument.
    let random = unsafe { bpf_get_prandom_u32() };
    if !summary.is_wanted(trace, Maps.now(), random) {
        return false;
    }
    let Some(row) = traced() else { return false };
    row.events += 1;
    let packet = Skb::new(context);
    let event = &mut row.event;
    event.program = summary.program();
    event.reason = summary.reason();
    event.action = summary.action();
    event.length = length as u32;
    event.ifindex = packet.ifindex();
    event.mark = packet.mark();
    event.ethertype = packet.ethertype();
    event.captured = packet.copy_head(&mut event.head);
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
