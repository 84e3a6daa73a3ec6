//! A double of the Kubernetes API server, as far as node agents use it: Nodes and their `status`, pods, lists in pages,
//! watches with bookmarks, patches, roles. It speaks real HTTP. Its behaviour is taken from the Kubernetes API reference
//! ("API concepts": efficient detection of changes, large result sets, resource versions; "Update API objects in place
//! using kubectl patch" for the merging of lists), and what an API server gets wrong can be asked for: to be gone, to
//! forget, to break off, to refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use nix::sys::socket::{Shutdown as SocketShutdown, shutdown};
use serde_json::{Value, json};

use crate::netns::Netns;
use crate::node::Node;
use crate::topology::{SWITCH_ADDRESS, Topology};

mod answer;
mod http;
mod objects;
mod watch;

use objects::Objects;

pub use objects::node as real_node;

/// Where API servers listen.
const PORT: u16 = 6443;

/// A running API server without a cluster; dropping it ends it.
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// `None` while it is gone.
    listener: Mutex<Option<TcpListener>>,
}

/// What all connections share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    objects: Objects,
    /// `VERB resource` of every request.
    requests: Vec<String>,
    /// What is answered instead, by `VERB resource`.
    refusals: BTreeMap<String, u16>,
    /// Without this bearer token nobody is anybody.
    token: Option<String>,
    /// What becomes of the watches that are open; each counts up.
    ended: u64,
    broken: u64,
    expired: u64,
    bookmarks: u64,
    /// How many have been written.
    bookmarks_sent: usize,
    /// Whether answers begin at all.
    is_hanging: bool,
    /// Whether whoever comes is hung up on, and how many were.
    hangs_up: bool,
    turned_away: usize,
    open: Vec<TcpStream>,
}

