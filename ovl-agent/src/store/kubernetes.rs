//! Kubernetes as the store (FLANNEL.md section 4): a node's lease is the podCIDR that the controller manager gave its
//! Node, and what peers have to know stands in the Node's annotations, as flannel writes them. Nothing is chosen here and
//! nothing ends.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{info, warn};

use self::api::{Api, Failure};
use self::config_file::ConfigFile;
use self::node::{NETWORK_UNAVAILABLE, Node, unavailable};
use self::pace::Pace;
use super::{DataPlane, Held, Remembered, Store, StoreError, Update};
use crate::family::{ByFamily, Family};
use crate::lease::{Lease, LeaseAttrs, LeaseKey};
use crate::network::{BackendConfig, Network};

mod annotations;
mod api;
mod config_file;
mod node;
mod options;
mod pace;
mod peers;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;

pub use self::annotations::Annotations;
pub use self::options::{KubernetesOptions, NodeName};

/// The store.
pub struct KubernetesStore {
    api: Api,
    options: KubernetesOptions,
    config: ConfigFile,
    /// The name of our Node, once it is known.
    name: OnceCell<String>,
    /// For what the agent asks beside the watch.
    pace: Pace,
    /// For what somebody else has to do first: the server answers well, and asking more often does not help.
    not_yet: Pace,
    /// The network's families: podCIDRs of others are nobody's.
    families: Cell<ByFamily<()>>,
    /// Whether nobody's subnet but our own matters.
    is_alone: Cell<bool>,
    /// What we told our Node to say.
    told: RefCell<Option<LeaseAttrs>>,
    told_data_plane: RefCell<Option<DataPlane>>,
    /// How often we wrote.
    writes: Cell<i64>,
}

impl KubernetesStore {
    /// Finds the way to the API server, and asks nothing yet: a server that is down is waited for later.
    ///
    /// # Errors
    /// Where the options lead nowhere.
    pub async fn open(options: KubernetesOptions) -> Result<Self, StoreError> {
        Ok(Self {
            api: options.api().await?,
            config: ConfigFile::new(&options.net_config_path),
            name: match &options.node {
                NodeName::Known(name) => OnceCell::from(name.clone()),
                NodeName::OfPod { .. } => OnceCell::new(),
            },
            pace: Pace::default(),
            not_yet: Pace::default(),
            families: Cell::new(ByFamily { v4: Some(()), v6: Some(()) }),
            is_alone: Cell::new(false),
            told: RefCell::default(),
            told_data_plane: RefCell::default(),
            writes: Cell::new(0),
            options,
        })
    }

