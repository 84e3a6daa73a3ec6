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

/// What etcd's own messages begin with.
const ETCDS: &str = "etcdserver: ";

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No member answered; what was asked may still have been done.
    Unreachable(String),
    /// This member and we don't get along: one's certificate is not to the other's liking, or what answers is no etcd.
    /// Another one may do.
    Untrusted(String),
    /// What was asked for is not there: an etcd lease that has ended.
    Missing(String),
    /// etcd says that we may not.
    Denied(String),
    /// etcd does not know our user, or by another password.
    WrongLogin(String),
}

/// A certificate, a role or a proxy can be mended without us, so that is waited for, as flannel does. As there, a user
/// whom etcd turns away is an error at once.
impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(text)
            | Failure::Missing(text)
            | Failure::Untrusted(text)
            | Failure::Denied(text) => Self::Unavailable(text),
            Failure::WrongLogin(text) => Self::Refused(text),
        }
    }
}

impl Failure {
    /// One sentence.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Unreachable(text)
            | Self::Untrusted(text)
            | Self::Missing(text)
            | Self::Denied(text)
            | Self::WrongLogin(text) => text,
        }
    }

    /// What it comes to when each member fails. A word of etcd counts more than silence; but of two that keep silent and
    /// don't suit us, the silent one may be the right one.
    pub(super) fn of_all(failures: Vec<Self>) -> Self {
        let has = |kind: fn(&Self) -> bool| failures.iter().any(kind);
        let kind = if has(|failure| matches!(failure, Self::WrongLogin(_))) {
            Self::WrongLogin
        } else if has(|failure| matches!(failure, Self::Denied(_))) {
            Self::Denied
        } else if failures.iter().all(|failure| matches!(failure, Self::Untrusted(_))) {
            Self::Untrusted
        } else {
            Self::Unreachable
        };
        kind(failures.into_iter().map(Self::into_text).collect::<Vec<_>>().join("; "))
    }

    /// Reads an error of the member called `name`, which knows us as `user`.
    pub(super) fn of(error: &Error, name: &str, user: Option<&str>) -> Self {
        let text = format!("{name}: {}", one_line(error));
        let Error::GRpcStatus(status) = error else { return Self::Unreachable(text) };
        if let Some(OpenError::Untrusted(_)) = open_error(status) {
            return Self::Untrusted(text);
        }
        let is_etcds = status.message().starts_with(ETCDS);
        match i32::from(status.code()) {
            code::INVALID_ARGUMENT if status.message().contains("authentication failed") => {
                let who = who(user);
                Self::WrongLogin(format!("{text}; check --etcd-username ({who}) and --etcd-password"))
            }
            code::NOT_FOUND if is_etcds => Self::Missing(text),
            code::INVALID_ARGUMENT | code::PERMISSION_DENIED | code::UNAUTHENTICATED if is_etcds => {
                Self::Denied(format!("{text}{}", advice(status.message(), user)))
            }
            // What the client makes of HTTP's 401, 403 and 404, too.
            code::PERMISSION_DENIED | code::UNAUTHENTICATED | code::UNIMPLEMENTED => {
                Self::Untrusted(format!("{text}; it is no etcd, or a proxy that does not let us through"))
            }
            _ => Self::Unreachable(text),
        }
    }
}

fn who(user: Option<&str>) -> String {
    user.map_or_else(|| "this agent".to_owned(), |user| format!("user '{user}'"))
}

/// What to try where etcd says no.
fn advice(message: &str, user: Option<&str>) -> String {
    if message.contains("user name is empty") {
        "; etcd wants a user: give --etcd-username and --etcd-password".to_owned()
    } else if message.contains("permission denied") {
        let who = who(user);
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