impl ApiServer {
    /// On a free port of the host's loopback.
    pub fn local() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        Self::with(listener)
    }

    /// On the underlay of a topology, where every node reaches it.
    pub fn on_underlay(topology: &Topology) -> Result<Self> {
        let switch: &Netns = topology.switch()?;
        let bind = || TcpListener::bind((SWITCH_ADDRESS, PORT));
        Self::with(switch.inside(bind)?.context("listen on the underlay")?)
    }

    /// On a node of a topology, at its own address of the underlay.
    pub fn on_node(node: &Node) -> Result<Self> {
        let bind = || TcpListener::bind((node.address(), PORT));
        Self::with(node.netns().inside(bind)?.context("listen on a node")?)
    }

    /// The URL that it has on a node of this address.
    pub fn url_on(address: IpAddr) -> String {
        format!("http://{}", SocketAddr::new(address, PORT))
    }

    fn with(listener: TcpListener) -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let server = Self { address: listener.local_addr()?, shared, listener: Mutex::default() };
        server.serve(listener)?;
        Ok(server)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a kubeconfig that leads there, with this token.
    pub fn kubeconfig(&self, folder: &Path, token: &str) -> Result<PathBuf> {
        let path = folder.join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{ "name": "here", "cluster": { "server": self.url() } }],
            "users": [{ "name": "agent", "user": { "token": token } }],
            "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "agent" } }],
        });
        std::fs::write(&path, text.to_string()).context("write a kubeconfig")?;
        Ok(path)
    }

    /// Adds a Node as kubelet and the controller manager do: with these podCIDRs, and an annotation of somebody else's.
    pub fn add_node(&self, name: &str, pod_cidrs: &[&str]) {
        self.put_node(name, &objects::node(name, pod_cidrs));
    }

    /// Adds or replaces a Node.
    pub fn put_node(&self, name: &str, node: &Value) {
        self.change(|state| state.objects.put(name, node.clone()));
    }

    /// A Node as it is.
    pub fn node(&self, name: &str) -> Option<Value> {
        self.state().objects.get(name)
    }

    /// The value of an annotation with flannel's prefix.
    pub fn annotation(&self, node: &str, suffix: &str) -> Option<String> {
        let value = self.node(node)?["metadata"]["annotations"].get(format!("{PREFIX}{suffix}"))?.clone();
        value.as_str().map(str::to_owned)
    }

    /// Sets or removes annotations with flannel's prefix, as `kubectl annotate` does.
    pub fn annotate(&self, node: &str, annotations: &[(&str, Option<&str>)]) {
        let named: BTreeMap<_, _> =
            annotations.iter().map(|(suffix, value)| (format!("{PREFIX}{suffix}"), *value)).collect();
        let patch = json!({ "metadata": { "annotations": named } });
        self.change(|state| state.objects.patch(node, &patch));
    }

    /// What a Node's condition says, and why.
    pub fn condition(&self, node: &str, kind: &str) -> Option<(String, String)> {
        let node = self.node(node)?;
        let conditions = node["status"]["conditions"].as_array()?;
        let condition = conditions.iter().find(|condition| condition["type"] == kind)?;
        Some((condition["status"].as_str()?.to_owned(), condition["reason"].as_str()?.to_owned()))
    }

    /// Sets a condition of a Node behind everybody's back.
    pub fn set_condition(&self, node: &str, kind: &str, status: &str) {
        let condition = json!({ "type": kind, "status": status, "reason": "Test" });
        let patch = json!({ "status": { "conditions": [condition] } });
        self.change(|state| state.objects.patch(node, &patch));
    }

    /// Deletes a Node.
    pub fn delete_node(&self, name: &str) {
        self.change(|state| state.objects.delete(name));
    }

    /// Says that a pod is on a node.
    pub fn add_pod(&self, namespace: &str, name: &str, node: Option<&str>) {
        let key = format!("{namespace}/{name}");
        self.change(|state| {
            state.objects.pods.insert(key, node.map(str::to_owned));
        });
    }

    /// Answers a question, such as `patch nodes/status`, with this HTTP status from now on; 0 is as usual again.
    pub fn refuse(&self, question: &str, status: u16) {
        self.change(|state| match status {
            0 => drop(state.refusals.remove(question)),
            status => drop(state.refusals.insert(question.to_owned(), status)),
        });
    }

    /// Knows nobody who has not this bearer token.
    pub fn require_token(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// Ends all watches properly, as after their time.
    pub fn end_watches(&self) {
        self.change(|state| state.ended += 1);
    }

    /// Breaks all watches off in the middle of an event.
    pub fn break_watches(&self) {
        self.change(|state| state.broken += 1);
    }

    /// Ends all watches with an event that says that their version is too old (410), and forgets all versions but the
    /// present one, as a compaction does.
    pub fn expire_watches(&self) {
        self.change(|state| {
            state.objects.forget();
            state.expired += 1;
        });
    }

    /// Forgets the versions before the present one, and the pages of lists that have begun, without a word.
    pub fn forget(&self) {
        self.change(|state| state.objects.forget());
    }

    /// Forgets the list that is being asked for page by page, once, before the next page but the first.
    pub fn forget_next_page(&self) {
        self.change(|state| state.objects.forgets_next_page = true);
    }

    /// Sends every watch a bookmark.
    pub fn bookmark(&self) {
        self.change(|state| state.bookmarks += 1);
    }

    /// How many bookmarks were sent.
    pub fn bookmarks_sent(&self) -> usize {
        self.state().bookmarks_sent
    }

    /// Accepts questions from now on, and says nothing; or answers again.
    pub fn hang(&self, is_hanging: bool) {
        self.change(|state| state.is_hanging = is_hanging);
    }

    /// Hangs up on everybody from now on, as a balancer whose API servers are all gone; or is there again.
    pub fn hang_up(&self, hangs_up: bool) {
        self.change(|state| state.hangs_up = hangs_up);
        if hangs_up {
            self.drop_connections();
        }
    }

    /// How many connections it hung up on before anything was asked.
    pub fn turned_away(&self) -> usize {
        self.state().turned_away
    }

    /// Every kind of question that was asked.
    pub fn asked(&self) -> BTreeSet<String> {
        self.state().requests.iter().cloned().collect()
    }

    /// How often a question such as `list nodes` was asked.
    pub fn count(&self, question: &str) -> usize {
        self.state().requests.iter().filter(|asked| *asked == question).count()
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.state().objects.watches
    }

    /// Is gone, with all its connections. What it knows stays.
    pub fn stop(&self) {
        let Some(listener) = self.listener().take() else { return };
        // Wakes the thread that accepts.
        let _gone = shutdown(listener.as_raw_fd(), SocketShutdown::Both);
        self.drop_connections();
    }

    fn drop_connections(&self) {
        let open = std::mem::take(&mut self.state().open);
        for stream in open {
            let _gone = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// Is there again, at the same address of the host's loopback.
    pub fn start_again(&self) -> Result<()> {
        let listener = TcpListener::bind(self.address).context("listen again")?;
        self.serve(listener)
    }

    /// The same on the underlay of a topology.
    pub fn start_again_in(&self, topology: &Topology) -> Result<()> {
        let bind = || TcpListener::bind(self.address);
        let listener = topology.switch()?.inside(bind)?.context("listen again on the underlay")?;
        self.serve(listener)
    }

    fn serve(&self, listener: TcpListener) -> Result<()> {
        *self.listener() = Some(listener.try_clone()?);
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Ok(copy) = stream.try_clone() else { continue };
                {
                    let mut state = shared.state();
                    if state.hangs_up {
                        state.turned_away += 1;
                        continue;
                    }
                    state.open.push(copy);
                }
                let shared = Arc::clone(&shared);
                // A client that hangs up ends its connection, not the test.
                thread::spawn(move || drop(answer::serve(&stream, &shared)));
            }
        });
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn listener(&self) -> MutexGuard<'_, Option<TcpListener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, work: impl FnOnce(&mut State)) {
        work(&mut self.state());
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// A test that failed must not make the others' failures unreadable.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What flannel's annotations begin with.
pub const PREFIX: &str = "flannel.alpha.coreos.com/";