    /// Asks the API server when it is time; `absent` says what it means where it has no such thing.
    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, Failure>>,
        absent: impl FnOnce() -> String,
    ) -> Result<T, StoreError> {
        self.pace.keep().await;
        match question.await {
            Ok(answer) => {
                self.pace.succeeded();
                Ok(answer)
            }
            Err(failure) => {
                failure.slow(&self.pace);
                Err(failure.of(absent))
            }
        }
    }

    /// The name of our Node.
    async fn name(&self) -> Result<&str, StoreError> {
        if let (None, NodeName::OfPod { namespace, name }) = (self.name.get(), &self.options.node) {
            let absent = || format!("there is no pod {namespace}/{name}: check POD_NAMESPACE and POD_NAME");
            self.not_yet.keep().await;
            let node = self.ask(self.api.node_of_pod(namespace, name), absent).await?;
            let node =
                node.ok_or_else(|| self.not_yet(format!("pod {namespace}/{name} is on no node yet")))?;
            self.not_yet.succeeded();
            // Whoever was faster knows the same.
            let _known = self.name.set(node);
        }
        self.name.get().map(String::as_str).ok_or_else(|| self.not_yet("the node has no name".to_owned()))
    }

    /// Our Node as it is now.
    async fn node(&self) -> Result<Node, StoreError> {
        let name = self.name().await?;
        let absent = || {
            format!(
                "{} has no Node '{name}': kubelet has not registered it yet, or it is called otherwise (NODE_NAME)",
                self.api.server()
            )
        };
        self.not_yet.keep().await;
        self.ask(self.api.node(name), absent).await
    }

    /// The lease that was assigned to our Node, as far as the network has its families.
    fn key(&self, node: &Node, network: &Network) -> Result<LeaseKey, StoreError> {
        let name = &node.metadata.name;
        let assigned =
            node.pod_cidrs().map_err(|problem| self.not_yet(format!("Node '{name}': {problem}")))?;
        let mut subnets = ByFamily::default();
        for (family, range) in network.ranges().iter() {
            let Some(subnet) = assigned.get(family) else { continue };
            if !range.contains(subnet) {
                return Err(StoreError::Refused(format!(
                    "the podCIDR {subnet} of Node '{name}' is not in the {family} range {range} of {}: the range must \
                     be the controller manager's --cluster-cidr",
                    self.config.name()
                )));
            }
            subnets.set(family, Some(*subnet));
        }
        let key = LeaseKey::of(subnets).ok_or_else(|| {
            self.not_yet(format!(
                "Node '{name}' has no podCIDR in {}: the controller manager gives it one with --allocate-node-cidrs \
                 and --cluster-cidr",
                network.ranges()
            ))
        })?;
        self.not_yet.succeeded();
        Ok(key)
    }

    /// That something is not there yet, which is asked for more and more slowly.
    fn not_yet(&self, what: String) -> StoreError {
        self.not_yet.failed(std::time::Duration::ZERO);
        StoreError::Unavailable(what)
    }

    /// Makes our Node say `attrs`, where it says something else.
    async fn tell(&self, node: &Node, key: LeaseKey, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let (names, name) = (&self.options.annotations, &node.metadata.name);
        let present = node.annotations();
        let overwritten = self.overwritten(node, attrs);
        let said = attrs.overwritten_by(&overwritten);
        let missing = names.missing(&present, &said);
        if !missing.is_empty() {
            self.patch(name, &json!({ "metadata": { "annotations": missing } })).await?;
            self.writes.set(self.writes.get() + 1);
            if !overwritten.is_empty() {
                info!("Node '{name}' tells peers to send to {overwritten}, as its annotations want it");
            }
        }
        self.told.replace(Some(attrs.clone()));
        let lease = Lease { key, attrs: said };
        Ok(Held { lease, expires: None, revision: self.writes.get(), term: 0, overwritten })
    }

    /// The addresses that an operator wants our Node to say in the place of its own.
    fn overwritten(&self, node: &Node, attrs: &LeaseAttrs) -> ByFamily<IpAddr> {
        let overwrites = self.options.annotations.overwrites(&node.annotations());
        // Of a family that the node does not use, peers are told nothing.
        ByFamily::from_fn(|family| attrs.public_ip(family).and(overwrites.get(family).copied()))
    }

    async fn patch(&self, name: &str, patch: &serde_json::Value) -> Result<(), StoreError> {
        let absent = || format!("{} has no Node '{name}' any more", self.api.server());
        self.ask(self.api.patch(name, patch), absent).await
    }

    /// Whether our Node says what it was told to.
    fn is_as_told(&self, node: &Node) -> bool {
        let is_told = self.told.borrow().as_ref().is_none_or(|attrs| {
            let attrs = attrs.overwritten_by(&self.overwritten(node, attrs));
            self.options.annotations.missing(&node.annotations(), &attrs).is_empty()
        });
        is_told && self.told_data_plane.borrow().as_ref().is_none_or(|told| node.says(told))
    }

    /// The condition as flannel writes it; that pods cannot be reached is for flannel to say by being gone.
    async fn say(&self, name: &str, data_plane: &DataPlane) -> Result<(), StoreError> {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let (reason, message) = match data_plane {
            DataPlane::Works => ("FlannelIsUp", "Flannel is running on this node"),
            DataPlane::Broken(why) => ("FlannelIsDown", why.as_str()),
        };
        let condition = json!({
            "type": NETWORK_UNAVAILABLE,
            "status": unavailable(data_plane),
            "reason": reason,
            "message": message,
            "lastTransitionTime": now,
            "lastHeartbeatTime": now,
        });
        self.patch(name, &json!({ "status": { "conditions": [condition] } })).await
    }
}

