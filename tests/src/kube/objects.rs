//! What an API server keeps: Nodes with versions, their history, and lists that were begun.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

/// A Node as kubelet makes it, of a real one's size: most of it is of no concern to an agent.
pub fn node(name: &str, pod_cidrs: &[&str]) -> Value {
    let image = |number: usize| {
        json!({
            "names": [format!("registry.example/library/image-{number}@sha256:{number:064x}")],
            "sizeBytes": 123_456_789,
        })
    };
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" },
            "annotations": { "volumes.kubernetes.io/controller-managed-attach-detach": "true" },
        },
        "spec": { "podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
            "images": (0..50).map(image).collect::<Vec<_>>(),
        },
    })
}

/// An event of a watch.
#[derive(Clone)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

#[derive(Default)]
pub(super) struct Objects {
    nodes: BTreeMap<String, Value>,
    /// The nodes that pods are on.
    pub(super) pods: BTreeMap<String, Option<String>>,
    pub(super) version: u64,
    /// All events since `forgotten`.
    pub(super) history: Vec<Event>,
    pub(super) forgotten: u64,
    /// Lists that were begun, by their versions.
    lists: BTreeMap<u64, Arc<Vec<Value>>>,
    /// Whether the next page of a list but the first is forgotten.
    pub(super) forgets_next_page: bool,
    /// How many watches are open.
    pub(super) watches: usize,
}

/// A page of a list.
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) items: Vec<Value>,
    /// The token of the next one; empty on the last.
    pub(super) next: String,
}

impl Objects {
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.nodes.get(name).cloned()
    }

    pub(super) fn put(&mut self, name: &str, mut node: Value) {
        self.version += 1;
        node["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let kind = if self.nodes.contains_key(name) { "MODIFIED" } else { "ADDED" };
        self.nodes.insert(name.to_owned(), node.clone());
        self.history.push(Event { version: self.version, kind, object: node });
    }

    pub(super) fn delete(&mut self, name: &str) {
        if let Some(mut object) = self.nodes.remove(name) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.history.push(Event { version: self.version, kind: "DELETED", object });
        }
    }

    /// A strategic merge of annotations and conditions: the only parts that an agent may change. A patch that changes
    /// nothing makes no new version.
    pub(super) fn patch(&mut self, name: &str, patch: &Value) {
        let Some(mut node) = self.nodes.get(name).cloned() else { return };
        if let Some(annotations) = patch["metadata"]["annotations"].as_object() {
            merge(&mut node["metadata"]["annotations"], annotations);
        }
        for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
            merge_condition(&mut node["status"], condition);
        }
        if self.nodes.get(name) != Some(&node) {
            self.put(name, node);
        }
    }

    /// A page of at most `limit` nodes (0 is all), the first or the one that `token` stands for; `None` where that is
    /// forgotten. All pages are of one version.
    pub(super) fn page(&mut self, limit: usize, token: &str, only: Option<&str>) -> Option<Page> {
        let (version, start) = match token.split_once('+') {
            Some((version, start)) => (version.parse().ok()?, start.parse().ok()?),
            None => (self.version, 0),
        };
        if start > 0 && std::mem::take(&mut self.forgets_next_page) {
            self.lists.clear();
        }
        let list = if start == 0 {
            let wanted = self.nodes.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
            Arc::new(wanted.map(|(_, node)| node.clone()).collect::<Vec<_>>())
        } else {
            Arc::clone(self.lists.get(&version)?)
        };
        let end = if limit == 0 { list.len() } else { list.len().min(start + limit) };
        let items = list.get(start..end)?.to_vec();
        let next = if end < list.len() { format!("{version}+{end}") } else { String::new() };
        self.lists.insert(version, list);
        Some(Page { version, items, next })
    }

    pub(super) fn forget(&mut self) {
        self.forgotten = self.version;
        self.history.clear();
        self.lists.clear();
    }
}

/// `null` removes.
fn merge(into: &mut Value, patch: &Map<String, Value>) {
    if !into.is_object() {
        *into = json!({});
    }
    let Some(members) = into.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
}

/// The list of conditions is merged by their types.
fn merge_condition(status: &mut Value, condition: &Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let (Some(list), Some(members)) = (status["conditions"].as_array_mut(), condition.as_object()) else {
        return;
    };
    match list.iter_mut().find(|known| known["type"] == condition["type"]) {
        Some(known) => merge(known, members),
        None => list.push(condition.clone()),
    }
}
