//! Watching the Nodes: a list, page by page, then every change after it from the version that the last event or bookmark
//! named (Kubernetes API concepts, "Efficient detection of changes").
//!
//! That a watch ends says nothing about the leases: API servers end them every few minutes, and it goes on where it was.
//! Only where that has been forgotten (410) everything is listed anew, and only where no watch can be begun the API server
//! is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rand::Rng as _;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::KubernetesStore;
use super::api::{Failure, Lines, Refusal};
use super::node::{Event, Item, Metadata, Node, Page, rejected};
use super::pace::Pace;
use super::peers::Peers;
use crate::store::Update;

/// Nodes per page: some 4 MB of JSON, all of which is held at once.
const PAGE: u32 = 250;
/// How long the server may let a watch be, seconds; at random, as client-go has it, so that not all come at once.
const LONGEST: std::ops::Range<u32> = 300..600;
/// A watch that lasted this long was no failure in a row.
const STEADY: Duration = Duration::from_secs(5);
/// How much longer than the server was told to a watch may take: then it is one that the server knows nothing of.
const SLACK: Duration = Duration::from_secs(30);
/// Bookmarks come about once a minute. A watch without anything for this long may be one whose connection somebody on the
/// way has forgotten, which no end of it would ever notice: it goes on over another one.
const QUIET: Duration = Duration::from_secs(90);
/// HTTP's code for a version that is forgotten, in a watch's own words.
const GONE: u16 = 410;

/// Why watching ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// It goes on where it was.
    Over(String),
    /// Only a new list can say what is left, and why.
    Relist(String),
    /// The API server is gone; whether it answers, but not us.
    Gone(String, bool),
}

