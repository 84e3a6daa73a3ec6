//! The members of an etcd cluster: one request goes to one of them, and to the next where that one does not answer.
//!
//! One client per member, not one for all: the client library spreads its requests evenly, dead members included, and
//! does not say which of them an error is about.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use tokio::time::timeout;

use crate::store::StoreError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection with a request under way (a watch always is) is checked. A server takes more than one
/// check in 5 s for an attack, and any while nothing is under way.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Status codes of gRPC.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No member answered; what was asked may still have been done.
    Unreachable(String),
    /// What was asked for is not there: an etcd lease that has ended.
    Missing(String),
    /// We may not.
    Denied(String),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(text) | Failure::Missing(text) => Self::Unavailable(text),
            Failure::Denied(text) => Self::Refused(text),
        }
    }
}

/// The members.
pub(super) struct Endpoints {
    members: Vec<Member>,
    /// The one that answered last.
    current: AtomicUsize,
}

struct Member {
    /// Without credentials, for a person.
    name: String,
    client: Client,
}

impl Endpoints {
    /// Prepares connections; makes none yet.
    pub(super) async fn new(urls: &[String]) -> Result<Self, StoreError> {
        let mut members = Vec::new();
        for url in urls.iter().map(|url| url.trim()).filter(|url| !url.is_empty()) {
            members.push(Member::new(url).await?);
        }
        if members.is_empty() {
            return Err(StoreError::Refused(
                "no etcd endpoint is given; name one such as http://127.0.0.1:2379".to_owned(),
            ));
        }
        Ok(Self { members, current: AtomicUsize::new(0) })
    }

    /// All of them, for a person.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
        names.join(",")
    }

    /// Sends a request to the first member that answers.
    ///
    /// A member that took the request and fell silent may have done what it was asked to, so a request may be done
    /// twice.
    pub(super) async fn call<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let mut silent = Vec::new();
        for index in (0..self.members.len()).map(|step| (first + step) % self.members.len()) {
            let member = &self.members[index];
            let failure = match timeout(REQUEST_TIMEOUT, request(member.client.clone())).await {
                Ok(Ok(answer)) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => member.failure(&error),
                Err(_elapsed) => {
                    let seconds = REQUEST_TIMEOUT.as_secs();
                    Failure::Unreachable(format!("{}: no answer within {seconds} s", member.name))
                }
            };
            match failure {
                Failure::Unreachable(text) => silent.push(text),
                Failure::Missing(_) | Failure::Denied(_) => return Err(failure),
            }
        }
        Err(Failure::Unreachable(silent.join("; ")))
    }

    /// The member that answered last, with what went wrong there; the next request goes to another.
    pub(super) fn blame(&self, what: &str) -> String {
        let index = self.current.load(Ordering::Relaxed);
        self.current.store((index + 1) % self.members.len(), Ordering::Relaxed);
        format!("{}: {what}", self.members[index].name)
    }
}

impl Member {
    async fn new(url: &str) -> Result<Self, StoreError> {
        let name = without_credentials(url);
        let refused = |what: &str| StoreError::Refused(format!("etcd endpoint '{name}' {what}"));
        if name != url {
            return Err(refused(
                "holds a user and a password, which this version does not use; leave them out",
            ));
        }
        if url.starts_with("https://") {
            return Err(refused("asks for TLS, which this version does not have yet; use http://"));
        }
        let no_url = "is no URL such as http://127.0.0.1:2379";
        let authority = url.strip_prefix("http://").unwrap_or(url);
        if authority.is_empty() || authority.contains("://") || !has_good_port(authority) {
            return Err(refused(no_url));
        }
        let client = Client::connect([url], Some(options()))
            .await
            .map_err(|error| refused(&format!("{no_url}: {}", one_line(&error))))?;
        Ok(Self { name, client })
    }

    fn failure(&self, error: &Error) -> Failure {
        let text = format!("{}: {}", self.name, one_line(error));
        let Error::GRpcStatus(status) = error else { return Failure::Unreachable(text) };
        match i32::from(status.code()) {
            code::NOT_FOUND => Failure::Missing(text),
            code::INVALID_ARGUMENT
            | code::PERMISSION_DENIED
            | code::UNIMPLEMENTED
            | code::UNAUTHENTICATED => Failure::Denied(text),
            _ => Failure::Unreachable(text),
        }
    }
}

/// How to connect; certificates and users will be added here.
fn options() -> ConnectOptions {
    ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        // A member that has lost the others says so instead of keeping us waiting.
        .with_require_leader(true)
}

/// The client library notices a port out of range only when it connects, which is tried for ever.
fn has_good_port(authority: &str) -> bool {
    let host_port = authority.trim_end_matches('/');
    match host_port.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok_and(|port| port != 0),
        _ => true,
    }
}

fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split('/').next().unwrap_or(rest);
    let Some((credentials, _)) = authority.rsplit_once('@') else { return url.to_owned() };
    let host = &rest[credentials.len() + 1..];
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

/// What is wrong, without the layers of the client library around it.
pub(super) fn one_line(error: &Error) -> String {
    let text = if let Error::GRpcStatus(status) = error {
        status.source().map_or(status.message().to_owned(), root_cause)
    } else if let Error::TransportError(error) = error {
        root_cause(error)
    } else {
        error.to_string()
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_cut_out() {
        let table = [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("http://me:secret@127.0.0.1:2379/x@y", "http://127.0.0.1:2379/x@y"),
            ("http://me:s@cret@[::1]:2379", "http://[::1]:2379"),
            ("me:secret@host", "host"),
        ];
        for (url, name) in table {
            assert_eq!(without_credentials(url), name);
        }
    }

    #[tokio::test]
    async fn endpoints_that_make_no_sense_are_named() {
        for url in
            ["http://", "ftp://127.0.0.1", "http://a b", "https://127.0.0.1:2379", "http://127.0.0.1:99999"]
        {
            let Err(StoreError::Refused(text)) = Endpoints::new(&[url.to_owned()]).await else {
                panic!("{url} is taken");
            };
            assert!(text.contains(url), "{text}");
        }
        assert!(matches!(Endpoints::new(&[]).await, Err(StoreError::Refused(_))));
    }
}
