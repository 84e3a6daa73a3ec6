//! Terms: etcd's own leases, which the keys of ours hang on.

use std::time::Duration;

use etcd_client::{Error, LeaseTimeToLiveOptions};
use tracing::debug;

use super::endpoints::Endpoints;
use super::failure::Failure;

/// Begins a term and returns its id.
pub(super) async fn grant(endpoints: &Endpoints, length: Duration) -> Result<i64, Failure> {
    let ttl = length.as_secs().cast_signed();
    let granted =
        endpoints.call(|client| async move { client.lease_client().grant(ttl, None).await }).await?;
    Ok(granted.id())
}

/// Starts a term anew with its full length; whether it still is.
pub(super) async fn keep_alive(endpoints: &Endpoints, term: i64) -> Result<bool, Failure> {
    let kept = endpoints
        .call(|client| async move {
            match client.lease_client().keep_alive(term).await {
                Ok(_) => Ok(true),
                // How the client library says that the server answered with a time to live of 0.
                Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await;
    match kept {
        Err(Failure::Missing(_)) => Ok(false),
        other => other,
    }
}

/// Ends a term that nothing hangs on any more, so that it is no orphan until it expires. A term that another key
/// hangs on stays: ending it would delete that key. So does one of another length: neither we nor flannel began it, and
/// whoever did may want it yet.
pub(super) async fn discard(endpoints: &Endpoints, term: i64, length: Duration) {
    if term == 0 {
        return;
    }
    let ended = async {
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let state = endpoints
            .call(|client| {
                let options = options.clone();
                async move { client.lease_client().time_to_live(term, Some(options)).await }
            })
            .await?;
        let is_ours = u64::try_from(state.granted_ttl()) == Ok(length.as_secs());
        if state.ttl() > 0 && is_ours && state.keys().is_empty() {
            revoke(endpoints, term).await?;
        }
        Ok::<_, Failure>(())
    };
    if let Err(failure) = ended.await {
        debug!("etcd lease {term:016x} is left to expire: {failure:?}");
    }
}

/// Ends a term, which deletes what hangs on it.
pub(super) async fn revoke(endpoints: &Endpoints, term: i64) -> Result<(), Failure> {
    endpoints.call(|client| async move { client.lease_client().revoke(term).await }).await?;
    Ok(())
}
