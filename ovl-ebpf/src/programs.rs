//! The entry points. They only translate.
#![expect(clippy::needless_pass_by_value, reason = "the signature that the macro calls")]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use ovl_common::Program;
use ovl_ebpf::early::from_wire_xdp as decide_from_wire_xdp;
use ovl_ebpf::egress::from_pod as decide_from_pod;
use ovl_ebpf::ingress::from_wire as decide_from_wire;
use ovl_ebpf::learn::to_pod as decide_to_pod;
use ovl_ebpf::overlay::to_overlay as decide_to_overlay;
use ovl_ebpf::packet::Bytes as _;
use ovl_ebpf::trace::Summary;
use ovl_ebpf::verdict::Verdict;

use crate::context::{Skb, probe, redirect_ingress, redirect_neigh, redirect_peer};
use crate::maps::{Maps, count, trace};
use crate::show::show;
use crate::xdp::Xdp;

/// Ingress of a pod's host-side interface.
#[classifier]
pub(crate) fn from_pod(context: TcContext) -> i32 {
    let mut packet = Skb::new(context.as_ptr().cast());
    let bytes = packet.length();
    act(&context, Program::FromPod, bytes, decide_from_pod(&mut packet, &Maps))
}

/// Ingress of the underlay device.
#[classifier]
pub(crate) fn from_wire(context: TcContext) -> i32 {
    let mut packet = Skb::new(context.as_ptr().cast());
    let bytes = packet.length();
    act(&context, Program::FromWire, bytes, decide_from_wire(&mut packet, &Maps))
}

/// Egress of a pod's host-side interface.
#[classifier]
pub(crate) fn to_pod(context: TcContext) -> i32 {
    let mut packet = Skb::new(context.as_ptr().cast());
    let bytes = packet.length();
    act(&context, Program::ToPod, bytes, decide_to_pod(&mut packet, &Maps))
}

/// Egress of the overlay device, and of the underlay device where peers are reached without a tunnel.
#[classifier]
pub(crate) fn to_overlay(context: TcContext) -> i32 {
    let mut packet = Skb::new(context.as_ptr().cast());
    let bytes = packet.length();
    act(&context, Program::ToOverlay, bytes, decide_to_overlay(&mut packet, &Maps))
}

#[inline(always)]
fn act(context: &TcContext, program: Program, bytes: usize, verdict: Verdict<'_>) -> i32 {
    let summary = Summary::new(program, verdict);
    count(program, verdict.reason(), bytes);
    let action = match verdict {
        // Not TC_ACT_OK, which would end the chain and keep other programs and filters from seeing the packet.
        Verdict::Pass(_) | Verdict::Strip => TC_ACT_UNSPEC,
        Verdict::Drop(_) => TC_ACT_SHOT,
        Verdict::Send { ifindex, next_hop } => redirect_neigh(ifindex, next_hop),
        Verdict::Deliver { ifindex } => redirect_peer(ifindex),
        Verdict::Return { ifindex, .. } => redirect_ingress(ifindex),
    };
    // The kernel redirects when the program has ended.
    if trace().is_some() {
        show(&Skb::new(context.as_ptr().cast()), summary, bytes);
    }
    action
}

/// XDP on the underlay device. `frags`: packets in several buffers, as jumbo frames are, come, too.
#[xdp(frags)]
pub(crate) fn from_wire_xdp(context: XdpContext) -> u32 {
    let mut packet = Xdp::new(context.ctx);
    let bytes = packet.length();
    let verdict = decide_from_wire_xdp(&mut packet, &Maps);
    let summary = Summary::new(Program::FromWireXdp, verdict);
    count(Program::FromWireXdp, verdict.reason(), bytes);
    if trace().is_some() {
        show(&packet, summary, bytes);
    }
    if matches!(verdict, Verdict::Drop(_)) { XDP_DROP } else { XDP_PASS }
}

/// Never attached: says whether this kernel changes a packet's room by `cb[0]` bytes with the flags in mark and priority,
/// as a positive errno.
#[classifier]
pub(crate) fn probe_room(context: TcContext) -> i32 {
    probe(context.as_ptr().cast())
}

/// The helpers this object calls are for programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
