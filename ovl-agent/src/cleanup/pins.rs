//! What agents pinned: tcx links, programs and maps. With its last pin a program is taken off.

use anyhow::Result;

use super::{Leftover, Removal};
use crate::bpf::pins;

/// The folders of every overlay of this network namespace.
pub(super) fn find() -> Result<Vec<Leftover>> {
    let leftover = |path: std::path::PathBuf| Leftover {
        what: format!("programs and maps in {}", path.display()),
        how: Removal::Pins(path),
    };
    Ok(pins::all()?.into_iter().map(leftover).collect())
}
