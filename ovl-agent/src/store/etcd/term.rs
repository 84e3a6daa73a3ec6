//! Terms: etcd's own leases, which the keys of ours hang on.

use std::cell::RefCell;
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
/// whoever did may want it yet. Returns whether it is over.
pub(super) async fn discard(endpoints: &Endpoints, term: i64, length: Duration) -> bool {
    if term == 0 {
        return true;
    }
    let ended = async {
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let state = endpoints
            .call(|client| {
                let options = options.clone();
                async move { client.lease_client().time_to_live(term, Some(options)).await }
            })
            .await?;
        let is_over = state.ttl() <= 0;
        let is_ours = u64::try_from(state.granted_ttl()) == Ok(length.as_secs());
        let is_in_vain = !is_over && is_ours && state.keys().is_empty();
        if is_in_vain {
            revoke(endpoints, term).await?;
        }
        Ok::<_, Failure>(is_over || is_in_vain)
    };
    ended.await.unwrap_or_else(|failure| {
        debug!("cannot end etcd lease {term:016x}: {failure:?}");
        matches!(failure, Failure::Missing(_))
    })
}

/// The terms that we began and that may not be over: whatever became of our key, none but the last is wanted.
#[derive(Debug, Default)]
pub(super) struct Begun(RefCell<Vec<i64>>);

impl Begun {
    /// Ends all earlier ones that can be ended, and this one too where it is `in_vain`.
    pub(super) async fn add(&self, term: i64, in_vain: bool, endpoints: &Endpoints, length: Duration) {
        let earlier = self.0.borrow().clone();
        self.0.borrow_mut().push(term);
        for term in earlier.into_iter().chain(in_vain.then_some(term)) {
            if discard(endpoints, term, length).await {
                self.0.borrow_mut().retain(|begun| *begun != term);
            }
        }
    }
}

/// Ends a term, which deletes what hangs on it.
pub(super) async fn revoke(endpoints: &Endpoints, term: i64) -> Result<(), Failure> {
    endpoints.call(|client| async move { client.lease_client().revoke(term).await }).await?;
    Ok(())
}
