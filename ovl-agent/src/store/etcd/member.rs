//! One member of an etcd cluster.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, Error};
use tonic::transport::{Endpoint, Uri};

use super::connect::{self, OpenError};
use super::failure::{Failure, is_broken_connection, one_line};
use super::tls::Files;
use super::user::{Login, User, wants_login};
use crate::store::StoreError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection with a request under way (a watch always is) is checked. A server takes more than one
/// check in 5 s for an attack, and any while nothing is under way.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A member, and who we are to it.
pub(super) struct Member {
    /// Its URL.
    pub(super) name: String,
    client: Client,
    uri: Uri,
    has_tls: bool,
    files: Arc<Files>,
    login: Option<Login>,
}

impl Member {
    /// Prepares a connection; makes none yet. `endpoint` is shown wherever there is something to say of it, so it must
    /// hold no password. `default_scheme` is for an endpoint without one.
    pub(super) async fn new(
        endpoint: &str,
        default_scheme: &str,
        files: &Arc<Files>,
        user: Option<&User>,
    ) -> Result<Self, StoreError> {
        let refused = |what: &str| StoreError::Refused(format!("etcd endpoint '{endpoint}' {what}"));
        let url = with_scheme(endpoint, default_scheme);
        let no_url = "is no URL such as http://127.0.0.1:2379";
        if !is_url(&url) {
            return Err(refused(no_url));
        }
        let has_tls = url.starts_with("https://");
        let connection = Endpoint::from_shared(url)
            .map_err(|error| refused(&format!("{no_url}: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false);
        let channel = Channel::Tonic(connect::channel(&connection, has_tls.then(|| Arc::clone(files))));
        // A member that has lost the others says so instead of keeping us waiting.
        let options = ConnectOptions::new().with_require_leader(true);
        let client = Client::from_channel(channel, Some(options))
            .await
            .map_err(|error| refused(&format!("cannot be used: {}", one_line(&error))))?;
        let uri = connection.uri().clone();
        let login = user.cloned().map(Login::new);
        let name = endpoint.to_owned();
        Ok(Self { name, client, uri, has_tls, files: Arc::clone(files), login })
    }

    /// Whether its connections are encrypted.
    pub(super) fn has_tls(&self) -> bool {
        self.has_tls
    }

    /// Sends a request; with a new token, where etcd does not take the one we have.
    pub(super) async fn ask<T, F>(&self, request: &impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let outcome = async {
            let Some(login) = &self.login else { return request(self.client.clone()).await };
            if login.is_due() {
                login.perform(self.client.clone()).await?;
            }
            match request(self.client.clone()).await {
                Err(error) if wants_login(&error) => {
                    login.perform(self.client.clone()).await?;
                    request(self.client.clone()).await
                }
                other => other,
            }
        };
        match outcome.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.failure(&error).await),
        }
    }

    async fn failure(&self, error: &Error) -> Failure {
        if is_broken_connection(error)
            && let Some(OpenError::Untrusted(why)) =
                connect::probe(self.uri.clone(), &self.files, self.has_tls).await
        {
            return Failure::Untrusted(format!("{}: {why}", self.name));
        }
        let user = self.login.as_ref().map(|login| login.user.name.as_str());
        Failure::of(error, &self.name, user)
    }
}

fn with_scheme(endpoint: &str, default: &str) -> String {
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("{default}://{endpoint}") }
}

/// The client library notices a port out of range only when it connects, which is tried for ever.
fn is_url(url: &str) -> bool {
    let authority = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let Some(host_port) = authority.map(|authority| authority.trim_end_matches('/')) else { return false };
    let has_good_port = match host_port.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok_and(|port| port != 0),
        _ => true,
    };
    !host_port.is_empty() && has_good_port
}
