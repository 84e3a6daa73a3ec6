//! VXLAN devices as the kernel describes them.

use std::mem::discriminant;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ovl_common::Mac;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkInfo, VxlanDf};

use crate::backend::VxlanDevice;

/// What else a device has that changes packets, entries or events, as it is in one that flannel or we make
/// (FLANNEL.md 5.1). An attribute that the kernel leaves out is as here.
const PLAIN: [InfoVxlan; 20] = [
    // Also that of `remote`: where frames for unknown MACs go.
    InfoVxlan::Group(Ipv4Addr::UNSPECIFIED),
    InfoVxlan::Group6(Ipv6Addr::UNSPECIFIED),
    InfoVxlan::Ttl(0),
    InfoVxlan::TtlInherit(0),
    InfoVxlan::Tos(0),
    InfoVxlan::Df(VxlanDf::Unset),
    InfoVxlan::Label(0),
    InfoVxlan::Limit(0),
    InfoVxlan::PortRange((0, 0)),
    InfoVxlan::Proxy(false),
    InfoVxlan::Rsc(false),
    InfoVxlan::L2Miss(false),
    InfoVxlan::L3Miss(false),
    InfoVxlan::CollectMetadata(false),
    InfoVxlan::Vnifilter(false),
    InfoVxlan::UDPCsum(true),
    InfoVxlan::UDPZeroCsumTX(false),
    InfoVxlan::RemCsumTX(false),
    InfoVxlan::RemCsumRX(false),
    InfoVxlan::McRoute(false),
];

/// A VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vxlan {
    /// What can be wanted of it, but for its MTU and MAC, which are no matter of VXLAN.
    pub(super) device: VxlanDevice,
    /// Whether the rest is as in every device that we make.
    pub(super) plain: bool,
}

impl Vxlan {
    /// Reads it from a link's details; `None` for a device of another kind.
    pub(super) fn of(infos: &[LinkInfo]) -> Option<Self> {
        if !infos.contains(&LinkInfo::Kind(InfoKind::Vxlan)) {
            return None;
        }
        let data = infos.iter().find_map(|info| {
            if let LinkInfo::Data(InfoData::Vxlan(data)) = info { Some(data.as_slice()) } else { None }
        });
        let data = data.unwrap_or_default();
        Some(Self { device: device(data), plain: data.iter().all(is_plain) })
    }
}

fn is_plain(item: &InfoVxlan) -> bool {
    let plain = PLAIN.iter().find(|plain| discriminant(*plain) == discriminant(item));
    *item != InfoVxlan::Gpe && plain.is_none_or(|plain| plain == item)
}

fn device(data: &[InfoVxlan]) -> VxlanDevice {
    let mut device = VxlanDevice {
        vni: 0,
        port: 0,
        local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        underlay: 0,
        mtu: 0,
        mac: Mac::default(),
        learning: false,
        gbp: false,
        zero_checksums: false,
    };
    for item in data {
        if let InfoVxlan::Id(vni) = item {
            device.vni = *vni;
        } else if let InfoVxlan::Port(port) = item {
            device.port = *port;
        } else if let InfoVxlan::Local(address) = item {
            device.local = IpAddr::V4(*address);
        } else if let InfoVxlan::Local6(address) = item {
            device.local = IpAddr::V6(*address);
        } else if *item == InfoVxlan::Gbp {
            device.gbp = true;
        } else if let InfoVxlan::UDPZeroCsumRX(takes) = item {
            device.zero_checksums = *takes;
        } else if let InfoVxlan::Learning(learning) = item {
            device.learning = *learning;
        } else if let InfoVxlan::Link(ifindex) = item {
            device.underlay = *ifindex;
        }
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(more: &[InfoVxlan]) -> Vxlan {
        let mut data = vec![
            InfoVxlan::Id(1),
            InfoVxlan::Link(2),
            InfoVxlan::Local(Ipv4Addr::new(192, 0, 2, 11)),
            InfoVxlan::Port(8472),
            InfoVxlan::Ageing(300),
            InfoVxlan::Localbypass(true),
        ];
        data.extend_from_slice(more);
        Vxlan::of(&[LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))])
            .expect("a VXLAN device")
    }

    #[test]
    fn what_flannel_or_we_make_is_plain_and_nothing_else_is() {
        let all = of(&PLAIN);
        assert!(of(&[]).plain && all.plain);
        assert_eq!((all.device.vni, all.device.underlay, all.device.port), (1, 2, 8472));
        let wanted = of(&[InfoVxlan::Learning(true), InfoVxlan::Gbp, InfoVxlan::UDPZeroCsumRX(true)]);
        assert!(wanted.plain && wanted.device.learning && wanted.device.gbp, "that can be wanted");
        assert!(wanted.device.zero_checksums, "and so can that");
        for other in [
            InfoVxlan::Group(Ipv4Addr::new(239, 1, 1, 1)),
            InfoVxlan::Group6(Ipv6Addr::LOCALHOST),
            InfoVxlan::Ttl(64),
            InfoVxlan::TtlInherit(1),
            InfoVxlan::Tos(1),
            InfoVxlan::Df(VxlanDf::Set),
            InfoVxlan::Label(1),
            InfoVxlan::Limit(10),
            InfoVxlan::PortRange((1000, 2000)),
            InfoVxlan::Proxy(true),
            InfoVxlan::Rsc(true),
            InfoVxlan::L2Miss(true),
            InfoVxlan::L3Miss(true),
            InfoVxlan::CollectMetadata(true),
            InfoVxlan::Vnifilter(true),
            InfoVxlan::UDPCsum(false),
            InfoVxlan::UDPZeroCsumTX(true),
            InfoVxlan::RemCsumTX(true),
            InfoVxlan::RemCsumRX(true),
            InfoVxlan::McRoute(true),
            InfoVxlan::Gpe,
        ] {
            assert!(!of(std::slice::from_ref(&other)).plain, "{other:?}");
        }
        assert_eq!(Vxlan::of(&[LinkInfo::Kind(InfoKind::Dummy)]), None);
    }
}
