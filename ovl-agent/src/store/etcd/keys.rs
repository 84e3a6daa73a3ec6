//! The keys, and reading what is behind them.

use std::net::Ipv4Addr;

use etcd_client::KeyValue;

use crate::lease::{BadKey, Lease, LeaseKey};
use crate::store::{Listed, Rejected};

/// The keys of one network.
#[derive(Debug)]
pub(super) struct Keys {
    /// Starts with a slash, ends without one, and has none twice, as Go's `path.Join` leaves it.
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let parts = prefix.split('/').filter(|part| !part.is_empty());
        Self { prefix: parts.fold(String::new(), |joined, part| joined + "/" + part) }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn config(&self) -> String {
        format!("{}/config", self.prefix)
    }

    /// What every lease's key starts with.
    pub(super) fn subnets(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }

    pub(super) fn lease(&self, key: LeaseKey) -> String {
        format!("{}{key}", self.subnets())
    }

    /// Outside `subnets/`, where flannel never looks.
    pub(super) fn agent(&self, public_ip: Ipv4Addr) -> String {
        format!("{}/ovl/agents/{public_ip}", self.prefix)
    }

    /// The lease that a full key names.
    pub(super) fn lease_key(&self, name: &str) -> Result<LeaseKey, BadKey> {
        name.strip_prefix(&self.subnets()).unwrap_or(name).parse()
    }

    /// Reads an entry below [`Keys::subnets`].
    pub(super) fn read(&self, entry: &KeyValue) -> Result<Listed, Rejected> {
        let name = String::from_utf8_lossy(entry.key()).into_owned();
        let key = self.lease_key(&name);
        let rejected =
            |reason: String| Rejected { key: key.as_ref().ok().copied(), item: name.clone(), reason };
        let key = key.as_ref().map_err(|error| rejected(error.to_string()))?;
        let attrs = serde_json::from_slice(entry.value())
            .map_err(|error| rejected(format!("not a lease: {error}")))?;
        Ok(Listed { lease: Lease { key: *key, attrs }, revision: entry.mod_revision(), term: entry.lease() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_joined_as_flannel_joins_them() {
        for prefix in ["/coreos.com/network", "coreos.com/network", "//coreos.com//network/"] {
            let keys = Keys::new(prefix);
            assert_eq!(keys.config(), "/coreos.com/network/config");
            let key: LeaseKey = "10.77.18.0-25".parse().expect("valid");
            assert_eq!(keys.lease(key), "/coreos.com/network/subnets/10.77.18.0-25");
            assert_eq!(keys.lease_key(&keys.lease(key)), Ok(key));
        }
        assert_eq!(Keys::new("").config(), "/config");
    }
}
