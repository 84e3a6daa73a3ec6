//! The parts of a Node that matter here (Kubernetes API reference, core/v1), and the lease that they are.

use std::borrow::Cow;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::annotations::{Annotations, Present};
use crate::family::{ByFamily, Family};
use crate::lease::{Lease, LeaseKey};
use crate::store::{DataPlane, Rejected};

/// A Node. A real one has fifty times as much, of which nothing is kept.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) status: Status,
}

/// The metadata that every object has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    /// A bookmark has none.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) resource_version: String,
    annotations: Option<Present>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Status {
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// A page of a list. Items are read one by one: one that makes no sense must not cost the others.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    pub(super) metadata: PageMetadata<'a>,
    #[serde(borrow)]
    pub(super) items: Vec<&'a RawValue>,
}

/// Where a page stands in its list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata<'a> {
    #[serde(borrow)]
    pub(super) resource_version: Cow<'a, str>,
    /// Where the next page begins; empty on the last.
    #[serde(borrow, default, rename = "continue")]
    pub(super) next: Cow<'a, str>,
}

/// What one line of a watch says.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// A Node of which nothing but this makes sense.
#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

/// What a Node is to the agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// It holds a subnet.
    Lease(Lease),
    /// It says so, but not in a way that can be read.
    Rejected(Rejected),
}

impl Node {
    /// Reads one. Where only its name can be read, that and what is wrong.
    ///
    /// # Errors
    /// Where it has no name either.
    pub(super) fn read(text: &RawValue) -> serde_json::Result<Result<Self, (Metadata, String)>> {
        match serde_json::from_str(text.get()) {
            Ok(node) => Ok(Ok(node)),
            Err(error) => {
                let named: Named = serde_json::from_str(text.get())?;
                Ok(Err((named.metadata, format!("it is no Node that makes sense: {error}"))))
            }
        }
    }

    /// Its annotations.
    pub(super) fn annotations(&self) -> Cow<'_, Present> {
        self.metadata.annotations.as_ref().map_or_else(Cow::default, Cow::Borrowed)
    }

    /// The subnets that Kubernetes gave it. Of several of one family the last one counts, as in flannel.
    ///
    /// # Errors
    /// Names what makes no sense.
    pub(super) fn pod_cidrs(&self) -> Result<ByFamily<IpNet>, String> {
        let texts = match self.spec.pod_cidrs.as_deref() {
            None | Some([]) => self.spec.pod_cidr.as_slice(),
            Some(texts) => texts,
        };
        if texts.len() > 2 {
            return Err(format!("it has {} podCIDRs: {}", texts.len(), texts.join(", ")));
        }
        let mut subnets = ByFamily::default();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let subnet: IpNet =
                text.parse().map_err(|_error| format!("its podCIDR '{text}' is not a subnet"))?;
            subnets.set(Family::of_net(&subnet), Some(subnet.trunc()));
        }
        Ok(subnets)
    }

    /// The lease that it is in a network of these families; `None` where no agent has made it one.
    pub(super) fn item(&self, names: &Annotations, families: ByFamily<()>) -> Option<Item> {
        let annotations = self.annotations();
        if !names.is_managed(&annotations) {
            return None;
        }
        let key = self.pod_cidrs().and_then(|subnets| {
            LeaseKey::of(subnets.within(&families))
                .ok_or_else(|| "it has no podCIDR of the network's families".to_owned())
        });
        let attrs = names.read(&annotations);
        Some(match (key, attrs) {
            (Ok(key), Ok(attrs)) => Item::Lease(Lease { key, attrs }),
            (key, attrs) => {
                let known = key.as_ref().ok().copied();
                let reasons = [key.err(), attrs.err()].into_iter().flatten().collect::<Vec<_>>();
                rejected(&self.metadata.name, known, reasons.join("; "))
            }
        })
    }

    /// Whether its condition NetworkUnavailable says this of its network; a node that has none says nothing.
    pub(super) fn says(&self, data_plane: &DataPlane) -> bool {
        let mut conditions = self.status.conditions.iter().flatten();
        let network = conditions.find(|condition| condition.r#type == NETWORK_UNAVAILABLE);
        network.is_some_and(|condition| condition.status == unavailable(data_plane))
    }
}

/// A Node that cannot be read.
pub(super) fn rejected(name: &str, key: Option<LeaseKey>, reason: String) -> Item {
    Item::Rejected(Rejected { key, item: format!("nodes/{name}"), reason, revision: 0, term: 0 })
}

