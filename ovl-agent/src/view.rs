//! What is known of the leases.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::lease::{Lease, LeaseAttrs, LeaseKey};
use crate::store::Rejected;

/// All leases, as of the store's last word.
#[derive(Debug, Default)]
pub struct View {
    leases: BTreeMap<LeaseKey, Entry>,
    complete: bool,
}

#[derive(Debug)]
struct Entry {
    attrs: LeaseAttrs,
    /// When it appeared or said something else than before.
    changed: Instant,
}

impl View {
    /// Replaces everything by a complete listing. What the listing names but cannot be read keeps what is known of it.
    pub fn replace(&mut self, leases: Vec<Lease>, rejected: &[Rejected]) {
        let mut before = std::mem::take(&mut self.leases);
        let kept = rejected.iter().filter_map(|item| item.key);
        self.leases = kept.filter_map(|key| before.remove_entry(&key)).collect();
        for lease in leases {
            let known = before.remove(&lease.key).filter(|entry| entry.attrs == lease.attrs);
            let entry = known.unwrap_or_else(|| Entry { attrs: lease.attrs, changed: Instant::now() });
            self.leases.insert(lease.key, entry);
        }
        self.complete = true;
    }

    /// Adds or changes one lease.
    pub fn put(&mut self, lease: Lease) {
        if self.get(lease.key) != Some(&lease.attrs) {
            self.leases.insert(lease.key, Entry { attrs: lease.attrs, changed: Instant::now() });
        }
    }

    /// Removes one lease.
    pub fn delete(&mut self, key: LeaseKey) {
        self.leases.remove(&key);
    }

    /// Whether there ever was a complete listing: before that, nothing may be concluded from a lease's absence.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// What `key` says now.
    pub fn get(&self, key: LeaseKey) -> Option<&LeaseAttrs> {
        self.leases.get(&key).map(|entry| &entry.attrs)
    }

    /// Every lease, in order of its subnet.
    pub fn iter(&self) -> impl Iterator<Item = (&LeaseKey, &LeaseAttrs)> {
        self.leases.iter().map(|(key, entry)| (key, &entry.attrs))
    }

    /// As [`View::iter`], with when each appeared or last changed.
    pub fn iter_with_age(&self) -> impl Iterator<Item = (&LeaseKey, &LeaseAttrs, Instant)> {
        self.leases.iter().map(|(key, entry)| (key, &entry.attrs, entry.changed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(key: &str, node: [u8; 4]) -> Lease {
        Lease {
            key: key.parse().expect(key),
            attrs: LeaseAttrs {
                public_ip: node.into(),
                public_ipv6: None,
                backend_type: "vxlan".into(),
                backend_data: None,
                backend_v6_data: None,
            },
        }
    }

    fn keys(view: &View) -> Vec<String> {
        view.iter().map(|(key, _)| key.to_string()).collect()
    }

    #[test]
    fn a_listing_replaces_everything_but_what_it_could_not_read() {
        let mut view = View::default();
        assert!(!view.is_complete());
        view.replace(vec![lease("10.1.1.0-24", [1; 4]), lease("10.1.2.0-24", [2; 4])], &[]);
        assert!(view.is_complete());
        let unreadable = |key: &str| Rejected {
            key: Some(key.parse().expect(key)),
            item: key.into(),
            reason: "garbage".into(),
            revision: 0,
            term: 0,
        };
        view.replace(
            vec![lease("10.1.3.0-24", [3; 4])],
            &[unreadable("10.1.2.0-24"), unreadable("10.1.9.0-24")],
        );
        assert_eq!(keys(&view), ["10.1.2.0-24", "10.1.3.0-24"]);
    }

    #[test]
    fn the_age_is_that_of_the_last_change() {
        let mut view = View::default();
        let age = |view: &View| view.iter_with_age().next().map(|(.., changed)| changed);
        view.put(lease("10.1.1.0-24", [1; 4]));
        let first = age(&view);
        view.put(lease("10.1.1.0-24", [1; 4]));
        view.replace(vec![lease("10.1.1.0-24", [1; 4])], &[]);
        assert_eq!(age(&view), first, "said again is not changed");
        view.put(lease("10.1.1.0-24", [2; 4]));
        assert_ne!(age(&view), first);
    }
}
