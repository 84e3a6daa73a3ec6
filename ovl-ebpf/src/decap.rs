//! Reading the outer headers of a tunnel packet.

use ovl_common::wire::{ETHERTYPE_IPV4, Ipv4, VxlanOverIpv4};
use ovl_common::{Config, IpKey, Reason};

use crate::inspect::check_fixed_part;
use crate::packet::{IP, Packet};

const ECN: u8 = 0b11;

/// What the outer headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The node that sent the packet.
    pub node: IpKey,
    /// DSCP and ECN.
    pub tos: u8,
}

/// Whether `ip` is a packet to this node's tunnel port, as far as the IP header tells.
#[inline(always)]
pub fn is_to_tunnel(config: &Config, ip: &Ipv4) -> bool {
    ip.protocol == ovl_common::wire::UDP && ip.destination == config.underlay_address.ipv4_octets()
}

/// Reads the outer headers of a packet for which [`is_to_tunnel`] holds.
#[inline(always)]
pub fn outer<P: Packet>(packet: &P, config: &Config) -> Result<Outer, Reason> {
    let headers: &VxlanOverIpv4 = packet.at(IP)?;
    if headers.udp.destination != config.tunnel_port {
        return Err(Reason::NotTunnel);
    }
    check_fixed_part(&headers.ip)?;
    if headers.ip.checksum != headers.ip.computed_checksum() {
        return Err(Reason::BadHeader);
    }
    let total = usize::from(u16::from_be_bytes(headers.ip.total_length));
    let udp = usize::from(u16::from_be_bytes(headers.udp.length));
    // Never padded: the shortest tunnel packet is longer than the shortest frame.
    if total + IP != packet.length() || udp + size_of::<Ipv4>() != total {
        return Err(Reason::BadLength);
    }
    let expected = ovl_common::wire::Vxlan::new(config.vni);
    if headers.vxlan.flags != expected.flags
        || headers.vxlan.reserved != expected.reserved
        || headers.vxlan.reserved2 != expected.reserved2
    {
        return Err(Reason::TunnelFlags);
    }
    if headers.vxlan.vni != expected.vni {
        return Err(Reason::OtherVni);
    }
    if headers.ethernet.destination != config.vtep_mac {
        return Err(Reason::InnerMac);
    }
    if headers.ethernet.ethertype != ETHERTYPE_IPV4 {
        return Err(Reason::NotIp);
    }
    Ok(Outer { node: IpKey::from_ipv4_octets(headers.ip.source), tos: headers.ip.tos })
}

/// Whether congestion experienced has to be marked inside (RFC 6040 section 4.2, figure 4).
///
/// The combinations that the kernel logs, drops or turns into ECT(1) are left to it.
#[inline(always)]
pub fn must_mark_congestion(outer_tos: u8, inner_tos: u8) -> Result<bool, Reason> {
    match (outer_tos & ECN, inner_tos & ECN) {
        (0b00, _) => Ok(false),
        (outer, inner) if outer == inner => Ok(false),
        (0b11, 0b01 | 0b10) => Ok(true),
        (0b10, 0b11 | 0b01) | (0b01, 0b11) => Ok(false),
        _ => Err(Reason::Ecn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_comes_inside_as_rfc_6040_says() {
        const NOT_ECT: u8 = 0b00;
        const ECT_1: u8 = 0b01;
        const ECT_0: u8 = 0b10;
        const CE: u8 = 0b11;
        let kernel = Err(Reason::Ecn);
        let table = [
            // outer, inner, mark inside?
            (NOT_ECT, NOT_ECT, Ok(false)),
            (NOT_ECT, ECT_0, Ok(false)),
            (NOT_ECT, ECT_1, Ok(false)),
            (NOT_ECT, CE, Ok(false)),
            (ECT_0, NOT_ECT, kernel),
            (ECT_0, ECT_0, Ok(false)),
            (ECT_0, ECT_1, Ok(false)),
            (ECT_0, CE, Ok(false)),
            (ECT_1, NOT_ECT, kernel),
            (ECT_1, ECT_0, kernel),
            (ECT_1, ECT_1, Ok(false)),
            (ECT_1, CE, Ok(false)),
            (CE, NOT_ECT, kernel),
            (CE, ECT_0, Ok(true)),
            (CE, ECT_1, Ok(true)),
            (CE, CE, Ok(false)),
        ];
        for (outer, inner, expected) in table {
            assert_eq!(must_mark_congestion(outer, inner), expected, "outer {outer:02b} inner {inner:02b}");
        }
    }
}
