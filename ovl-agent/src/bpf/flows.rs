//! The flows that the programs know, read while they change.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use ovl_common::{FLOWS, Flow, FlowKey};

use super::maps::{Abi, absent_is_success};

/// The map of flows with a descriptor of its own, for a thread beside the loop: reading a full one takes a second.
pub struct FlowMap(HashMap<MapData, Abi<FlowKey>, Abi<Flow>>);

impl FlowMap {
    /// Another descriptor of the map in `programs`.
    pub(super) fn descriptor(programs: &Ebpf) -> Result<OwnedFd> {
        let Some(Map::LruHashMap(map)) = programs.map(FLOWS.name) else {
            anyhow::bail!("the BPF object has no map {} of its kind", FLOWS.name)
        };
        map.fd().as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")
    }

    /// The map behind a descriptor.
    pub(crate) fn behind(descriptor: &OwnedFd) -> Result<Self> {
        let own = descriptor.try_clone().context("cannot duplicate a descriptor")?;
        Self::open(MapData::from_fd(own))
    }

    /// The map that is pinned at `path`.
    pub fn pinned(path: &Path) -> Result<Self> {
        Self::open(MapData::from_pin(path)).with_context(|| format!("cannot open {}", path.display()))
    }

    fn open(map: Result<MapData, MapError>) -> Result<Self> {
        let map = map.context("cannot open the BPF flow map")?;
        let map =
            HashMap::try_from(Map::LruHashMap(map)).context("the BPF flow map is not what it should be")?;
        Ok(Self(map))
    }

    /// Every flow; one that comes or goes meanwhile may or may not be there.
    pub fn rows(&self) -> impl Iterator<Item = (FlowKey, Flow)> {
        let rows = self.0.iter().filter_map(Result::ok).map(|(Abi(key), Abi(flow))| (key, flow));
        // Of a connection that ended.
        rows.filter(|(_, flow)| flow.closed == 0)
    }

    /// Removes the flows that are `dead`, and returns how many. One that is alive all the same asks netfilter again.
    pub fn forget(&mut self, dead: impl Fn(&FlowKey) -> bool) -> Result<usize> {
        let keys = self.0.keys().filter_map(Result::ok).map(|Abi(key)| key);
        let dead: Vec<FlowKey> = keys.filter(dead).collect();
        for key in &dead {
            absent_is_success(self.0.remove(&Abi(*key)))
                .context("cannot remove a row of the BPF flow map")?;
        }
        Ok(dead.len())
    }
}
