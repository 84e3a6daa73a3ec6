//! The members of an etcd cluster: one request goes to one of them, and to the next where that one does not answer.
//!
//! One client per member, not one for all: the client library spreads its requests evenly, dead members included, and
//! does not say which of them an error is about.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, Error};
use tokio::time::timeout;
use tracing::warn;

use super::failure::Failure;
use super::member::Member;
use super::options::{EtcdOptions, without_credentials};
use super::tls::Files;
use super::user::User;
use crate::store::StoreError;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The members.
pub(super) struct Endpoints {
    members: Vec<Member>,
    /// The one that answered last.
    current: AtomicUsize,
}

impl Endpoints {
    /// Prepares connections; makes none yet. Reads the certificates once, to say at once what is wrong with them.
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        refuse_credentials(&options.endpoints)?;
        let user =
            options.user().map_err(StoreError::Refused)?.map(|(name, password)| User::new(name, password));
        let files = Arc::new(Files::new(options).map_err(StoreError::Refused)?);
        let mut members = Vec::new();
        for url in options.endpoints.iter().map(|url| url.trim()).filter(|url| !url.is_empty()) {
            members.push(Member::new(url, &files, user.as_ref()).await?);
        }
        if members.is_empty() {
            return Err(StoreError::Refused(
                "no etcd endpoint is given; name one such as http://127.0.0.1:2379".to_owned(),
            ));
        }
        if members.iter().any(Member::has_tls) {
            files.read().map_err(StoreError::Refused)?;
        } else if !files.is_empty() {
            warn!(
                "no etcd endpoint is https://, so --etcd-cafile, --etcd-certfile and --etcd-keyfile are unused"
            );
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
        let (mut silent, mut is_hopeless) = (Vec::new(), true);
        for index in (0..self.members.len()).map(|step| (first + step) % self.members.len()) {
            let member = &self.members[index];
            // Boxed, because everything that calls this would have it inside otherwise.
            let answer = timeout(REQUEST_TIMEOUT, Box::pin(member.ask(&request)));
            let answer = answer.await.unwrap_or_else(|_elapsed| {
                let seconds = REQUEST_TIMEOUT.as_secs();
                Err(Failure::Unreachable(format!("{}: no answer within {seconds} s", member.name)))
            });
            match answer {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Failure::Unreachable(text)) => {
                    is_hopeless = false;
                    silent.push(text);
                }
                Err(Failure::Untrusted(text)) => silent.push(text),
                Err(failure @ (Failure::Missing(_) | Failure::Denied(_))) => return Err(failure),
            }
        }
        let text = silent.join("; ");
        Err(if is_hopeless { Failure::Untrusted(text) } else { Failure::Unreachable(text) })
    }

    /// The member that answered last, with what went wrong there; the next request goes to another.
    pub(super) fn blame(&self, what: &str) -> String {
        let index = self.current.load(Ordering::Relaxed);
        self.current.store((index + 1) % self.members.len(), Ordering::Relaxed);
        format!("{}: {what}", self.members[index].name)
    }
}

/// All of them at once: where a list was split at a comma in a password, the first half of it is an endpoint of its own.
fn refuse_credentials(endpoints: &[String]) -> Result<(), StoreError> {
    let given = endpoints.join(",");
    let shown = without_credentials(&given);
    if shown == given {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "etcd endpoint '{shown}' holds a user and a password; leave them out and give --etcd-username and \
         --etcd-password"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endpoints_that_make_no_sense_are_named() {
        let of = |endpoints: &[&str]| EtcdOptions {
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            ..EtcdOptions::default()
        };
        for url in ["http://", "ftp://127.0.0.1", "http://a b", "http://127.0.0.1:99999"] {
            let Err(StoreError::Refused(text)) = Endpoints::new(&of(&[url])).await else {
                panic!("{url} is taken");
            };
            assert!(text.contains(url), "{text}");
        }
        assert!(matches!(Endpoints::new(&of(&[""])).await, Err(StoreError::Refused(_))));
    }

    #[tokio::test]
    async fn a_password_in_an_endpoint_is_refused_and_not_shown() {
        let table: [&[&str]; 6] = [
            &["https://me:sesame@127.0.0.1:2379"],
            &["me:sesame@127.0.0.1:2379"],
            &["https://me:ses/ame@127.0.0.1"],
            &["https://ses/ame:@127.0.0.1"],
            &["http://me:1", "ses@127.0.0.1:2379"],
            &["http://me@127.0.0.1:2379", "http://127.0.0.1:2"],
        ];
        for endpoints in table {
            let options = EtcdOptions {
                endpoints: endpoints.iter().map(ToString::to_string).collect(),
                ..EtcdOptions::default()
            };
            let Err(StoreError::Refused(text)) = Endpoints::new(&options).await else {
                panic!("{endpoints:?} are taken");
            };
            let is_named = text.contains("--etcd-password") && text.contains("@127.0.0.1");
            assert!(is_named && !text.contains("me:") && !text.contains("ses"), "{text}");
        }
    }
}