/// Watches until `updates` is closed.
pub(super) async fn run(store: &KubernetesStore, own: &str, updates: &mpsc::Sender<Update>) {
    let mut watcher = Watcher {
        store,
        own,
        updates,
        peers: Peers::new(own),
        version: None,
        pace: Pace::default(),
        outage: None,
        has_listed: false,
    };
    loop {
        watcher.pace.keep().await;
        match watcher.round().await {
            End::Closed => return,
            End::Over(reason) => debug!("watching the nodes goes on after: {reason}"),
            End::Relist(reason) => {
                debug!("listing all nodes anew: {reason}");
                watcher.version = None;
            }
            End::Gone(reason, is_refusal) if watcher.outage == Some(is_refusal) => {
                debug!("still cannot watch the nodes: {reason}");
            }
            End::Gone(reason, is_refusal) => {
                watcher.outage = Some(is_refusal);
                if updates.send(Update::Unavailable(reason)).await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Watcher<'a> {
    store: &'a KubernetesStore,
    own: &'a str,
    updates: &'a mpsc::Sender<Update>,
    peers: Peers,
    /// Up to which version `peers` are known; `None` where they have to be listed.
    version: Option<String>,
    /// The watch's own: what the agent asks beside it must not make it faster.
    pace: Pace,
    /// What kind of outage was told of, while there is one.
    outage: Option<bool>,
    has_listed: bool,
}

impl Watcher<'_> {
    async fn round(&mut self) -> End {
        let (lines, longest) = match self.begin().await {
            Ok(began) => began,
            Err(end) => return end,
        };
        let started = Instant::now();
        let end = self.follow(lines, started + longest + SLACK).await;
        if started.elapsed() < STEADY {
            self.pace.failed(Duration::ZERO);
        } else {
            self.pace.succeeded();
        }
        end
    }

    /// Begins a watch, and says how long the server was told to let it be.
    async fn begin(&mut self) -> Result<(Lines, Duration), End> {
        let version = match &self.version {
            Some(version) => version.clone(),
            None => self.list().await?,
        };
        let longest = rand::rng().random_range(LONGEST);
        let query = format!(
            "allowWatchBookmarks=true&timeoutSeconds={longest}&resourceVersion={}{}",
            encoded(&version),
            self.selector()
        );
        let lines = self.store.api.watch(&query).await.map_err(|failure| self.failed(failure))?;
        // Nothing was missed; that the server is there again is worth saying.
        if self.outage.take().is_some() {
            self.send(self.peers.snapshot()).await?;
        }
        Ok((lines, Duration::from_secs(longest.into())))
    }

    /// Lists all Nodes, reports them, and returns the version at which they were so.
    ///
    /// No version is asked for: the answer is as new as the server's own store. An older one from its cache would be
    /// cheaper, and might lack a node that was there before, whose rows would then be removed.
    async fn list(&mut self) -> Result<String, End> {
        let (mut items, mut next) = (BTreeMap::new(), String::new());
        let mut is_own_as_told = true;
        let version = loop {
            let mut query = format!("limit={PAGE}{}", self.selector());
            if !next.is_empty() {
                query = format!("{query}&continue={}", encoded(&next));
            }
            let text = self.store.api.page(&query).await.map_err(|failure| self.failed(failure))?;
            let page: Page<'_> =
                serde_json::from_slice(&text).map_err(|error| self.nonsense(&format!("a list: {error}")))?;
            for object in page.items {
                let read = self.read(object)?;
                if read.metadata.name == self.own {
                    is_own_as_told = read.is_as_told;
                }
                if let Some(item) = read.item {
                    items.insert(read.metadata.name, item);
                }
            }
            next = page.metadata.next.into_owned();
            if next.is_empty() {
                // Every page of a list has the version of the first.
                break page.metadata.resource_version.into_owned();
            }
        };
        self.peers.replace(items);
        self.version = Some(version.clone());
        self.outage = None;
        self.send(self.peers.snapshot()).await?;
        if !std::mem::replace(&mut self.has_listed, true) {
            self.send(Update::ConfigChanged).await?;
        }
        if !is_own_as_told {
            self.say_own_again().await?;
        }
        Ok(version)
    }

    /// Takes in what the watch says until it ends, or it is time to begin another one.
    async fn follow(&mut self, mut lines: Lines, latest: Instant) -> End {
        loop {
            let quiet = Instant::now() + QUIET;
            let line = match timeout_at(quiet.min(latest), lines.next()).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => return End::Over("the server ended it".to_owned()),
                Ok(Err(reason)) => return End::Over(reason),
                Err(_elapsed) if quiet < latest => {
                    return End::Over(format!("nothing heard for {} s", QUIET.as_secs()));
                }
                Err(_elapsed) => return End::Over("the server did not end it in time".to_owned()),
            };
            if let Err(end) = self.take(&line).await {
                return end;
            }
        }
    }

    async fn take(&mut self, line: &[u8]) -> Result<(), End> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let event: Event<'_> =
            serde_json::from_slice(line).map_err(|error| self.nonsense(&format!("an event: {error}")))?;
        if event.kind == "ERROR" {
            let refusal: Refusal = serde_json::from_str(event.object.get())
                .map_err(|error| self.nonsense(&format!("an error: {error}")))?;
            let Refusal { code, message } = refusal;
            return Err(if code == GONE {
                End::Relist(message)
            } else {
                End::Over(format!("error {code}: {message}"))
            });
        }
        let read = self.read(event.object)?;
        if !read.metadata.resource_version.is_empty() {
            self.version = Some(read.metadata.resource_version);
        }
        let item = match &*event.kind {
            "ADDED" | "MODIFIED" => read.item,
            "DELETED" => None,
            // A bookmark has a version and nothing else.
            _ => return Ok(()),
        };
        let name = read.metadata.name;
        match self.peers.set(&name, item) {
            Some(update) => self.send(update).await,
            None if name == self.own && !read.is_as_told => self.say_own_again().await,
            None => Ok(()),
        }
    }

    /// Our lease stands, but something else of our Node is not as we told it: the agent looks at it when it hears of it.
    async fn say_own_again(&self) -> Result<(), End> {
        match self.peers.own_lease() {
            Some(lease) => self.send(Update::Put(lease.clone())).await,
            None => Ok(()),
        }
    }

    fn read(&self, object: &RawValue) -> Result<Read, End> {
        let read = Node::read(object).map_err(|error| self.nonsense(&format!("a node: {error}")))?;
        Ok(match read {
            Ok(node) => Read {
                item: node.item(&self.store.options.annotations, self.store.families.get()),
                is_as_told: node.metadata.name != self.own || self.store.is_as_told(&node),
                metadata: node.metadata,
            },
            Err((metadata, reason)) => {
                let item = Some(rejected(&metadata.name, None, reason));
                Read { item, is_as_told: true, metadata }
            }
        })
    }

    /// Where nobody's subnet but our own matters, the API server need not tell of the others.
    fn selector(&self) -> String {
        if self.store.is_alone.get() {
            format!("&fieldSelector={}", encoded(&format!("metadata.name={}", self.own)))
        } else {
            String::new()
        }
    }

    fn failed(&self, failure: Failure) -> End {
        failure.slow(&self.pace);
        match failure {
            Failure::Expired => End::Relist("410 Gone".to_owned()),
            Failure::Absent => End::Gone(
                format!("{} knows no nodes (404): is it the URL of an API server?", self.store.api.server()),
                true,
            ),
            Failure::Refused(reason, _) => End::Gone(reason, true),
            Failure::Unreachable(reason) => End::Gone(reason, false),
        }
    }

    fn nonsense(&self, what: &str) -> End {
        self.pace.failed(Duration::ZERO);
        End::Relist(format!("{} says what makes no sense, {what}", self.store.api.server()))
    }

    async fn send(&self, update: Update) -> Result<(), End> {
        self.updates.send(update).await.map_err(|_closed| End::Closed)
    }
}

/// A Node as far as it can be read.
struct Read {
    metadata: Metadata,
    item: Option<Item>,
    /// For our own Node: whether it says what we told it to.
    is_as_told: bool,
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests;
