//! A lease as annotations of a Node, name for name and text for text as flannel has it (FLANNEL.md 4.1, flannel's
//! `pkg/subnet/kube/annotations.go`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::family::{ByFamily, Family};
use crate::lease::{BackendData, LeaseAttrs};

/// What Go writes for backend data that there is none of.
const NONE: &str = "null";

/// The names of the annotations, which begin alike: `--kube-annotation-prefix`, completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotations {
    prefix: String,
}

/// The annotations of a Node as they are, or as they should be: `None` is one to be removed.
pub(super) type Present = BTreeMap<String, String>;
pub(super) type Wanted = BTreeMap<String, Option<String>>;

impl FromStr for Annotations {
    type Err = String;

    /// By flannel's rules: one `/` at most, which is added where there is none; after it a name, to which a `-` is added
    /// where it has none.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut prefix = text.to_owned();
        if !prefix.contains('/') {
            prefix.push('/');
        }
        if !prefix.ends_with(['/', '-']) {
            prefix.push('-');
        }
        let is_plain = |part: &str| {
            part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
        };
        let (domain, name) = prefix.split_once('/').unwrap_or_default();
        let is_domain = domain.split('.').count() > 1 && domain.split('.').all(|label| !label.is_empty());
        if is_domain && is_plain(domain) && is_plain(name) {
            return Ok(Self { prefix });
        }
        Err("expected a domain with a dot, and perhaps / and the beginning of a name, in small letters, digits, '-', \
             '_' and '.', such as flannel.alpha.coreos.com or example.com/pods"
            .to_owned())
    }
}

impl Annotations {
    fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    fn get<'a>(&self, present: &'a Present, suffix: &str) -> Option<&'a str> {
        present.get(&self.name(suffix)).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Whether the Node has a lease at all: only those that flannel or we wrote do.
    pub(super) fn is_managed(&self, present: &Present) -> bool {
        self.get(present, "kube-subnet-manager") == Some("true")
    }

    /// What the Node's lease says.
    ///
    /// # Errors
    /// Names the annotation, its value and what it should be.
    pub(super) fn read(&self, present: &Present) -> Result<LeaseAttrs, String> {
        let public_ip = self.address::<Ipv4Addr>(present, "public-ip", "an IPv4 address")?;
        let public_ipv6 = self.address::<Ipv6Addr>(present, "public-ipv6", "an IPv6 address")?;
        Ok(LeaseAttrs {
            public_ip: public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
            public_ipv6: public_ipv6.filter(|ip| !ip.is_unspecified()),
            backend_type: self.get(present, "backend-type").unwrap_or_default().to_owned(),
            backend_data: self.data(present, Family::V4)?,
            backend_v6_data: self.data(present, Family::V6)?,
        })
    }

    fn address<A: FromStr>(&self, present: &Present, suffix: &str, kind: &str) -> Result<Option<A>, String> {
        let Some(text) = self.get(present, suffix) else { return Ok(None) };
        let parsed = text.parse().map_err(|_error| {
            format!("its annotation {} is '{text}', which is not {kind}", self.name(suffix))
        })?;
        Ok(Some(parsed))
    }

    /// What a Node tells peers of its tunnel over one family.
    ///
    /// # Errors
    /// Where that is no JSON.
    pub(super) fn data(&self, present: &Present, family: Family) -> Result<Option<BackendData>, String> {
        let suffix = data_suffix(family);
        match self.get(present, suffix) {
            None | Some(NONE) => Ok(None),
            Some(text) => BackendData::from_text(text)
                .map(Some)
                .map_err(|error| format!("its annotation {} is not JSON: {error}", self.name(suffix))),
        }
    }

    /// The addresses that an operator wants peers to send to, in the place of the node's own.
    pub(super) fn overwrites(&self, present: &Present) -> ByFamily<IpAddr> {
        self.operators(present, ["public-ip-overwrite", "public-ipv6-overwrite"])
    }

    /// The addresses that an operator gave the node, as with `--public-ip`.
    pub(super) fn node_addresses(&self, present: &Present) -> ByFamily<IpAddr> {
        self.operators(present, ["node-public-ip", "node-public-ipv6"])
    }

    /// An operator's addresses. One that is none is passed over, aloud: the node has one of its own.
    fn operators(&self, present: &Present, [ipv4, ipv6]: [&str; 2]) -> ByFamily<IpAddr> {
        fn heed<A: Into<IpAddr>>(read: Result<Option<A>, String>) -> Option<IpAddr> {
            let heeded = read.inspect_err(|problem| tracing::warn!("{problem}; passing over it"));
            heeded.ok().flatten().map(Into::into)
        }
        ByFamily {
            v4: heed(self.address::<Ipv4Addr>(present, ipv4, "an IPv4 address")),
            v6: heed(self.address::<Ipv6Addr>(present, ipv6, "an IPv6 address")),
        }
    }

    /// What has to be written so that a Node with `present` says `attrs`; empty where it does. What was said of a family
    /// that the node does not use any more goes, where flannel leaves it.
    pub(super) fn missing(&self, present: &Present, attrs: &LeaseAttrs) -> Wanted {
        let mut wanted = Wanted::from([
            (self.name("kube-subnet-manager"), Some("true".to_owned())),
            (self.name("backend-type"), Some(attrs.backend_type.clone())),
        ]);
        for (family, suffix) in [(Family::V4, "public-ip"), (Family::V6, "public-ipv6")] {
            let address = attrs.public_ip(family);
            let data = attrs.backend_data(family).map_or(NONE, BackendData::text);
            wanted.insert(self.name(suffix), address.map(|address| address.to_string()));
            wanted.insert(self.name(data_suffix(family)), address.map(|_| data.to_owned()));
        }
        wanted.retain(|name, value| present.get(name) != value.as_ref());
        wanted
    }
}

fn data_suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "backend-data",
        Family::V6 => "backend-v6-data",
    }
}

#[cfg(test)]
mod tests;