/// The condition that keeps pods off a node.
pub(super) const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// Its status.
pub(super) fn unavailable(data_plane: &DataPlane) -> &'static str {
    match data_plane {
        DataPlane::Works => "False",
        DataPlane::Broken(_) => "True",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUAL: ByFamily<()> = ByFamily { v4: Some(()), v6: Some(()) };

    fn node(spec: &str, annotations: &[(&str, &str)]) -> Node {
        let annotations: Vec<_> = annotations
            .iter()
            .map(|(suffix, value)| format!(r#""flannel.alpha.coreos.com/{suffix}":{value:?}"#))
            .collect();
        let text = format!(
            r#"{{"metadata":{{"name":"n1","annotations":{{{}}}}},"spec":{spec}}}"#,
            annotations.join(",")
        );
        serde_json::from_str(&text).expect("a node")
    }

    fn said(node: &Node, families: ByFamily<()>) -> String {
        match node.item(&"flannel.alpha.coreos.com".parse().expect("the default"), families) {
            None => "none".to_owned(),
            Some(Item::Lease(lease)) => lease.key.to_string(),
            Some(Item::Rejected(item)) => {
                let key = item.key.map(|key| format!(" ({key})")).unwrap_or_default();
                format!("{}{key}: {}", item.item, item.reason)
            }
        }
    }

    #[test]
    fn a_lease_is_read_as_flannel_reads_it_but_family_by_family() {
        let ipv4 = ByFamily { v4: Some(()), v6: None };
        let table = [
            (r#"{"podCIDR":"10.42.1.0/24"}"#, DUAL, "10.42.1.0-24"),
            (r#"{"podCIDR":"10.42.9.0/24","podCIDRs":["10.42.1.7/24"]}"#, DUAL, "10.42.1.0-24"),
            (r#"{"podCIDR":"10.42.9.0/24","podCIDRs":[]}"#, DUAL, "10.42.9.0-24"),
            (r#"{"podCIDRs":["10.42.1.0/24","fd42:0:0:1::/64"]}"#, DUAL, "10.42.1.0-24&fd42:0:0:1::-64"),
            (r#"{"podCIDRs":["fd42:0:0:1::/64","10.42.1.0/24"]}"#, ipv4, "10.42.1.0-24"),
            (r#"{"podCIDRs":["10.42.1.0/24","10.42.2.0/24"]}"#, DUAL, "10.42.2.0-24"),
            (
                r#"{"podCIDRs":["fd42:0:0:1::/64"]}"#,
                ipv4,
                "nodes/n1: it has no podCIDR of the network's families",
            ),
            (r#"{"podCIDRs":["a","b","c"]}"#, DUAL, "nodes/n1: it has 3 podCIDRs: a, b, c"),
            (r#"{"podCIDR":"garbage"}"#, DUAL, "nodes/n1: its podCIDR 'garbage' is not a subnet"),
            ("{}", DUAL, "nodes/n1: it has no podCIDR of the network's families"),
        ];
        for (spec, families, expected) in table {
            let node = node(spec, &[("kube-subnet-manager", "true"), ("public-ip", "192.0.2.1")]);
            assert_eq!(said(&node, families), expected, "{spec}");
        }
    }

    #[test]
    fn a_node_that_nobody_manages_has_no_lease_and_one_that_is_half_readable_keeps_its_subnet() {
        let spec = r#"{"podCIDR":"10.42.1.0/24"}"#;
        for annotations in [&[][..], &[("kube-subnet-manager", "false")], &[("public-ip", "192.0.2.1")]] {
            assert_eq!(said(&node(spec, annotations), DUAL), "none");
        }
        let half = node(spec, &[("kube-subnet-manager", "true"), ("public-ip", "x"), ("public-ipv6", "::1")]);
        let said = said(&half, DUAL);
        assert!(said.starts_with("nodes/n1 (10.42.1.0-24): its annotation"), "{said}");
    }

    #[test]
    fn a_node_of_the_wrong_shape_is_still_named() {
        let read = |text: &str| Node::read(&RawValue::from_string(text.to_owned()).expect("JSON"));
        let odd =
            read(r#"{"metadata":{"name":"n1"},"spec":{"podCIDR":7}}"#).expect("named").expect_err("odd");
        assert_eq!(odd.0.name, "n1");
        assert!(odd.1.contains("invalid type"), "{}", odd.1);
        read(r#"{"metadata":7}"#).expect_err("nothing to name");
    }

    #[test]
    fn a_condition_says_what_it_says() {
        let broken = DataPlane::Broken(String::new());
        let node = |status: &str| -> Node {
            let text = format!(r#"{{"metadata":{{"name":"n1"}},"status":{status}}}"#);
            serde_json::from_str(&text).expect(status)
        };
        let with = |status: &str| {
            node(&format!(
                r#"{{"conditions":[{{"type":"Ready","status":"True"}},{{"type":"NetworkUnavailable","status":"{status}"}}]}}"#
            ))
        };
        assert!(with("False").says(&DataPlane::Works) && !with("False").says(&broken));
        assert!(with("True").says(&broken) && !with("True").says(&DataPlane::Works));
        assert!(!node("{}").says(&DataPlane::Works) && !node("{}").says(&broken));
    }
}
