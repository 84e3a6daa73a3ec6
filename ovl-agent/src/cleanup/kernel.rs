//! The kernel's answers over rtnetlink.

use std::io;

use anyhow::{Error, Result};
use nix::libc::{EADDRNOTAVAIL, ENODEV, ENOENT, ESRCH};

/// The kernel's reason in its own words.
pub(super) fn describe(error: rtnetlink::Error) -> Error {
    match code(&error) {
        Some(code) => io::Error::from_raw_os_error(code).into(),
        None => error.into(),
    }
}

/// Removing what is gone is a success.
pub(super) fn absent_is_success(result: Result<(), rtnetlink::Error>) -> Result<()> {
    match result {
        Err(error)
            if code(&error).is_some_and(|code| [ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL].contains(&code)) =>
        {
            Ok(())
        }
        other => other.map_err(describe),
    }
}

fn code(error: &rtnetlink::Error) -> Option<i32> {
    if let rtnetlink::Error::NetlinkError(message) = error { Some(message.raw_code().abs()) } else { None }
}
