//! The overlay devices by name and index.

use anyhow::{Context as _, Result};
use rtnetlink::Handle;

use super::index_of;
use crate::family::{ByFamily, Family};

/// The overlay devices, by the family of their outer packets. Indexes are as of the last look, which is once per listing: a device that was
/// replaced since makes the next write fail, and the next pass look again.
#[derive(Debug)]
pub(super) struct Devices {
    names: ByFamily<String>,
    indexes: ByFamily<u32>,
}

impl Devices {
    pub(super) fn new(names: ByFamily<String>) -> Self {
        Self { names, indexes: ByFamily::default() }
    }

    /// Looks the indexes up.
    pub(super) async fn look_up(&mut self, handle: &Handle) -> Result<()> {
        self.indexes = ByFamily::default();
        for (family, name) in self.names.iter() {
            self.indexes.set(family, index_of(handle, name).await?);
        }
        Ok(())
    }

    /// The device's index, where there is one.
    pub(super) fn index(&self, family: Family) -> Option<u32> {
        self.indexes.get(family).copied()
    }

    /// Which device has this index.
    pub(super) fn with_index(&self, ifindex: u32) -> Option<Family> {
        self.indexes.iter().find(|(_, index)| **index == ifindex).map(|(family, _)| family)
    }

    /// Its name, for a person.
    pub(super) fn name(&self, family: Family) -> &str {
        self.names.get(family).map_or("the overlay device", String::as_str)
    }

    /// The device's index, for what cannot be written without.
    pub(super) fn require(&self, family: Family) -> Result<u32> {
        self.index(family).with_context(|| format!("there is no device {}", self.name(family)))
    }
}
