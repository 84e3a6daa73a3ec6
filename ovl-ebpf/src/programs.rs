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
use ovl_ebpf::ipip::Ipip;
use ovl_ebpf::learn::to_pod as decide_to_pod;
use ovl_ebpf::overlay::to_overlay as decide_to_overlay;
use ovl_ebpf::packet::Bytes as _;
use ovl_ebpf::trace::Summary;
use ovl_ebpf::tunnel::{Tunnel, Vxlan};
use ovl_ebpf::verdict::Verdict;

use crate::context::{Skb, probe, redirect_ingress, redirect_neigh, redirect_peer};
use crate::maps::{Maps, count, trace};
use crate::show::show;
use crate::xdp::Xdp;

/// Defines a program of tc that has `$decide` decide about packets with the headers and tunnels of `$packet`.
macro_rules! classifiers {
    ($($(#[doc = $doc:literal])* $name:ident: $program:ident, $decide:ident, $packet:ty;)*) => {$(
        $(#[doc = $doc])*
        #[classifier]
        pub(crate) fn $name(context: TcContext) -> i32 {
            let mut packet = <$packet>::new(context.as_ptr().cast());
            let bytes = packet.length();
            let verdict = $decide(&mut packet, &Maps);
            act(&packet, Program::$program, bytes, verdict)
        }
    )*};
}

classifiers! {
    /// Ingress of a pod's host-side interface.
    from_pod: FromPod, decide_from_pod, Skb<Vxlan>;
    /// Ingress of the underlay device.
    from_wire: FromWire, decide_from_wire, Skb<Vxlan>;
    /// Egress of a pod's host-side interface.
    to_pod: ToPod, decide_to_pod, Skb<Vxlan>;
    /// Egress of the overlay device, and of the underlay device where peers are reached without a tunnel.
    to_overlay: ToOverlay, decide_to_overlay, Skb<Vxlan>;
    /// [`from_pod`] of networks with IP in IP.
    ipip_from_pod: FromPod, decide_from_pod, Skb<Ipip>;
    /// [`from_wire`] of networks with IP in IP.
    ipip_from_wire: FromWire, decide_from_wire, Skb<Ipip>;
    /// [`to_overlay`] of networks with IP in IP.
    ipip_to_overlay: ToOverlay, decide_to_overlay, Skb<Ipip>;
    /// The same at a tunnel device of the kernel, whose packets have no Ethernet header.
    ipip_to_tunnel: ToOverlay, decide_to_overlay, Skb<Ipip, 0>;
}

#[inline(always)]
fn act<K: Tunnel, const L2: usize>(
    packet: &Skb<K, L2>,
    program: Program,
    bytes: usize,
    verdict: Verdict<'_>,
) -> i32 {
    let summary = Summary::new(program, verdict);
    count(program, verdict.reason(), bytes);
    let action = match verdict {
        // Not TC_ACT_OK, which would end the chain and keep other programs and filters from seeing the packet.
        Verdict::Pass(_) | Verdict::Strip => TC_ACT_UNSPEC,
        Verdict::Drop(_) => TC_ACT_SHOT,
        Verdict::Send { ifindex, next_hop } => redirect_neigh(ifindex, next_hop),
        Verdict::Wrap { ifindex, .. } => redirect_neigh(ifindex, None),
        Verdict::Deliver { ifindex } => redirect_peer(ifindex),
        Verdict::Return { ifindex, .. } => redirect_ingress(ifindex),
    };
    // The kernel redirects when the program has ended.
    if trace().is_some() {
        show(packet, summary, bytes);
    }
    action
}

/// XDP on the underlay device. `frags`: packets in several buffers, as jumbo frames are, come, too.
#[xdp(frags)]
pub(crate) fn from_wire_xdp(context: XdpContext) -> u32 {
    strip(&mut Xdp::<Vxlan>::new(context.ctx))
}

/// [`from_wire_xdp`] of networks with IP in IP.
#[xdp(frags)]
pub(crate) fn ipip_from_wire_xdp(context: XdpContext) -> u32 {
    strip(&mut Xdp::<Ipip>::new(context.ctx))
}

#[inline(always)]
fn strip<K: Tunnel>(packet: &mut Xdp<K>) -> u32 {
    let bytes = packet.length();
    let verdict = decide_from_wire_xdp(packet, &Maps);
    let summary = Summary::new(Program::FromWireXdp, verdict);
    count(Program::FromWireXdp, verdict.reason(), bytes);
    if trace().is_some() {
        show(packet, summary, bytes);
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
