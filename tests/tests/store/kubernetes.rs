//! Kubernetes as a store, against a double of its API server.

use std::fs;
use std::path::PathBuf;

use ovl_agent::lease::{LeaseAttrs, LeaseKey};
use ovl_agent::store::kubernetes::{KubernetesOptions, KubernetesStore, NodeName};
use ovl_tests::kube::ApiServer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::Fixture;

mod access;
mod leases;
mod scale;
mod tls;
mod watching;

crate::conformance!(Kubernetes);

/// The Node that the store under test is for.
const ME: &str = "node-1";

/// An API server, and a folder for the network config.
struct Kubernetes {
    server: ApiServer,
    folder: TempDir,
}

impl Kubernetes {
    fn config(&self) -> PathBuf {
        self.folder.path().join("net-conf.json")
    }

    fn options(&self) -> KubernetesOptions {
        KubernetesOptions {
            api_url: self.server.url(),
            kubeconfig: None,
            annotations: "flannel.alpha.coreos.com".parse().unwrap(),
            net_config_path: self.config(),
            sets_condition: true,
            node: NodeName::Known(ME.to_owned()),
        }
    }
}

impl Fixture for Kubernetes {
    type Store = KubernetesStore;

    fn start() -> Self {
        let server = ApiServer::local().unwrap();
        Self { server, folder: TempDir::new().unwrap() }
    }

    async fn open(&self) -> KubernetesStore {
        KubernetesStore::open(self.options()).await.unwrap()
    }

    fn put(&self, item: &str, value: &str) {
        match item.strip_prefix("subnets/") {
            Some(key) => self.server.put_node(&name_of(key), &node_of(key, value)),
            None => fs::write(self.config(), value).unwrap(),
        }
    }

    fn delete(&self, item: &str) {
        match item.strip_prefix("subnets/") {
            Some(key) => self.server.delete_node(&name_of(key)),
            None => fs::remove_file(self.config()).unwrap(),
        }
    }

    fn begin_outage(&mut self) {
        self.server.stop();
    }

    fn end_outage(&mut self) {
        self.server.start_again().unwrap();
    }

    fn address(&self) -> String {
        self.server.url()
    }
}

/// A Node of its own for every lease.
fn name_of(key: &str) -> String {
    key.replace(['&', ':'], "-")
}

/// The Node that says what a lease of that key and value would say elsewhere. What is no lease becomes a Node whose
/// podCIDR or address is no such thing.
fn node_of(key: &str, value: &str) -> Value {
    let subnets = match key.parse::<LeaseKey>() {
        Ok(key) => key.subnets().iter().map(|(_, subnet)| subnet.to_string()).collect(),
        Err(_) => vec![key.to_owned()],
    };
    let mut node = json!({ "metadata": { "name": name_of(key) }, "spec": { "podCIDRs": subnets } });
    let annotations = match serde_json::from_str::<LeaseAttrs>(value) {
        Ok(attrs) => json!({
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": attrs.backend_type,
            "flannel.alpha.coreos.com/backend-data": attrs.backend_data.map_or("null".into(), |data| data.text().to_owned()),
            "flannel.alpha.coreos.com/public-ip": attrs.public_ip.to_string(),
        }),
        Err(_) => json!({
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": value,
        }),
    };
    node["metadata"]["annotations"] = annotations;
    node
}
