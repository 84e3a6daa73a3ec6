//! Removing rules for good: `ovl-agent cleanup`.

use super::iptables::Iptables;
use super::nftables::{self, FLANNELS};
use super::{Outcome, claim};

/// Removes the rules of all overlays whose agent does not run, in both modes; with `flannel` also what flanneld left.
/// Programs that are not installed left nothing. With `dry_run` it only tells what it would do.
pub async fn remove_all(flannel: bool, dry_run: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let unwanted = |name: &str| {
        let ours = name.strip_prefix("inet ovl-").is_some_and(|tag| claim(tag).is_some());
        ours || (flannel && FLANNELS.contains(&name))
    };
    nftables::remove(unwanted, dry_run, &mut outcome).await;
    Iptables::default().remove(flannel, dry_run, &mut outcome).await;
    outcome
}
