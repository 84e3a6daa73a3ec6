//! etcd's own authentication: a name and a password buy a token, which etcd forgets when it restarts or gets no
//! request for some minutes, and which is bought again then.

use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::{Client, Error};
use tracing::warn;

use super::failure::code;

/// Who we are to etcd.
#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    password: String,
}

impl User {
    pub(super) fn new(name: &str, password: &str) -> Self {
        Self { name: name.to_owned(), password: password.to_owned() }
    }
}

/// A user at one member, which has tokens of its own.
pub(super) struct Login {
    pub(super) user: User,
    /// Whether etcd was asked for a token since we started.
    is_done: AtomicBool,
}

impl Login {
    pub(super) fn new(user: User) -> Self {
        Self { user, is_done: AtomicBool::new(false) }
    }

    /// Whether a first token is still to be had.
    pub(super) fn is_due(&self) -> bool {
        !self.is_done.load(Ordering::Relaxed)
    }

    /// Gets a token, which all clones of `client` send from now on.
    pub(super) async fn perform(&self, mut client: Client) -> Result<(), Error> {
        let User { name, password } = &self.user;
        let outcome = match client.update_user(Some((name.clone(), password.clone()))).await {
            // As flannel has it: an etcd that asks nobody lets us in, too. Where that changes, it says so.
            Err(Error::GRpcStatus(status)) if status.message().contains("authentication is not enabled") => {
                if self.is_due() {
                    warn!("etcd's authentication is off, so --etcd-username is of no effect");
                }
                Ok(())
            }
            other => other,
        };
        self.is_done.store(outcome.is_ok(), Ordering::Relaxed);
        outcome
    }
}

/// Whether a request would have been answered with a new token.
pub(super) fn wants_login(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let is = |text| status.message().contains(text);
    match i32::from(status.code()) {
        code::UNAUTHENTICATED => true,
        // No token at all: authentication was switched on meanwhile. Or a signed one, and users have changed since.
        code::INVALID_ARGUMENT => is("user name is empty") || is("revision of auth store is old"),
        _ => is("invalid auth token"),
    }
}
