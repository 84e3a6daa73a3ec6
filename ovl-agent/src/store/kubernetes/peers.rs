//! The leases of all Nodes, as of the last listing and every event since: what a watch has to say about each.

use std::collections::BTreeMap;

use super::node::Item;
use crate::lease::{Lease, LeaseKey};
use crate::store::{Rejected, Update};

/// Every Node that is, or should be, a lease.
#[derive(Debug)]
pub(super) struct Peers {
    /// This node's own name: of two that say they have one subnet, it is right.
    own: String,
    items: BTreeMap<String, Item>,
}

impl Peers {
    pub(super) fn new(own: &str) -> Self {
        Self { own: own.to_owned(), items: BTreeMap::new() }
    }

    /// Takes a whole listing in.
    pub(super) fn replace(&mut self, mut items: BTreeMap<String, Item>) {
        for (name, item) in &mut items {
            self.keep_subnet(name, item);
        }
        self.items = items;
    }

    /// This node's own lease, as it stands there.
    pub(super) fn own_lease(&self) -> Option<&Lease> {
        if let Some(Item::Lease(lease)) = self.items.get(&self.own) { Some(lease) } else { None }
    }

    /// Takes in what a Node is now, `None` where it is no lease any more, and says what that changes.
    ///
    /// What concerns more than one subnet is said by a snapshot: it leaves no moment in which a subnet is nobody's.
    pub(super) fn set(&mut self, name: &str, item: Option<Item>) -> Option<Update> {
        let item = item.map(|mut item| {
            self.keep_subnet(name, &mut item);
            item
        });
        let before = match item.clone() {
            Some(item) => self.items.insert(name.to_owned(), item),
            None => self.items.remove(name),
        };
        if before == item {
            return None;
        }
        Some(match (before, item) {
            (None, Some(Item::Lease(lease))) if self.is_alone(name, lease.key) => Update::Put(lease),
            (Some(Item::Lease(before)), Some(Item::Lease(lease)))
                if before.key == lease.key && self.is_alone(name, lease.key) =>
            {
                Update::Put(lease)
            }
            (Some(Item::Lease(before)), None) if self.is_alone(name, before.key) => {
                Update::Delete(before.key)
            }
            (None, Some(Item::Rejected(item))) => Update::Rejected(item),
            // Only where it is the subnet that it had. Another one is told to go.
            (Some(Item::Lease(before)), Some(Item::Rejected(item))) if item.key == Some(before.key) => {
                Update::Rejected(item)
            }
            _ => self.snapshot(),
        })
    }

    /// All leases, and what cannot be one.
    pub(super) fn snapshot(&self) -> Update {
        let own = self.items.get_key_value(&self.own);
        let others = self.items.iter().filter(|(name, _)| **name != self.own);
        let (mut holders, mut leases, mut rejected) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (name, item) in own.into_iter().chain(others) {
            match item {
                Item::Rejected(item) => rejected.push(item.clone()),
                Item::Lease(lease) => match holders.get(&lease.key) {
                    None => {
                        holders.insert(lease.key, name);
                        leases.push(lease.clone());
                    }
                    Some(holder) => rejected.push(Rejected {
                        key: None,
                        item: format!("nodes/{name}"),
                        reason: format!(
                            "its subnets {} are those of nodes/{holder}, too",
                            lease.key.subnets()
                        ),
                        revision: 0,
                        term: 0,
                    }),
                },
            }
        }
        Update::Snapshot { leases, rejected }
    }

    /// Where it cannot be read which subnet it is of, that which was known of this Node stays.
    fn keep_subnet(&self, name: &str, item: &mut Item) {
        if let Item::Rejected(item) = item
            && item.key.is_none()
        {
            item.key = match self.items.get(name) {
                Some(Item::Lease(lease)) => Some(lease.key),
                Some(Item::Rejected(before)) => before.key,
                None => None,
            };
        }
    }

