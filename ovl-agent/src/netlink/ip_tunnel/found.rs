//! Devices of IP in IP as the kernel describes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, Ip6TunnelFlags, LinkFlags, LinkInfo, LinkMessage,
};

use crate::backend::IpTunnel;
use crate::netlink::LinkFacts;

/// A device as the kernel has it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) alias: String,
    /// `None` for a device of another kind.
    pub(super) tunnel: Option<IpTunnel>,
    /// Whether all else is as in one that we make.
    pub(super) plain: bool,
}

/// Reads a link's details.
pub(super) fn found(message: &LinkMessage) -> Found {
    let facts = LinkFacts::of(message);
    let (mut tunnel, mut plain) = tunnel(facts.infos);
    plain &= facts.is_up();
    if let Some(tunnel) = &mut tunnel {
        *tunnel.mtu_mut() = facts.mtu;
        if !tunnel.is_kernels() {
            plain &= facts.flags.contains(LinkFlags::Noarp | LinkFlags::LowerUp) && !facts.peer_elsewhere;
        }
    }
    Found {
        ifindex: facts.ifindex,
        name: facts.name.to_owned(),
        alias: facts.alias.to_owned(),
        tunnel,
        plain,
    }
}

/// A tunnel device, or what may stand in for one, and whether nothing of it is other than in ours.
fn tunnel(infos: &[LinkInfo]) -> (Option<IpTunnel>, bool) {
    let has = |kind: InfoKind| infos.contains(&LinkInfo::Kind(kind));
    if has(InfoKind::Veth) {
        return (Some(IpTunnel::StandIn { mtu: 0 }), true);
    }
    let any: IpAddr = if has(InfoKind::IpIp) {
        Ipv4Addr::UNSPECIFIED.into()
    } else if has(InfoKind::Ip6Tnl) {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        return (None, false);
    };
    let data = infos.iter().find_map(|info| {
        if let LinkInfo::Data(InfoData::IpTunnel(data)) = info { Some(data.as_slice()) } else { None }
    });
    let data = data.unwrap_or_default();
    let local =
        data.iter().find_map(|item| if let InfoIpTunnel::Local(ip) = item { Some(*ip) } else { None });
    let tunnel = IpTunnel::Kernel { local: local.unwrap_or(any), mtu: 0 };
    let limits_nesting = any.is_ipv6()
        && !data.iter().any(|item| {
            matches!(item, InfoIpTunnel::Ipv6Flags(flags) if flags.contains(Ip6TunnelFlags::IgnEncapLimit))
        });
    (Some(tunnel), !limits_nesting && !data.iter().any(|item| is_odd(item, any)))
}

/// Whether somebody has set what changes where packets go, or how they look, beyond what is different from kernel to kernel.
fn is_odd(item: &InfoIpTunnel, any: IpAddr) -> bool {
    if let InfoIpTunnel::Remote(remote) = item {
        *remote != any
    } else if let InfoIpTunnel::Link(ifindex) | InfoIpTunnel::FwMark(ifindex) = item {
        *ifindex != 0
    } else if let InfoIpTunnel::Tos(tos) = item {
        *tos != 0
    } else if let InfoIpTunnel::Protocol(protocol) = item {
        // 0 is any; `ipip` devices say 4.
        !matches!(u8::from(*protocol), 0 | 4)
    } else if let InfoIpTunnel::EncapType(kind) = item {
        u16::from(*kind) != 0
    } else {
        matches!(item, InfoIpTunnel::CollectMetadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: InfoKind, data: Vec<InfoIpTunnel>) -> [LinkInfo; 2] {
        [LinkInfo::Kind(kind), LinkInfo::Data(InfoData::IpTunnel(data))]
    }

    #[test]
    fn what_flannel_or_we_make_is_plain_and_nothing_else_is() {
        let local: IpAddr = Ipv4Addr::new(192, 0, 2, 11).into();
        let of = |more: &[InfoIpTunnel]| {
            let mut data = vec![
                InfoIpTunnel::Link(0),
                InfoIpTunnel::Local(local),
                InfoIpTunnel::Remote(Ipv4Addr::UNSPECIFIED.into()),
                InfoIpTunnel::Ttl(0),
                InfoIpTunnel::PMtuDisc(false),
                InfoIpTunnel::FwMark(0),
            ];
            data.extend_from_slice(more);
            tunnel(&info(InfoKind::IpIp, data))
        };
        let ours = Some(IpTunnel::Kernel { local, mtu: 0 });
        assert_eq!(of(&[]), (ours.clone(), true));
        // Flannel's newer versions may ask for that.
        assert_eq!(of(&[InfoIpTunnel::PMtuDisc(true)]), (ours.clone(), true));
        for odd in [
            InfoIpTunnel::Remote(Ipv4Addr::new(192, 0, 2, 12).into()),
            InfoIpTunnel::Link(3),
            InfoIpTunnel::Tos(1),
            InfoIpTunnel::FwMark(9),
            InfoIpTunnel::CollectMetadata,
        ] {
            assert_eq!(of(std::slice::from_ref(&odd)), (ours.clone(), false), "{odd:?}");
        }
        let limited = tunnel(&info(InfoKind::Ip6Tnl, vec![InfoIpTunnel::Ipv6Flags(Ip6TunnelFlags::empty())]));
        assert!(!limited.1, "peers' packets would have extension headers");
        let flags = Ip6TunnelFlags::IgnEncapLimit | Ip6TunnelFlags::CapXmit;
        assert!(tunnel(&info(InfoKind::Ip6Tnl, vec![InfoIpTunnel::Ipv6Flags(flags)])).1);
        assert_eq!(tunnel(&[LinkInfo::Kind(InfoKind::Vxlan)]), (None, false));
    }
}
