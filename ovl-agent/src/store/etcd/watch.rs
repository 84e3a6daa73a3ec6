//! Watching etcd: a snapshot at one revision, then every change after it, and all over again when that ends.

use std::convert::Infallible;
use std::time::Duration;

use etcd_client::{
    Event, EventType, GetOptions, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::MAX_ANSWER;
use super::endpoints::{Endpoints, Failure, one_line};
use super::keys::Keys;
use crate::store::Update;
use crate::store::backoff::Backoff;

/// A watch that lasted this long was no failure in a row.
const STEADY: Duration = Duration::from_secs(5);

/// Why watching ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// Only a new snapshot can say what is left.
    Relist,
    /// etcd does not answer or has forgotten what we missed; the text says so.
    Broken(String),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(text) | Failure::Missing(text) | Failure::Denied(text) => Self::Broken(text),
        }
    }
}

/// Watches until `updates` is closed.
pub(super) async fn run(endpoints: &Endpoints, keys: &Keys, updates: &mpsc::Sender<Update>) {
    let mut watcher = Watcher { endpoints, keys, updates, config_revision: None, has_snapshot: false };
    let mut backoff = Backoff::default();
    let mut is_outage = false;
    loop {
        let started = Instant::now();
        let end = tokio::select! {
            () = updates.closed() => return,
            Err(end) = watcher.round() => end,
        };
        // A round that got as far as a snapshot has ended the outage before.
        if std::mem::take(&mut watcher.has_snapshot) {
            is_outage = false;
            if started.elapsed() > STEADY {
                backoff = Backoff::default();
            }
        }
        match end {
            End::Closed => return,
            End::Relist => continue,
            End::Broken(reason) if is_outage => debug!("still cannot watch etcd: {reason}"),
            End::Broken(reason) => {
                is_outage = true;
                if updates.send(Update::Unavailable(reason)).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            () = updates.closed() => return,
            () = backoff.pause() => {}
        }
    }
}

struct Watcher<'a> {
    endpoints: &'a Endpoints,
    keys: &'a Keys,
    updates: &'a mpsc::Sender<Update>,
    /// When the network config was last changed; kept over an outage, in which it may change too.
    config_revision: Option<i64>,
    /// Whether this round has sent one.
    has_snapshot: bool,
}

impl Watcher<'_> {
    /// Watches until something is wrong.
    async fn round(&mut self) -> Result<Infallible, End> {
        let revision = self.snapshot().await?;
        let mut stream = self.subscribe(revision + 1).await?;
        loop {
            let answer = match stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(self.broken("the watch was closed")),
                Err(error) => return Err(self.broken(&one_line(&error))),
            };
            self.check(&answer)?;
            for event in answer.events() {
                self.take(event).await?;
            }
        }
    }

    /// Reports all leases and returns the revision at which they were so.
    async fn snapshot(&mut self) -> Result<i64, End> {
        let leases = TxnOp::get(self.keys.subnets(), Some(GetOptions::new().with_prefix()));
        let config = TxnOp::get(self.keys.config(), Some(GetOptions::new().with_keys_only()));
        // One transaction, so that both are as they were at one revision.
        let txn = Txn::new().and_then([leases, config]);
        let answer = self
            .endpoints
            .call(|client| {
                let txn = txn.clone();
                let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
                async move { kv.txn(txn).await }
            })
            .await?;
        let responses = answer.op_responses();
        let [TxnOpResponse::Get(subnets), TxnOpResponse::Get(config)] = responses.as_slice() else {
            return Err(self.broken("an answer to another question"));
        };
        let (mut leases, mut rejected) = (Vec::new(), Vec::new());
        for pair in subnets.kvs() {
            match self.keys.read(pair) {
                Ok(listed) => leases.push(listed.lease),
                Err(item) => rejected.push(item),
            }
        }
        leases.sort_by_key(|lease| lease.key);
        self.send(Update::Snapshot { leases, rejected }).await?;
        self.has_snapshot = true;
        let config = config.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision);
        if self.config_revision.replace(config).is_some_and(|before| before != config) {
            self.send(Update::ConfigChanged).await?;
        }
        answer.header().map(etcd_client::ResponseHeader::revision).ok_or_else(|| self.broken("no revision"))
    }

    async fn subscribe(&self, revision: i64) -> Result<WatchStream, End> {
        let stream = self
            .endpoints
            .call(|client| {
                let (subnets, config) = (self.keys.subnets(), self.keys.config());
                let mut watch = client.watch_client().max_decoding_message_size(MAX_ANSWER);
                async move {
                    let options = WatchOptions::new().with_start_revision(revision);
                    let mut stream = watch.watch(subnets, Some(options.clone().with_prefix())).await?;
                    stream.watch(config, Some(options)).await?;
                    Ok(stream)
                }
            })
            .await?;
        Ok(stream)
    }

    /// That the watch goes on.
    fn check(&self, answer: &WatchResponse) -> Result<(), End> {
        if answer.compact_revision() != 0 {
            return Err(self.broken("what was missed has been compacted away"));
        }
        if answer.canceled() {
            return Err(self.broken(&format!("the watch was cancelled: {}", answer.cancel_reason())));
        }
        Ok(())
    }

    async fn take(&mut self, event: &Event) -> Result<(), End> {
        let Some(pair) = event.kv() else { return Ok(()) };
        let is_put = event.event_type() == EventType::Put;
        if pair.key() == self.keys.config().as_bytes() {
            self.config_revision = Some(if is_put { pair.mod_revision() } else { 0 });
            return self.send(Update::ConfigChanged).await;
        }
        let update = match (is_put, self.keys.parse(pair.key())) {
            (true, _) => {
                self.keys.read(pair).map_or_else(Update::Rejected, |listed| Update::Put(listed.lease))
            }
            (false, Ok(key)) => Update::Delete(key),
            // It was rejected by name before, and only a snapshot can say that it no longer is.
            (false, Err(_)) => return Err(End::Relist),
        };
        self.send(update).await
    }

    async fn send(&self, update: Update) -> Result<(), End> {
        self.updates.send(update).await.map_err(|_closed| End::Closed)
    }

    fn broken(&self, what: &str) -> End {
        End::Broken(self.endpoints.blame(what))
    }
}
