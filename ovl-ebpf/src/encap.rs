//! Writing the outer headers as the kernel's own VXLAN device would.

use ovl_common::wire::{Ethernet, TunnelHeaders, UDP, Udp, Vxlan, fold, sum};
use ovl_common::{Config, Reason, Remote};

use crate::inspect::Inner;
use crate::ip::{Family, IpHeader, Outer, pseudo_header};
use crate::packet::{IP, Packet, inner_ip};
use crate::tables::Tables;

/// Bytes between the outer and the inner IP header.
pub const HEADERS: usize = size_of::<TunnelHeaders>();

const ECN: u8 = 0b11;
const ECT_0: u8 = 0b10;

/// The few things about a tunnel packet that are decided before there is room for its headers.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of the outer IP packet, bytes.
    payload: u16,
    source_port: u16,
    id: u16,
    tos: u8,
    is_checksummed: bool,
}

/// How `inner` travels to `remote`.
///
/// Over IPv4 the UDP checksum is 0, which is allowed (RFC 768, RFC 7348 section 5): a program cannot ask for the
/// checksum offload that GSO would need. Over IPv6 peers may want one (RFC 8200 section 8.1): see `checksum`. DF is
/// clear and the DSCP 0, as the kernel's device has it by default.
#[inline(always)]
pub fn plan<O: IpHeader, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    remote: &Remote,
    inner: &Inner,
) -> Result<Plan, Reason> {
    let is_checksummed = O::FAMILY == Family::V6 && remote.zero_checksum == 0;
    if is_checksummed && (packet.segment_size().is_some() || !inner.has_checksum) {
        return Err(Reason::OuterChecksum);
    }
    let payload =
        u16::try_from(inner.length + size_of::<TunnelHeaders>()).map_err(|_over_64_kib| Reason::Oversize)?;
    if O::FAMILY == Family::V4 && payload > u16::MAX - 20 {
        return Err(Reason::Oversize);
    }
    Ok(Plan {
        payload,
        source_port: source_port(packet.flow_hash(), config.source_port_min, config.source_port_max),
        id: if O::FAMILY == Family::V4 { tables.identifications(segments(packet, inner.length)) } else { 0 },
        tos: outer_ecn(inner.tos),
        is_checksummed,
    })
}

/// Writes the headers in front of the inner packet, for which there is room.
///
/// Each field goes straight to its place: the headers of every combination of families at once do not fit the stack of
/// a BPF program.
#[inline(always)]
pub fn write<I: IpHeader, O: IpHeader, P: Packet>(
    packet: &mut P,
    config: &Config,
    remote: &Remote,
    plan: &Plan,
    hops: Hops,
) -> Result<(), Reason> {
    let own = O::tunnel(config);
    packet.at_mut::<O>(IP)?.write_outer(&Outer {
        source: &own.address,
        destination: &remote.node,
        protocol: UDP,
        may_be_cut: true,
        tos: plan.tos,
        hop_limit: own.hop_limit,
        payload: plan.payload,
        id: plan.id,
    });
    let headers = packet.at_mut::<TunnelHeaders>(IP + O::LENGTH)?;
    headers.udp = Udp {
        source: plan.source_port.to_be_bytes(),
        destination: own.port,
        length: plan.payload.to_be_bytes(),
        checksum: [0; 2],
    };
    headers.vxlan = Vxlan::new(own.vni);
    headers.ethernet = Ethernet { destination: remote.vtep_mac, source: own.mac, ethertype: I::ETHERTYPE };
    if hops == Hops::One {
        packet.at_mut::<I>(inner_ip::<O>())?.take_hop();
    }
    if plan.is_checksummed {
        let checksum = checksum::<I, O, P>(packet, plan)?;
        packet.at_mut::<TunnelHeaders>(IP + O::LENGTH)?.udp.checksum = checksum;
    }
    Ok(())
}

/// How many packets on the wire one of `length` bytes becomes, or one more.
#[inline(always)]
pub(crate) fn segments<P: Packet>(packet: &P, length: usize) -> u16 {
    match packet.segment_size() {
        Some(size) if size > 0 => u16::try_from(length / size + 1).unwrap_or(u16::MAX),
        Some(_) | None => 1,
    }
}

/// What this node takes off the TTL or hop limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hops {
    /// Nothing: it has done so already, or it is the sender.
    None,
    /// It forwards the packet.
    One,
}

/// The UDP checksum of the whole packet, without reading it: what the inner transport checksum covers adds up to the
/// complement of the inner pseudo header, whether the checksum is there already or is left to the device (the kernel's
/// `lco_csum` rests on the same).
#[inline(always)]
fn checksum<I: IpHeader, O: IpHeader, P: Packet>(packet: &P, plan: &Plan) -> Result<[u8; 2], Reason> {
    let (_, outer_addresses) = packet.at::<O>(IP)?.sums();
    let mut total = u32::from(pseudo_header(outer_addresses, UDP, usize::from(plan.payload)));
    total += sum(packet.at::<[u8; size_of::<TunnelHeaders>()]>(IP + O::LENGTH)?);
    let ip = packet.at::<I>(inner_ip::<O>())?;
    let (inner_header, inner_addresses) = ip.sums();
    total += inner_header;
    // The checksum of ICMP for IPv4 covers no addresses: what it covers adds up to nothing.
    if ip.protocol() != I::ICMP || I::ICMP_PSEUDO_HEADER {
        let length = usize::from(plan.payload) - size_of::<TunnelHeaders>() - I::LENGTH;
        total += u32::from(!pseudo_header(inner_addresses, ip.protocol(), length));
    }
    Ok(match !fold(total) {
        // That would mean that none was computed.
        0 => [0xff; 2],
        checksum => checksum.to_be_bytes(),
    })
}

/// The outer ECN field: the inner one, but ECT(0) for CE (RFC 6040 section 4.1's compatibility with older decapsulators
/// is what the kernel's `INET_ECN_encapsulate` implements).
#[inline(always)]
pub(crate) fn outer_ecn(tos: u8) -> u8 {
    match tos & ECN {
        ECN => ECT_0,
        other => other,
    }
}

/// The outer source port of a flow, in `min..max`: the formula of the kernel's `udp_flow_src_port`, so that a flow
/// keeps its port when it changes between the fast path and the kernel's device.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a 32-bit number times a 16-bit one, shifted by 32")]
fn source_port(hash: u32, min: u16, max: u16) -> u16 {
    let mixed = hash ^ (hash << 16);
    let range = u64::from(max.saturating_sub(min));
    min.wrapping_add(((u64::from(mixed) * range) >> 32) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_goes_outside_as_rfc_6040_says() {
        for (inner, outer) in [(0b00, 0b00), (0b01, 0b01), (0b10, 0b10), (0b11, 0b10)] {
            assert_eq!(outer_ecn(inner), outer, "inner {inner:02b}");
            assert_eq!(outer_ecn(0xfc | inner), outer, "the DSCP stays inside");
        }
    }

    #[test]
    fn source_ports_fill_their_range_and_no_more() {
        for hash in [0, 1, 0xffff, 0x1_0000, 0x7fff_ffff, u32::MAX] {
            let port = source_port(hash, 32768, 61000);
            assert!((32768..61000).contains(&port), "hash {hash:#x} gives {port}");
        }
        assert_eq!(source_port(0x1234_5678, 40000, 40000), 40000, "an empty range");
        assert_eq!(source_port(u32::MAX, 40000, 30000), 40000, "a range the wrong way round");
    }
}
