//! Talking to whichever endpoint answers.

use std::cell::Cell;
use std::error::Error as _;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};

use crate::store::StoreError;

/// How long one endpoint may take to connect, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a connection is probed while it is in use, so that a dead one is noticed.
const PROBE: Duration = Duration::from_secs(5);

/// A client per endpoint. The one that answered last is asked first; flannel's own default names a port where mostly
/// nobody listens.
pub(super) struct Connection {
    endpoints: Vec<(String, Client)>,
    current: Cell<usize>,
}

impl Connection {
    /// Prepares a client per endpoint; connects to none.
    pub(super) async fn new(urls: &[String]) -> Result<Self, StoreError> {
        let options = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_keep_alive(PROBE, PROBE)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        let mut endpoints = Vec::new();
        for url in urls.iter().map(|url| url.trim()).filter(|url| !url.is_empty()) {
            if url.starts_with("https://") {
                return Err(StoreError::Refused(format!(
                    "--etcd-endpoints {url}: this version speaks plain http to etcd only"
                )));
            }
            let client = Client::connect([url], Some(options.clone())).await.map_err(|error| {
                StoreError::Refused(format!(
                    "--etcd-endpoints {url}: {error}; expected a URL like http://10.0.0.5:2379"
                ))
            })?;
            endpoints.push((url.to_owned(), client));
        }
        if endpoints.is_empty() {
            return Err(StoreError::Refused("--etcd-endpoints names no URL".to_owned()));
        }
        Ok(Self { endpoints, current: Cell::new(0) })
    }

    /// The endpoint that is asked first.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoints[self.current.get()].0
    }

    /// The client of that endpoint.
    pub(super) fn client(&self) -> Client {
        self.endpoints[self.current.get()].1.clone()
    }

    /// Asks one endpoint after the other until one answers.
    ///
    /// A write whose answer got lost may have been made; asked again it finds the key changed, which is a conflict,
    /// and the caller lists anew.
    pub(super) async fn call<T>(
        &self,
        mut ask: impl AsyncFnMut(&mut Client) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let count = self.endpoints.len();
        let first = self.current.get();
        let mut failures = Vec::new();
        for index in (first..first + count).map(|index| index % count) {
            let (url, client) = &self.endpoints[index];
            match tokio::time::timeout(PATIENCE, ask(&mut client.clone())).await {
                Ok(Ok(answer)) => {
                    self.current.set(index);
                    return Ok(answer);
                }
                Ok(Err(error)) => match classify(&error) {
                    StoreError::Unavailable(reason) => failures.push(format!("{url}: {reason}")),
                    other => return Err(other),
                },
                Err(_elapsed) => failures.push(format!("{url}: no answer within {} s", PATIENCE.as_secs())),
            }
        }
        Err(StoreError::Unavailable(failures.join("; ")))
    }

    /// Extends an etcd lease by its full term and returns the seconds it is good for; 0 where it is gone.
    pub(super) async fn keep_alive(&self, term: i64) -> Result<i64, StoreError> {
        self.call(async |client| keep_alive(client, term).await).await
    }
}

/// As [`Connection::keep_alive`], on one client.
pub(super) async fn keep_alive(client: &mut Client, term: i64) -> Result<i64, Error> {
    let (mut keeper, mut answers) = client.lease_keep_alive(term).await?;
    keeper.keep_alive().await?;
    Ok(answers.message().await?.map_or(0, |answer| answer.ttl()))
}

/// What to do about an error, and its words without the dump of metadata that a gRPC status prints.
pub(super) fn classify(error: &Error) -> StoreError {
    let Error::GRpcStatus(status) = error else { return StoreError::Unavailable(error.to_string()) };
    let mut reason = status.message().to_owned();
    let mut cause = status.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = inner.source();
    }
    // gRPC status codes: 3 invalid argument, 7 permission denied, 16 unauthenticated.
    match i32::from(status.code()) {
        3 | 7 | 16 => StoreError::Refused(reason),
        _ => StoreError::Unavailable(reason),
    }
}
