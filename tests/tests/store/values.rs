//! Values that the cases share.

use std::net::Ipv4Addr;

use ovl_agent::lease::{LeaseAttrs, LeaseKey};
use ovl_agent::network::Network;
use ovl_agent::store::{Listed, Registry};

pub(crate) const ME: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

pub(crate) fn key(text: &str) -> LeaseKey {
    text.parse().unwrap()
}

pub(crate) fn attrs(public_ip: Ipv4Addr) -> LeaseAttrs {
    serde_json::from_str(&value(public_ip)).unwrap()
}

/// As flannel writes it. Each node has a MAC of its own.
pub(crate) fn value(public_ip: Ipv4Addr) -> String {
    let [.., last] = public_ip.octets();
    format!(
        r#"{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"d2:41:0a:9c:55:{last:02x}"}}}}"#
    )
}

/// 10.42.0.0/16 with `count` subnets to give out, from 10.42.1.0/24 on.
pub(crate) fn network(count: u8) -> Network {
    let text = format!(
        r#"{{"Network":"10.42.0.0/16","SubnetMin":"10.42.1.0","SubnetMax":"10.42.{count}.0","Backend":{{"Type":"vxlan"}}}}"#
    );
    Network::parse(&text).unwrap()
}

/// The same with as many subnets of IPv6, from fd42:0:0:1::/64 on.
pub(crate) fn dual_network(count: u8) -> Network {
    let text = format!(
        r#"{{"Network":"10.42.0.0/16","SubnetMin":"10.42.1.0","SubnetMax":"10.42.{count}.0","EnableIPv6":true,"IPv6Network":"fd42::/48","IPv6SubnetMin":"fd42:0:0:1::","IPv6SubnetMax":"fd42:0:0:{count:x}::","Backend":{{"Type":"vxlan"}}}}"#
    );
    Network::parse(&text).unwrap()
}

/// The lease of that key, which must be there.
pub(crate) async fn listed(store: &impl Registry, name: &str) -> Listed {
    let (leases, _) = store.list().await.unwrap();
    let found = leases.iter().find(|listed| listed.lease.key == key(name));
    found.unwrap_or_else(|| panic!("{name} is not in {leases:?}")).clone()
}

/// All keys, sorted.
pub(crate) async fn names(store: &impl Registry) -> Vec<String> {
    let (leases, _) = store.list().await.unwrap();
    leases.iter().map(|listed| listed.lease.key.to_string()).collect()
}
