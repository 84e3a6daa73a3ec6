//! What can go wrong with a request, told apart by what is to be done about it.

use std::error::Error as _;

use etcd_client::Error;

use super::connect::OpenError;
use crate::store::StoreError;

/// Status codes of gRPC.
pub(super) mod code {
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const NOT_FOUND: i32 = 5;
    pub(crate) const PERMISSION_DENIED: i32 = 7;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
    pub(crate) const UNAUTHENTICATED: i32 = 16;
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No member answered; what was asked may still have been done.
    Unreachable(String),
    /// This member and we don't get along with each other's certificates. Another one may do.
    Untrusted(String),
    /// What was asked for is not there: an etcd lease that has ended.
    Missing(String),
    /// We may not.
    Denied(String),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(text) | Failure::Missing(text) => Self::Unavailable(text),
            Failure::Untrusted(text) | Failure::Denied(text) => Self::Refused(text),
        }
    }
}

impl Failure {
    /// One sentence.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Unreachable(text) | Self::Untrusted(text) | Self::Missing(text) | Self::Denied(text) => {
                text
            }
        }
    }

    /// Reads an error of the member called `name`, which knows us as `user`.
    pub(super) fn of(error: &Error, name: &str, user: Option<&str>) -> Self {
        let text = format!("{name}: {}", one_line(error));
        let Error::GRpcStatus(status) = error else { return Self::Unreachable(text) };
        if let Some(OpenError::Untrusted(_)) = open_error(status) {
            return Self::Untrusted(text);
        }
        match i32::from(status.code()) {
            code::NOT_FOUND => Self::Missing(text),
            code::INVALID_ARGUMENT
            | code::PERMISSION_DENIED
            | code::UNIMPLEMENTED
            | code::UNAUTHENTICATED => Self::Denied(format!("{text}{}", advice(status.message(), user))),
            _ => Self::Unreachable(text),
        }
    }
}

/// What to try where etcd says no.
fn advice(message: &str, user: Option<&str>) -> String {
    let who = user.map_or_else(|| "this agent".to_owned(), |user| format!("user '{user}'"));
    if message.contains("user name is empty") {
        "; etcd wants a user: give --etcd-username and --etcd-password".to_owned()
    } else if message.contains("authentication failed") {
        format!("; check --etcd-username ({who}) and --etcd-password")
    } else if message.contains("permission denied") {
        format!("; give {who} a role that may read and write all keys below --etcd-prefix")
    } else {
        String::new()
    }
}

/// What is wrong, without the layers of the client library around it.
pub(super) fn one_line(error: &Error) -> String {
    let text = if let Error::GRpcStatus(status) = error {
        match (open_error(status), status.source()) {
            (Some(error), _) => error.to_string(),
            (None, Some(source)) => root_cause(source),
            (None, None) => status.message().to_owned(),
        }
    } else if let Error::TransportError(error) = error {
        root_cause(error)
    } else {
        error.to_string()
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a connection came about and then broke before there was an answer.
pub(super) fn is_broken_connection(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    // What the server says has no source.
    status.source().is_some() && open_error(status).is_none()
}

/// Why no connection came about, where that is the matter.
fn open_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a OpenError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The last of an error's causes.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
