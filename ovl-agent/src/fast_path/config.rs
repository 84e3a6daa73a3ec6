//! What the programs are told of the node, in one row.

use ipnet::IpNet;
use ovl_common::{ABI, Config, IpKey, Mac, Prefix, Range, Tunnel as TunnelRow};

use super::{Cluster, FastPath, Places};
use crate::cli;
use crate::conntrack::Timeouts;
use crate::family::Family;
use crate::node::Node;
use crate::sysctl;

impl FastPath {
    /// All but what a pulse says.
    pub(super) fn config(&self, node: &Node, cluster: &Cluster<'_>, places: &Places<'_>) -> Config {
        let (source_port_min, source_port_max) = sysctl::source_ports();
        // Strictly only where every lease is known to the programs: the others' pods would be strangers.
        let is_complete = self.lacking.is_none() && !cluster.nodes_unsure && !cluster.remotes_withheld;
        let source_check = match self.policy.source_check {
            cli::SourceCheck::Strict if !is_complete => ovl_common::SourceCheck::Loose,
            cli::SourceCheck::Off => ovl_common::SourceCheck::Off,
            cli::SourceCheck::Loose => ovl_common::SourceCheck::Loose,
            cli::SourceCheck::Strict => ovl_common::SourceCheck::Strict,
        };
        let tunnel = |family| tunnel_row(family, node, cluster, places);
        let local = |family| local_range(node.subnet(family));
        // Conntrack does not see what is on the fast path, and must not forget it for that.
        let verify_interval = Timeouts::read().verify_interval(self.policy.verify_interval);
        Config {
            abi: ABI,
            fast_path: 0,
            deadline: 0,
            epoch: 0,
            verified_for: u64::try_from(verify_interval.as_nanos()).unwrap_or(u64::MAX),
            mark: self.policy.mark,
            source_check: source_check as u32,
            underlay: node.underlay.ifindex,
            underlay_mtu: node.underlay.mtu,
            source_port_min,
            source_port_max,
            carry_tcp: 0,
            token: self.xdp.token(),
            xdp_after_gro: u8::from(self.xdp.comes_after_gro()),
            underlay_mac: places.underlay.map_or(Mac::default(), |interface| interface.mac),
            reserved: [0; 4],
            tunnel_v4: tunnel(Family::V4),
            tunnel_v6: tunnel(Family::V6),
            local_v4: local(Family::V4),
            local_v6: local(Family::V6),
        }
    }
}

fn tunnel_row(family: Family, node: &Node, cluster: &Cluster<'_>, places: &Places<'_>) -> TunnelRow {
    let (Some(tunnel), Some(address)) = (cluster.tunnels.get(family), node.underlay.addresses.get(family))
    else {
        return bytemuck::Zeroable::zeroed();
    };
    let device = places.overlay.get(family);
    TunnelRow {
        address: IpKey::from(*address),
        device: device.map_or(0, |device| device.ifindex),
        vni: tunnel.vni,
        mtu: tunnel.mtu,
        mac: if tunnel.stand_in { device.map_or(tunnel.mac, |device| device.mac) } else { tunnel.mac },
        port: tunnel.port.to_be_bytes(),
        encapsulation: tunnel.encapsulation as u8,
        hop_limit: sysctl::hop_limit(family, &node.underlay.name),
        // Before there is the device packets would be handed to nobody.
        stand_in: u8::from(tunnel.stand_in && device.is_some()),
        reserved: [0; 1],
    }
}

fn local_range(subnet: Option<IpNet>) -> Range {
    subnet.map_or(Range::NONE, |subnet| {
        let prefix = Prefix::new(subnet.addr(), subnet.prefix_len());
        Range::new(prefix.address, prefix.bits)
    })
}
