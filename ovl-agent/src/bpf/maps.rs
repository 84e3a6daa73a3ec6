//! The maps as tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError};
use ovl_common::{Config, Endpoint, FastPath, IpKey, Mac, Port, Prefix, Remote};

use crate::table::Table;

/// A type of the contract between agent and programs, as aya wants to have it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Abi<T>(pub T);

// SAFETY: `bytemuck::Pod` proves that there is no padding and that any bit pattern is valid.
unsafe impl<T: bytemuck::Pod> aya::Pod for Abi<T> {}

/// Subnet → peer.
pub struct RemoteTable<'a>(pub &'a mut LpmTrie<MapData, Abi<IpKey>, Abi<Remote>>);

impl Table for RemoteTable<'_> {
    type Key = Prefix;
    type Row = Remote;

    fn name(&self) -> &'static str {
        "BPF lease"
    }

    fn label(prefix: &Prefix) -> String {
        prefix.to_string()
    }

    async fn rows(&mut self) -> Result<BTreeMap<Prefix, Remote>> {
        let rows = self.0.iter().map(|row| {
            let (key, Abi(remote)) = row.context("cannot read the BPF lease map")?;
            Ok((Prefix { bits: key.prefix_len(), address: key.data().0 }, remote))
        });
        rows.collect()
    }

    async fn put(&mut self, prefix: &Prefix, remote: &Remote) -> Result<()> {
        let key = Key::new(prefix.bits, Abi(prefix.address));
        self.0
            .insert(&key, Abi(*remote), 0)
            .with_context(|| format!("cannot write the BPF lease of {prefix:?}"))
    }

    async fn delete(&mut self, prefix: &Prefix) -> Result<()> {
        let key = Key::new(prefix.bits, Abi(prefix.address));
        absent_is_success(self.0.remove(&key))
            .with_context(|| format!("cannot remove the BPF lease of {prefix:?}"))
    }
}

/// Nodes' addresses.
pub struct NodeTable<'a>(pub &'a mut HashMap<MapData, Abi<IpKey>, u32>);

impl Table for NodeTable<'_> {
    type Key = IpKey;
    type Row = ();

    fn name(&self) -> &'static str {
        "BPF node"
    }

    fn label(node: &IpKey) -> String {
        IpAddr::from(*node).to_string()
    }

    async fn rows(&mut self) -> Result<BTreeMap<IpKey, ()>> {
        let rows = self.0.keys().map(|key| {
            let Abi(address) = key.context("cannot read the BPF node map")?;
            Ok((address, ()))
        });
        rows.collect()
    }

    async fn put(&mut self, address: &IpKey, (): &()) -> Result<()> {
        self.0
            .insert(Abi(*address), 1, 0)
            .with_context(|| format!("cannot write node {} to its BPF map", IpAddr::from(*address)))
    }

    async fn delete(&mut self, address: &IpKey) -> Result<()> {
        absent_is_success(self.0.remove(&Abi(*address)))
            .with_context(|| format!("cannot remove node {} from its BPF map", IpAddr::from(*address)))
    }
}

/// Pod port → gateway.
pub struct PortTable<'a>(pub &'a mut HashMap<MapData, u32, Abi<Port>>);

impl Table for PortTable<'_> {
    type Key = u32;
    type Row = Port;

    fn name(&self) -> &'static str {
        "BPF port"
    }

    fn label(ifindex: &u32) -> String {
        format!("of interface {ifindex}")
    }

    async fn rows(&mut self) -> Result<BTreeMap<u32, Port>> {
        let rows = self.0.iter().map(|row| {
            let (ifindex, Abi(port)) = row.context("cannot read the BPF port map")?;
            Ok((ifindex, port))
        });
        rows.collect()
    }

    async fn put(&mut self, ifindex: &u32, port: &Port) -> Result<()> {
        self.0.insert(ifindex, Abi(*port), 0).with_context(|| format!("cannot write the BPF port {ifindex}"))
    }

    async fn delete(&mut self, ifindex: &u32) -> Result<()> {
        absent_is_success(self.0.remove(ifindex))
            .with_context(|| format!("cannot remove the BPF port {ifindex}"))
    }
}

