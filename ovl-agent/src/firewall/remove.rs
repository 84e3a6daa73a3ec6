//! Removing rules for good: `ovl-agent cleanup`.

use super::iptables::Iptables;
use super::nftables::{self, FLANNELS};
use super::{Outcome, claim};

/// What to remove beside the rules of overlays whose agent does not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Also {
    /// The rules of overlays whose agent runs, which may make them again.
    pub in_use: bool,
    /// What flanneld left.
    pub flannels: bool,
}

impl Also {
    /// Whether the rules of the overlay `tag` are to go.
    pub(super) fn takes(self, tag: &str) -> bool {
        self.in_use || claim(tag).is_some()
    }
}

/// Removes the rules of all overlays whose agent does not run, in both modes, and what `also` names. Programs that are
/// not installed left nothing. With `dry_run` it only tells what it would do.
pub async fn remove_all(also: Also, dry_run: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let unwanted = |name: &str| {
        // `ovl-TAG` and `ovl-verify/TAG`, each with a claim of its own.
        let ours = name.strip_prefix("inet ovl-").is_some_and(|tag| also.takes(tag));
        ours || (also.flannels && FLANNELS.contains(&name))
    };
    nftables::remove(unwanted, dry_run, &mut outcome).await;
    Iptables::default().remove(also, dry_run, &mut outcome).await;
    outcome
}