    /// Whether no other Node says that it has this subnet.
    fn is_alone(&self, name: &str, key: LeaseKey) -> bool {
        let others = self.items.iter().filter(|(other, _)| *other != name);
        !others.into_iter().any(|(_, item)| matches!(item, Item::Lease(lease) if lease.key == key))
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::rejected;
    use super::*;

    fn lease(key: &str, node: u8) -> Item {
        let text = format!(r#"{{"PublicIP":"192.0.2.{node}","BackendType":"vxlan"}}"#);
        let attrs = serde_json::from_str(&text).expect("a lease");
        Item::Lease(Lease { key: key.parse().expect(key), attrs })
    }

    fn said(update: Option<Update>) -> String {
        match update {
            None => "nothing".to_owned(),
            Some(Update::Put(lease)) => format!("put {} {}", lease.key, lease.attrs.public_ip),
            Some(Update::Delete(key)) => format!("delete {key}"),
            Some(Update::Rejected(item)) => format!("rejected {}", item.item),
            Some(Update::Snapshot { leases, rejected }) => {
                let leases: Vec<_> =
                    leases.iter().map(|lease| format!("{} {}", lease.key, lease.attrs.public_ip)).collect();
                let rejected: Vec<_> = rejected.iter().map(|item| item.item.clone()).collect();
                format!("all {} but {}", leases.join(","), rejected.join(","))
            }
            Some(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn every_change_is_said_once_and_without_a_gap() {
        let (a, b) = ("10.42.1.0-24", "10.42.2.0-24");
        let garbage = || Some(rejected("n1", None, "garbage".into()));
        let table: Vec<(&str, Option<Item>, &str)> = vec![
            ("n1", Some(lease(a, 1)), "put 10.42.1.0-24 192.0.2.1"),
            ("n1", Some(lease(a, 1)), "nothing"),
            ("n1", Some(lease(a, 7)), "put 10.42.1.0-24 192.0.2.7"),
            // Another subnet, or one more: both change at one moment.
            ("n1", Some(lease(b, 7)), "all 10.42.2.0-24 192.0.2.7 but "),
            ("n1", garbage(), "rejected nodes/n1"),
            ("n1", Some(lease(b, 7)), "all 10.42.2.0-24 192.0.2.7 but "),
            // Two with one subnet.
            ("n2", Some(lease(b, 2)), "all 10.42.2.0-24 192.0.2.7 but nodes/n2"),
            ("n1", None, "all 10.42.2.0-24 192.0.2.2 but "),
            ("me", Some(lease(b, 9)), "all 10.42.2.0-24 192.0.2.9 but nodes/n2"),
            ("n2", None, "all 10.42.2.0-24 192.0.2.9 but "),
            ("me", None, "delete 10.42.2.0-24"),
            ("n3", None, "nothing"),
            ("n3", Some(rejected("n3", None, "garbage".into())), "rejected nodes/n3"),
            ("n3", None, "all  but "),
            // Another subnet, and garbage at once: the old subnet is nobody's.
            ("n4", Some(lease(a, 4)), "put 10.42.1.0-24 192.0.2.4"),
            ("n4", Some(rejected("n4", Some(b.parse().expect(b)), "garbage".into())), "all  but nodes/n4"),
        ];
        let mut peers = Peers::new("me");
        for (step, (name, item, expected)) in table.into_iter().enumerate() {
            assert_eq!(said(peers.set(name, item)), expected, "step {step}");
        }
    }

    #[test]
    fn what_turns_to_garbage_keeps_its_subnet() {
        let mut peers = Peers::new("me");
        let garbage = || rejected("n1", None, "garbage".into());
        peers.set("n1", Some(lease("10.42.1.0-24", 1)));
        for _ in 0..2 {
            peers.replace(BTreeMap::from([("n1".to_owned(), garbage())]));
            let Update::Snapshot { rejected, .. } = peers.snapshot() else { panic!("a snapshot") };
            assert_eq!(rejected[0].key.map(|key| key.to_string()).as_deref(), Some("10.42.1.0-24"));
        }
    }
}