/// The node's configuration: one row. What changes all the time is not compared.
pub struct StateTable<'a> {
    /// The map.
    pub map: &'a mut Array<MapData, Abi<Config>>,
    /// What changes all the time.
    pub pulse: Pulse,
}

/// The fields of the configuration that the loop moves on.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// [`Config::deadline`].
    pub deadline: u64,
    /// [`Config::epoch`].
    pub epoch: u64,
    /// [`Config::carry_tcp`].
    pub carry_tcp: bool,
    /// [`Config::fast_path`].
    pub fast_path: FastPath,
}

impl Table for StateTable<'_> {
    type Key = ();
    type Row = Config;

    fn name(&self) -> &'static str {
        "BPF configuration"
    }

    fn label((): &()) -> String {
        String::new()
    }

    async fn rows(&mut self) -> Result<BTreeMap<(), Config>> {
        let config = self.read()?;
        Ok(BTreeMap::from([((), Config { deadline: 0, epoch: 0, carry_tcp: 0, fast_path: 0, ..config })]))
    }

    async fn put(&mut self, (): &(), config: &Config) -> Result<()> {
        self.write(*config)
    }

    async fn delete(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}

impl StateTable<'_> {
    /// Writes what changes all the time; everything else stays.
    pub fn beat(&mut self) -> Result<()> {
        let config = self.read()?;
        self.write(config)
    }

    fn read(&self) -> Result<Config> {
        let Abi(config) = self.map.get(&0, 0).context("cannot read the BPF configuration")?;
        Ok(config)
    }

    fn write(&mut self, config: Config) -> Result<()> {
        let Pulse { deadline, epoch, carry_tcp, fast_path } = self.pulse;
        let config =
            Config { deadline, epoch, carry_tcp: u8::from(carry_tcp), fast_path: fast_path as u32, ..config };
        self.map.set(0, Abi(config), 0).context("cannot write the BPF configuration")
    }
}

/// The node's configuration in the map that is pinned at `path`.
pub fn pinned_config(path: &Path) -> Result<Config> {
    let context = || format!("cannot open {}", path.display());
    let map = MapData::from_pin(path).with_context(context)?;
    let map: Array<MapData, Abi<Config>> = Map::Array(map).try_into().with_context(context)?;
    let Abi(config) = map.get(&0, 0).context("cannot read the BPF configuration")?;
    Ok(config)
}

/// Forgets what the programs learned on interfaces that are no pod ports any more, and returns how much that was.
pub fn prune_learned(
    endpoints: &mut HashMap<MapData, Abi<IpKey>, Abi<Endpoint>>,
    pod_macs: &mut HashMap<MapData, u32, Abi<Mac>>,
    ports: &BTreeSet<u32>,
) -> Result<u64> {
    let mut pruned = 0;
    let stale: Vec<IpKey> = endpoints
        .iter()
        .filter_map(Result::ok)
        .filter(|(_, Abi(endpoint))| !ports.contains(&endpoint.ifindex))
        .map(|(Abi(address), _)| address)
        .collect();
    for address in stale {
        absent_is_success(endpoints.remove(&Abi(address))).context("cannot forget a BPF endpoint")?;
        pruned += 1;
    }
    let stale: Vec<u32> =
        pod_macs.keys().filter_map(Result::ok).filter(|ifindex| !ports.contains(ifindex)).collect();
    for ifindex in stale {
        absent_is_success(pod_macs.remove(&ifindex)).context("cannot forget a BPF pod MAC")?;
    }
    Ok(pruned)
}

pub(super) fn absent_is_success(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => {
            Ok(())
        }
        other => other,
    }
}