impl Store for KubernetesStore {
    fn describe(&self) -> String {
        let name = self.name.get().map(|name| format!(" (Node '{name}')")).unwrap_or_default();
        format!("Kubernetes API {}{name}", self.api.server())
    }

    fn config_place(&self) -> String {
        format!("{} (--net-config-path)", self.config.name())
    }

    async fn network_config(&self) -> Result<Option<String>, StoreError> {
        self.config.read()
    }

    fn parse_config(&self, text: &str) -> anyhow::Result<Network> {
        Network::parse_for_assigned(text)
    }

    async fn remembered(&self) -> Result<Remembered, StoreError> {
        let (node, names) = (self.node().await?, &self.options.annotations);
        let present = node.annotations();
        // What cannot be read is as good as forgotten.
        let backend_data = ByFamily::from_fn(|family: Family| names.data(&present, family).ok().flatten());
        Ok(Remembered { public_ips: names.node_addresses(&present), backend_data })
    }

    /// Nothing: there is one Node of every name, and it has its own podCIDR, whatever its address.
    async fn claim_identity(&self, _public_ip: IpAddr) -> Result<(), StoreError> {
        Ok(())
    }

    /// Nothing was claimed.
    async fn release(&self) {}

    async fn acquire(
        &self,
        network: &Network,
        me: &LeaseAttrs,
        _previous: ByFamily<IpNet>,
    ) -> Result<Held, StoreError> {
        self.families.set(network.ranges().map(|_, _| ()));
        self.is_alone.set(network.backend == BackendConfig::Alloc);
        let node = self.node().await?;
        let key = self.key(&node, network)?;
        for (family, range) in network.ranges().iter().filter(|(family, _)| key.subnet(*family).is_none()) {
            warn!("Node '{}' has no podCIDR in {range}: its pods have no {family}", node.metadata.name);
        }
        self.tell(&node, key, me).await
    }

    async fn advertise(&self, held: &Held, attrs: &LeaseAttrs) -> Result<Held, StoreError> {
        let node = self.node().await?;
        self.check(&node, held)?;
        self.tell(&node, held.lease.key, attrs).await
    }

    async fn renew(&self, held: &Held) -> Result<Held, StoreError> {
        let node = self.node().await?;
        self.check(&node, held)?;
        let told = self.told.borrow().clone();
        let held =
            self.tell(&node, held.lease.key, &told.unwrap_or_else(|| held.lease.attrs.clone())).await?;
        let data_plane = self.told_data_plane.borrow().clone();
        if let Some(data_plane) = data_plane.filter(|data_plane| !node.says(data_plane)) {
            self.say(&node.metadata.name, &data_plane).await?;
        }
        Ok(held)
    }

    async fn report(&self, data_plane: &DataPlane) -> Result<(), StoreError> {
        if !self.options.sets_condition {
            return Ok(());
        }
        self.say(self.name().await?, data_plane).await?;
        self.told_data_plane.replace(Some(data_plane.clone()));
        Ok(())
    }

    async fn watch(&self, updates: mpsc::Sender<Update>) {
        let nodes = async {
            loop {
                match self.name().await {
                    Ok(own) => return watch::run(self, own, &updates).await,
                    // Agents take their lease first, for which they need the name, too.
                    Err(error) => tracing::debug!("cannot watch the nodes yet: {error}"),
                }
            }
        };
        tokio::select! {
            () = updates.closed() => {}
            () = self.config.watch(&updates) => {}
            () = nodes => {}
        }
    }
}

impl KubernetesStore {
    /// That the Node still has the podCIDR of our lease.
    fn check(&self, node: &Node, held: &Held) -> Result<(), StoreError> {
        let assigned = node.pod_cidrs().map_err(|problem| {
            StoreError::Unavailable(format!("Node '{}': {problem}", node.metadata.name))
        })?;
        if *held.lease.key.subnets() == assigned.within(&self.families.get()) {
            return Ok(());
        }
        Err(StoreError::Conflict(format!("nodes/{}", node.metadata.name)))
    }
}
