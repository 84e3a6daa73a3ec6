//! The members of an etcd cluster: one request goes to one of them, and to the next where that one does not answer.
//!
//! One client per member, not one for all: the client library spreads its requests evenly, dead members included, and
//! does not say which of them an error is about.

use std::path::PathBuf;
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
/// A listing's answer has megabytes in a large cluster, and the link may be slow. A member that is gone is noticed
/// before, by its connection.
const LISTING_TIMEOUT: Duration = Duration::from_mins(1);

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
        let scheme = default_scheme(options);
        let mut members = Vec::new();
        for url in options.endpoints.iter().map(|url| url.trim()).filter(|url| !url.is_empty()) {
            members.push(Member::new(url, scheme, &files, user.as_ref()).await?);
        }
        if members.is_empty() {
            return Err(StoreError::Refused(
                "no etcd endpoint is given; name one such as http://127.0.0.1:2379".to_owned(),
            ));
        }
        if members.iter().any(Member::has_tls) {
            files.read().map_err(StoreError::Refused)?;
        }
        let endpoints = Self { members, current: AtomicUsize::new(0) };
        if let Some(plain) = endpoints.plain().filter(|_| !files.is_empty()) {
            warn!(
                "no TLS with {plain}, whatever --etcd-cafile, --etcd-certfile and --etcd-keyfile say; name it \
                 https:// in --etcd-endpoints"
            );
        }
        Ok(endpoints)
    }

    /// The members that are spoken to without TLS, for a person; `None` where there are none.
    fn plain(&self) -> Option<String> {
        let plain = self.members.iter().filter(|member| !member.has_tls());
        let names: Vec<&str> = plain.map(|member| member.name.as_str()).collect();
        Some(names.join(",")).filter(|names| !names.is_empty())
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
        self.call_within(REQUEST_TIMEOUT, request).await
    }

    /// As [`Self::call`], for a request with a long answer.
    pub(super) async fn call_for_listing<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_within(LISTING_TIMEOUT, request).await
    }

    async fn call_within<T, F>(&self, limit: Duration, request: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for index in (0..self.members.len()).map(|step| (first + step) % self.members.len()) {
            let member = &self.members[index];
            // Boxed, because everything that calls this would have it inside otherwise.
            let answer = timeout(limit, Box::pin(member.ask(&request)));
            let answer = answer.await.unwrap_or_else(|_elapsed| {
                let seconds = limit.as_secs();
                Err(Failure::Unreachable(format!("{}: no answer within {seconds} s", member.name)))
            });
            match answer {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure @ Failure::Missing(_)) => return Err(failure),
                // Not all that are named need be members of one cluster, or an etcd at all.
                Err(failure) => failures.push(failure),
            }
        }
        Err(Failure::of_all(failures))
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

/// How a member without a scheme is spoken to: as flannel does, which takes a CA alone for no wish for TLS.
fn default_scheme(options: &EtcdOptions) -> &'static str {
    let is_given = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    if is_given(&options.certfile) && is_given(&options.keyfile) { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_scheme_is_said_or_follows_from_the_certificate() {
        let endpoints = ["a:1", "http://b:1"].map(str::to_owned).to_vec();
        let none = EtcdOptions { endpoints, ..EtcdOptions::default() };
        let ca = EtcdOptions { cafile: Some("/ca".into()), ..none.clone() };
        let pair = |text: &str| EtcdOptions {
            certfile: Some(text.into()),
            keyfile: Some(text.into()),
            ..ca.clone()
        };
        for (options, scheme) in [(&none, "http"), (&ca, "http"), (&pair(""), "http"), (&pair("/x"), "https")]
        {
            assert_eq!(default_scheme(options), scheme, "{options:?}");
        }
        // The file need not even be there.
        let endpoints = Endpoints::new(&ca).await.expect("good");
        assert_eq!(endpoints.plain().as_deref(), Some("a:1,http://b:1"));
        let secured = EtcdOptions { endpoints: vec!["https://c:1".to_owned()], ..none };
        assert_eq!(Endpoints::new(&secured).await.ok().and_then(|endpoints| endpoints.plain()), None);
    }

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
