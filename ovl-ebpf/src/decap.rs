//! Reading the outer headers of a tunnel packet.

use ovl_common::wire::{TunnelHeaders, UDP, Vxlan};
use ovl_common::{Config, Reason};

use crate::ip::IpHeader;
use crate::packet::{Bytes, IP};

const ECN: u8 = 0b11;

/// What the outer headers say of a packet for our network, but for which node it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// DSCP and ECN.
    pub tos: u8,
    /// EtherType of the inner frame.
    pub ethertype: [u8; 2],
    /// Why the packet is the kernel's, where it is.
    pub oddity: Result<(), Reason>,
}

/// Whether `ip` is a packet to this node's tunnel port, as far as the IP header tells.
#[inline(always)]
pub fn is_to_tunnel<O: IpHeader>(config: &Config, ip: &O) -> bool {
    let tunnel = O::tunnel(config);
    tunnel.encapsulation == ovl_common::Encapsulation::Vxlan as u8
        && ip.protocol() == UDP
        && ip.destination() == tunnel.address
}

/// Reads the outer headers of a packet for which [`is_to_tunnel`] holds. An error is a packet that is not of our network,
/// or cannot be told to be.
#[inline(always)]
pub fn outer<O: IpHeader, P: Bytes>(packet: &P, config: &Config) -> Result<Outer, Reason> {
    let ip: &O = packet.at(IP)?;
    let headers: &TunnelHeaders = packet.at(IP + O::LENGTH)?;
    let tunnel = O::tunnel(config);
    if headers.udp.destination != tunnel.port {
        return Err(Reason::NotTunnel);
    }
    ip.check_fixed_part()?;
    if !ip.is_intact() {
        return Err(Reason::BadHeader);
    }
    // Never padded: the shortest tunnel packet is longer than the shortest frame.
    let udp = usize::from(u16::from_be_bytes(headers.udp.length));
    if ip.length() + IP != packet.length() || udp + O::LENGTH != ip.length() {
        return Err(Reason::BadLength);
    }
    let expected = Vxlan::new(tunnel.vni);
    if headers.vxlan.flags[0] & expected.flags[0] == 0 {
        return Err(Reason::TunnelFlags);
    }
    // The last byte is none of the identifier's.
    if (u32::from_be_bytes(headers.vxlan.vni) ^ u32::from_be_bytes(expected.vni)) >> 8 != 0 {
        return Err(Reason::OtherVni);
    }
    let oddity = if headers.vxlan != expected {
        Err(Reason::TunnelFlags)
    } else if headers.ethernet.destination != tunnel.mac {
        Err(Reason::InnerMac)
    } else {
        Ok(())
    };
    Ok(Outer { tos: ip.tos(), ethertype: headers.ethernet.ethertype, oddity })
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

/// Whether an outer header says that the packet met congestion.
#[inline(always)]
pub fn is_congested(outer_tos: u8) -> bool {
    outer_tos & ECN == ECN
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
