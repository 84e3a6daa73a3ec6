//! What is pinned in a node, as `bpftool` shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use ovl_common::ABI;
use ovl_tests::node::Node;
use serde_json::Value;

use crate::attachments::attached;

/// The folder of an overlay's pins, as the node sees it.
pub(super) fn folder(node: &Node) -> Result<String> {
    let namespace = fs::metadata(node.netns().path())?.ino();
    Ok(format!("/sys/fs/bpf/ovl/10_42_0_0_16-{namespace}"))
}

/// The names in a folder of the node; none where there is no such folder.
pub(super) fn names_in(node: &Node, folder: &str) -> Result<BTreeSet<String>> {
    let listed = node.command("ls").arg(folder).output()?;
    Ok(String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect())
}

/// What `bpftool` says of a pin.
pub(crate) fn shown(node: &Node, what: &str, name: &str) -> Result<Value> {
    let path = format!("{}/abi-{ABI}/{name}", folder(node)?);
    let text = node.command("bpftool").words(&format!("-j {what} pinned")).arg(path).run()?;
    serde_json::from_str(&text).context("parse what bpftool says")
}

fn number(shown: &Value, member: &str) -> Result<u64> {
    shown[member].as_u64().with_context(|| format!("bpftool says no {member}: {shown}"))
}

/// Everything pinned for an overlay in a node, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pinned {
    pub(super) maps: BTreeMap<String, u64>,
    pub(super) programs: BTreeMap<String, u64>,
    /// The programs that are pinned by what they were loaded from.
    pub(super) identified: BTreeSet<u64>,
    /// The link and the program that it runs.
    pub(super) links: BTreeMap<String, (u64, u64)>,
}

impl Pinned {
    pub(super) fn read(node: &Node) -> Result<Self> {
        let mut pinned = Self::default();
        for name in names_in(node, &format!("{}/abi-{ABI}", folder(node)?))? {
            if name.starts_with("link-") {
                let link = shown(node, "link show", &name)?;
                pinned.links.insert(name, (number(&link, "id")?, number(&link, "prog_id")?));
            } else if name.starts_with("prog-") {
                let id = number(&shown(node, "prog show", &name)?, "id")?;
                pinned.programs.insert(name, id);
            } else if name.starts_with("object-") {
                // The same again, by what they were loaded from.
                let id = number(&shown(node, "prog show", &name)?, "id")?;
                ensure!(pinned.identified.insert(id), "{name} is one of several");
            } else {
                let id = number(&shown(node, "map show", &name)?, "id")?;
                pinned.maps.insert(name, id);
            }
        }
        Ok(pinned)
    }

    /// Link by link, whatever program it runs.
    pub(super) fn link_ids(&self) -> BTreeMap<&str, u64> {
        self.links.iter().map(|(name, (link, _))| (name.as_str(), *link)).collect()
    }

    pub(super) fn running(&self) -> BTreeSet<u64> {
        self.links.values().map(|(_, program)| *program).collect()
    }
}

/// The programs that run on the node's interfaces.
pub(super) fn running(node: &Node) -> Result<BTreeSet<u64>> {
    Ok(attached(node)?.into_iter().map(|attached| attached.id.into()).collect())
}

/// The flows that are known, by the bytes of their keys.
pub(super) fn flows(node: &Node) -> Result<BTreeSet<String>> {
    let rows = shown(node, "map dump", "OVL_FLOWS")?;
    let rows = rows.as_array().context("bpftool dumps no list")?;
    Ok(rows.iter().map(|row| row["key"].to_string()).collect())
}

/// The pods of each flow that is known: the one here and the other.
pub(crate) fn flow_addresses(node: &Node) -> Result<Vec<(IpAddr, IpAddr)>> {
    let rows = shown(node, "map dump", "OVL_FLOWS")?;
    let address =
        |bytes: &[u8]| -> Result<IpAddr> { Ok(Ipv6Addr::from(<[u8; 16]>::try_from(bytes)?).to_canonical()) };
    let pods = |row: &Value| {
        let bytes = row["key"].as_array().context("a row has no key")?;
        let byte = |byte: &Value| u8::from_str_radix(byte.as_str()?.strip_prefix("0x")?, 16).ok();
        let bytes: Option<Vec<u8>> = bytes.iter().map(byte).collect();
        let bytes = bytes.filter(|bytes| bytes.len() >= 32).context("a key is no list of bytes")?;
        Ok((address(&bytes[..16])?, address(&bytes[16..32])?))
    };
    rows.as_array().context("bpftool dumps no list")?.iter().map(pods).collect()
}
