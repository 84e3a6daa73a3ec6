//! Flannel's key schema (FLANNEL.md 3.1), and one key of ours beside it.

use std::net::IpAddr;

use etcd_client::KeyValue;

use crate::lease::{Lease, LeaseKey};
use crate::store::{Listed, Rejected};

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// Cleans the prefix as Go's `path.Join`, which flannel uses, does.
    pub(super) fn new(prefix: &str) -> Self {
        let mut parts = Vec::new();
        for part in prefix.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                _ => parts.push(part),
            }
        }
        let root = if prefix.starts_with('/') { "/" } else { "" };
        Self { prefix: format!("{root}{}", parts.join("/")) }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The network config.
    pub(super) fn config(&self) -> String {
        self.join("config")
    }

    /// What all leases begin with.
    pub(super) fn subnets(&self) -> String {
        self.join("subnets/")
    }

    pub(super) fn lease(&self, key: LeaseKey) -> String {
        self.join(&format!("subnets/{key}"))
    }

    /// Who uses a public IP. Outside `subnets/`, where flannel would take it for a broken lease.
    pub(super) fn agent(&self, public_ip: IpAddr) -> String {
        self.join(&format!("ovl/agents/{public_ip}"))
    }

    fn join(&self, name: &str) -> String {
        let slash = if self.prefix.is_empty() || self.prefix.ends_with('/') { "" } else { "/" };
        format!("{}{slash}{name}", self.prefix)
    }

    /// Reads a key below [`Keys::subnets`].
    pub(super) fn parse(&self, key: &[u8]) -> Result<LeaseKey, Rejected> {
        let item = String::from_utf8_lossy(key);
        let subnets = self.subnets();
        let name = item.strip_prefix(&subnets).unwrap_or(&item);
        name.parse::<LeaseKey>().map_err(|error| Rejected {
            key: None,
            item: item.clone().into_owned(),
            reason: error.to_string(),
            revision: 0,
            term: 0,
        })
    }

    /// Reads a lease.
    pub(super) fn read(&self, pair: &KeyValue) -> Result<Listed, Rejected> {
        let key = self.parse(pair.key())?;
        let attrs = serde_json::from_slice(pair.value()).map_err(|error| Rejected {
            key: Some(key),
            item: self.lease(key),
            reason: format!("not a lease: {error}"),
            revision: pair.mod_revision(),
            term: pair.lease(),
        })?;
        Ok(Listed { lease: Lease { key, attrs }, revision: pair.mod_revision(), term: pair.lease() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_cleaned_as_flannel_does() {
        let table = [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/coreos.com/network/", "/coreos.com/network/config"),
            ("//coreos.com///network//", "/coreos.com/network/config"),
            ("coreos.com/./a/../network", "coreos.com/network/config"),
            ("/", "/config"),
            ("", "config"),
        ];
        for (prefix, config) in table {
            assert_eq!(Keys::new(prefix).config(), config, "{prefix}");
        }
    }

    #[test]
    fn keys_are_read_and_written_as_flannel_does() {
        let keys = Keys::new("/coreos.com/network");
        let key: LeaseKey = "10.77.18.0-25&fd77:0:0:5::-64".parse().expect("valid");
        assert_eq!(keys.lease(key), "/coreos.com/network/subnets/10.77.18.0-25&fd77:0:0:5::-64");
        assert_eq!(keys.parse(keys.lease(key).as_bytes()), Ok(key));
        for name in ["", "x", "10.77.18.0-25/x", "10.77.18.1-24"] {
            let item = format!("{}{name}", keys.subnets());
            let rejected = keys.parse(item.as_bytes()).expect_err(name);
            assert_eq!((rejected.key, rejected.item), (None, item), "{name}");
        }
    }
}
