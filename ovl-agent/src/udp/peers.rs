//! Where packets go and whom they may come from: what the workers look at, written by the passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Result;
use ipnet::IpNet;

use super::reason::Reason;
use crate::cli::SourceCheck;
use crate::family::{ByFamily, Family};
use crate::table::Table;

/// What is known of the overlay at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Overlay {
    peers: Subnets,
    /// The addresses of all other nodes.
    pub(crate) nodes: BTreeSet<IpAddr>,
    /// This node's own subnets.
    pub(crate) own: ByFamily<IpNet>,
    /// What packets are dropped for where they come from.
    pub(crate) check: SourceCheck,
}

impl Overlay {
    /// The node that has `destination`.
    pub(crate) fn node_of(&self, destination: IpAddr) -> Option<IpAddr> {
        self.peers.find(destination)
    }

    /// The address that this node speaks with in the overlay.
    pub(crate) fn own_address(&self, family: Family) -> Option<IpAddr> {
        self.own.get(family).map(IpNet::addr)
    }

    /// Whether a packet from `source` may come from `node`.
    pub(crate) fn check_source(&self, node: IpAddr, source: IpAddr) -> Result<(), Reason> {
        if self.check == SourceCheck::Off {
            return Ok(());
        }
        if !self.nodes.contains(&node) {
            return Err(Reason::UnknownNode);
        }
        let is_ours = self.own.get(Family::of(source)).is_some_and(|own| own.contains(&source));
        match self.peers.find(source) {
            Some(owner) if owner == node => Ok(()),
            Some(_) => Err(Reason::WrongNode),
            None if is_ours => Err(Reason::WrongNode),
            None if self.check == SourceCheck::Strict => Err(Reason::ForeignSource),
            None => Ok(()),
        }
    }
}

/// Subnets and who has them, asked by address: the longest that has it wins.
#[derive(Clone, Debug, Default)]
struct Subnets {
    /// By length, the longest first; each sorted by base address. IPv4 stands among IPv6 as mapped (RFC 4291 section
    /// 2.5.5.2).
    by_length: Vec<(u8, Vec<(u128, IpAddr)>)>,
}

impl Subnets {
    fn new(rows: &BTreeMap<IpNet, IpAddr>) -> Self {
        let mut by_length: BTreeMap<u8, BTreeMap<u128, IpAddr>> = BTreeMap::new();
        for (net, node) in rows {
            let length = 128 - (net.max_prefix_len() - net.prefix_len());
            by_length.entry(length).or_default().insert(bits(net.network()), *node);
        }
        let longest_first = by_length.into_iter().rev();
        Self { by_length: longest_first.map(|(length, rows)| (length, rows.into_iter().collect())).collect() }
    }

    fn find(&self, address: IpAddr) -> Option<IpAddr> {
        let address = bits(address);
        self.by_length.iter().find_map(|(length, rows)| {
            let host = 128 - u32::from(*length);
            let base = address.checked_shr(host).unwrap_or(0).checked_shl(host).unwrap_or(0);
            let found = rows.binary_search_by_key(&base, |(base, _)| *base).ok()?;
            rows.get(found).map(|(_, node)| *node)
        })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// What the workers see. They take it once for many packets, and writers never wait for them.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<RwLock<Arc<Overlay>>>);

impl Shared {
    /// An overlay without peers.
    pub(crate) fn new(check: SourceCheck) -> Self {
        let (nodes, own) = (BTreeSet::new(), ByFamily::default());
        Self(Arc::new(RwLock::new(Arc::new(Overlay { peers: Subnets::default(), nodes, own, check }))))
    }

    /// The overlay as it is now.
    pub(crate) fn now(&self) -> Arc<Overlay> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes something about it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Overlay)) {
        let mut overlay = Overlay::clone(&self.now());
        change(&mut overlay);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(overlay);
    }
}

/// The peers' subnets and the nodes that packets for them are sent to.
#[derive(Debug)]
pub(crate) struct PeerTable {
    rows: BTreeMap<IpNet, IpAddr>,
    shared: Shared,
}

impl PeerTable {
    /// An empty one, which is what the workers see from now on.
    pub(crate) fn new(shared: Shared) -> Self {
        Self { rows: BTreeMap::new(), shared }
    }

    fn publish(&self) {
        let peers = Subnets::new(&self.rows);
        self.shared.change(|overlay| overlay.peers = peers);
    }
}

impl Table for PeerTable {
    type Key = IpNet;
    type Row = IpAddr;

