//! The flows that the programs know, read while they change.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use ovl_common::{FLOWS, Flow, FlowKey};

use super::batch::Reader;
use super::maps::{Abi, absent_is_success};

/// The map of flows with a descriptor of its own, for a thread beside the loop: reading a full one takes a while.
pub struct FlowMap {
    rows: HashMap<MapData, Abi<FlowKey>, Abi<Flow>>,
    reader: Reader<FlowKey, Flow>,
}

impl FlowMap {
    /// Another descriptor of the map in `programs`.
    pub(super) fn descriptor(programs: &Ebpf) -> Result<OwnedFd> {
        let Some(Map::LruHashMap(map)) = programs.map(FLOWS.name) else {
            anyhow::bail!("the BPF object has no map {} of its kind", FLOWS.name)
        };
        map.fd().as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")
    }

    /// The map behind a descriptor.
    pub fn behind(descriptor: &OwnedFd) -> Result<Self> {
        let own = descriptor.try_clone().context("cannot duplicate a descriptor")?;
        Self::open(MapData::from_fd(own))
    }

    /// The map that is pinned at `path`.
    pub fn pinned(path: &Path) -> Result<Self> {
        Self::open(MapData::from_pin(path)).with_context(|| format!("cannot open {}", path.display()))
    }

    fn open(map: Result<MapData, MapError>) -> Result<Self> {
        let map = map.context("cannot open the BPF flow map")?;
        let reader = Reader::of(&map)?;
        let rows =
            HashMap::try_from(Map::LruHashMap(map)).context("the BPF flow map is not what it should be")?;
        Ok(Self { rows, reader })
    }

    /// Every flow once; one that comes or goes meanwhile may or may not be there.
    pub fn rows(&self) -> impl Iterator<Item = Result<(FlowKey, Flow)>> {
        self.all()
            // Of a connection that ended.
            .filter(|row| row.as_ref().map_or(true, |(_, flow)| flow.closed == 0))
    }

    fn all(&self) -> impl Iterator<Item = Result<(FlowKey, Flow)>> {
        self.reader.rows().map(|row| row.context("cannot read the BPF flow map"))
    }

    /// Removes the flows that are `dead`, and returns how many. One that is alive all the same asks netfilter again.
    pub fn forget(&mut self, dead: impl Fn(&FlowKey) -> bool) -> Result<usize> {
        let dead = self.all().filter_map(|row| match row {
            Ok((key, _)) => dead(&key).then_some(Ok(key)),
            Err(error) => Some(Err(error)),
        });
        let dead = dead.collect::<Result<Vec<FlowKey>>>()?;
        for key in &dead {
            absent_is_success(self.rows.remove(&Abi(*key)))
                .context("cannot remove a row of the BPF flow map")?;
        }
        Ok(dead.len())
    }
}
