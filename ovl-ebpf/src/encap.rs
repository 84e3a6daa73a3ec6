//! Writing the outer headers as the kernel's own VXLAN device would.

use ovl_common::wire::{ETHERTYPE_IPV4, Ethernet, Ipv4, UDP, Udp, Vxlan, VxlanOverIpv4};
use ovl_common::{Config, Reason, Remote};

use crate::inspect::Inner;
use crate::packet::TUNNEL;

const ECN: u8 = 0b11;
const ECT_0: u8 = 0b10;
const OUTER_IP_HEADER: u16 = 20;

/// The headers that carry `inner` to `remote`. `hash` names its flow, `id` is the outer identification.
///
/// The UDP checksum is 0, which IPv4 allows (RFC 768, RFC 7348 section 5): a program cannot ask for the checksum
/// offload that GSO would need. DF is clear and the DSCP 0, as the kernel's device has it by default.
#[inline(always)]
pub fn headers(
    config: &Config,
    remote: &Remote,
    inner: &Inner,
    hash: u32,
    id: u16,
) -> Result<VxlanOverIpv4, Reason> {
    let total_length = u16::try_from(inner.length + TUNNEL).map_err(|_over_64_kib| Reason::Oversize)?;
    let udp_length = total_length.wrapping_sub(OUTER_IP_HEADER);
    let mut ip = Ipv4 {
        version_and_length: 0x45,
        tos: outer_ecn(inner.tos),
        total_length: total_length.to_be_bytes(),
        id: id.to_be_bytes(),
        fragment: [0; 2],
        ttl: config.outer_ttl,
        protocol: UDP,
        checksum: [0; 2],
        source: config.underlay_address.ipv4_octets(),
        destination: remote.node.ipv4_octets(),
    };
    ip.checksum = ip.computed_checksum();
    Ok(VxlanOverIpv4 {
        ip,
        udp: Udp {
            source: source_port(hash, config.source_port_min, config.source_port_max).to_be_bytes(),
            destination: config.tunnel_port,
            length: udp_length.to_be_bytes(),
            checksum: [0; 2],
        },
        vxlan: Vxlan::new(config.vni),
        ethernet: Ethernet {
            destination: remote.vtep_mac,
            source: config.vtep_mac,
            ethertype: ETHERTYPE_IPV4,
        },
    })
}

/// The outer ECN field: the inner one, but ECT(0) for CE (RFC 6040 section 4.1's compatibility with older decapsulators
/// is what the kernel's `INET_ECN_encapsulate` implements).
#[inline(always)]
fn outer_ecn(tos: u8) -> u8 {
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
