//! Flannel's CNI plugin, which no registry has as a program: what it hands on to `bridge`, and what it remembers
//! (FLANNEL.md section 6.2; `flannel_linux.go` of its version 1.9).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::subnet::SubnetEnv;

/// A node's plugin, with its `dataDir`.
#[derive(Debug, Default)]
pub(super) struct Flannel(Mutex<BTreeMap<String, Value>>);

impl Flannel {
    /// The configuration that it calls another plugin with; `None` where it calls none, since it knows nothing of this
    /// container.
    pub(super) fn delegate(&self, command: &str, container: &str, config: &Value) -> Result<Option<Value>> {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if command == "DEL" {
            return Ok(remembered.remove(container));
        }
        let file = config["subnetFile"].as_str().unwrap_or("/run/flannel/subnet.env");
        let env = SubnetEnv::read(Path::new(file))?;
        let mut delegate = config["delegate"].clone();
        let members = delegate.as_object_mut().context("the delegate is no object")?;
        let mut set = |name: &str, value: Value| {
            members.entry(name).or_insert(value);
        };
        set("name", config["name"].clone());
        set("cniVersion", config["cniVersion"].clone());
        set("type", "bridge".into());
        set("ipMasq", (!env.ip_masq).into());
        set("mtu", env.mtu.into());
        set("isGateway", true.into());
        let ranges: Vec<_> = env.subnets.iter().map(|subnet| json!([{ "subnet": subnet.cidr() }])).collect();
        let routes: Vec<_> = env.subnets.iter().map(|subnet| json!({ "dst": subnet.network })).collect();
        set("ipam", json!({ "type": "host-local", "ranges": ranges, "routes": routes }));
        remembered.insert(container.to_owned(), delegate.clone());
        Ok(Some(delegate))
    }
}
