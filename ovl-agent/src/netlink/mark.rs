//! The mark of our routes: protocol numbers that no routing daemon has (`/etc/iproute2/rt_protos`).
//!
//! Why several: the kernel keeps one record per next hop, and looks for it in a list of all those with the same
//! protocol, scope, metric and device (`fib_find_info`). Ten thousand routes of one protocol through one tunnel device
//! take it 1.2 s of comparing, which grows with the square; spread over sixteen, a tenth of that. A network's first 512
//! subnets have the first number, so that small ones see only that.

use ipnet::IpNet;
use rtnetlink::packet_route::route::RouteProtocol;

use crate::network::to_bits;

const FIRST: u8 = 111;
const COUNT: u8 = 16;
/// So many neighbouring subnets have the same number.
const SHARE: u128 = 512;

/// Whether a route with this protocol is ours.
pub fn is_ours(protocol: RouteProtocol) -> bool {
    (FIRST..FIRST + COUNT).contains(&u8::from(protocol))
}

/// The protocol of the route to `net`, one of the equally long subnets of `range`.
pub(super) fn protocol(range: IpNet, net: IpNet) -> RouteProtocol {
    let host_bits = net.max_prefix_len() - net.prefix_len();
    let offset = to_bits(net.network()).saturating_sub(to_bits(range.network()));
    let number = offset.checked_shr(host_bits.into()).unwrap_or(0) / SHARE % u128::from(COUNT);
    RouteProtocol::from(FIRST + u8::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_number_and_large_networks_have_all() {
        let table = [
            ("10.42.0.0/16", "10.42.0.0/24", 111),
            ("10.42.0.0/16", "10.42.255.0/24", 111),
            ("10.0.0.0/8", "10.1.255.0/24", 111),
            ("10.0.0.0/8", "10.2.0.0/24", 112),
            ("10.0.0.0/8", "10.31.0.0/24", 126),
            ("10.0.0.0/8", "10.32.0.0/24", 111),
            ("fd42::/48", "fd42:0:0:3::/64", 111),
            ("fd42::/48", "fd42:0:0:200::/64", 112),
            ("::/0", "::/0", 111),
        ];
        for (range, net, number) in table {
            let protocol = protocol(range.parse().expect(range), net.parse().expect(net));
            assert_eq!(u8::from(protocol), number, "{net} of {range}");
            assert!(is_ours(protocol));
        }
        assert_eq!((0..=u8::MAX).filter(|number| is_ours(RouteProtocol::from(*number))).count(), 16);
        assert!(!is_ours(RouteProtocol::Boot) && !is_ours(RouteProtocol::from(110)));
        assert!(!is_ours(RouteProtocol::from(127)));
    }
}