    fn name(&self) -> &'static str {
        "udp peer"
    }

    fn label(subnet: &IpNet) -> String {
        subnet.to_string()
    }

    async fn rows(&mut self) -> Result<BTreeMap<IpNet, IpAddr>> {
        Ok(self.rows.clone())
    }

    async fn put(&mut self, subnet: &IpNet, node: &IpAddr) -> Result<()> {
        self.rows.insert(*subnet, *node);
        self.publish();
        Ok(())
    }

    async fn put_all(&mut self, rows: &[(IpNet, IpAddr)]) -> Vec<Result<()>> {
        if !rows.is_empty() {
            self.rows.extend(rows.iter().copied());
            self.publish();
        }
        rows.iter().map(|_| Ok(())).collect()
    }

    async fn delete(&mut self, subnet: &IpNet) -> Result<()> {
        self.rows.remove(subnet);
        self.publish();
        Ok(())
    }

    async fn delete_all(&mut self, subnets: &[IpNet]) -> Vec<Result<()>> {
        if !subnets.is_empty() {
            for subnet in subnets {
                self.rows.remove(subnet);
            }
            self.publish();
        }
        subnets.iter().map(|_| Ok(())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    const PEERS: [(&str, &str); 4] = [
        ("10.42.7.0/24", "192.0.2.12"),
        ("10.42.7.128/25", "192.0.2.13"),
        ("10.42.9.0/24", "192.0.2.14"),
        ("fd42:0:0:7::/64", "2001:db8::12"),
    ];

    fn table() -> PeerTable {
        PeerTable::new(Shared::new(SourceCheck::Loose))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_longest_subnet_that_has_an_address_wins() {
        let mut peers = table();
        let rows: Vec<_> = PEERS.iter().map(|(subnet, node)| (net(subnet), ip(node))).collect();
        assert!(peers.put_all(&rows).await.iter().all(Result::is_ok));
        let expect = |address: &str, node: Option<&str>| {
            assert_eq!(peers.shared.now().node_of(ip(address)), node.map(ip), "{address}");
        };
        expect("10.42.7.1", Some("192.0.2.12"));
        expect("10.42.7.127", Some("192.0.2.12"));
        expect("10.42.7.128", Some("192.0.2.13"));
        expect("10.42.9.255", Some("192.0.2.14"));
        expect("10.42.8.1", None);
        expect("10.42.10.0", None);
        expect("255.255.255.255", None);
        expect("fd42:0:0:7::1", Some("2001:db8::12"));
        expect("fd42:0:0:8::1", None);
        expect("::", None);
        peers.delete_all(&[net("10.42.7.128/25")]).await;
        assert_eq!(peers.shared.now().node_of(ip("10.42.7.128")), Some(ip("192.0.2.12")));
        assert_eq!(peers.rows().await.expect("in memory").len(), 3);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn sources_are_checked_as_asked() {
        use Reason::{ForeignSource, UnknownNode, WrongNode};
        let mut peers = table();
        peers.put(&net("10.42.7.0/24"), &ip("192.0.2.12")).await.expect("in memory");
        peers.put(&net("10.42.9.0/24"), &ip("192.0.2.14")).await.expect("in memory");
        peers.shared.change(|overlay| {
            overlay.nodes = [ip("192.0.2.12"), ip("192.0.2.14")].into();
            overlay.own.v4 = Some(net("10.42.3.0/24"));
        });
        // Off, loose, strict.
        let table = [
            ("192.0.2.12", "10.42.7.2", [Ok(()), Ok(()), Ok(())]),
            ("192.0.2.12", "10.42.9.2", [Ok(()), Err(WrongNode), Err(WrongNode)]),
            ("192.0.2.12", "10.42.3.2", [Ok(()), Err(WrongNode), Err(WrongNode)]),
            ("192.0.2.12", "203.0.113.7", [Ok(()), Ok(()), Err(ForeignSource)]),
            ("192.0.2.99", "10.42.7.2", [Ok(()), Err(UnknownNode), Err(UnknownNode)]),
            ("192.0.2.99", "203.0.113.7", [Ok(()), Err(UnknownNode), Err(UnknownNode)]),
        ];
        for (node, source, expected) in table {
            let checks = [SourceCheck::Off, SourceCheck::Loose, SourceCheck::Strict];
            for (check, expected) in checks.into_iter().zip(expected) {
                peers.shared.change(|overlay| overlay.check = check);
                let found = peers.shared.now().check_source(ip(node), ip(source));
                assert_eq!(found, expected, "{check:?}: {source} from {node}");
            }
        }
    }
}
