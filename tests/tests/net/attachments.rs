//! Which programs are attached by tcx in a node. Debian 12's bpftool does not show them, so this asks the kernel
//! through aya.

use std::collections::BTreeSet;

use anyhow::Result;
use aya::programs::{SchedClassifier, TcAttachType};
use ovl_tests::command::Cmd;
use ovl_tests::links;
use ovl_tests::node::Node;
use serde_json::Value;

/// An attached program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attached {
    pub(crate) interface: String,
    pub(crate) program: String,
    pub(crate) id: u32,
}

/// Everything attached to a node's interfaces.
pub(crate) fn attached(node: &Node) -> Result<BTreeSet<Attached>> {
    let interfaces: Vec<String> = links::ip_json(node.netns(), "link show")?
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|link| link["ifname"].as_str().map(str::to_owned))
        .collect();
    let ask = || -> Result<BTreeSet<Attached>> {
        let mut found = BTreeSet::new();
        for interface in interfaces {
            for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_, programs) = SchedClassifier::query_tcx(&interface, direction)?;
                for program in programs {
                    let name = program.name_as_str().unwrap_or_default().to_owned();
                    found.insert(Attached { interface: interface.clone(), program: name, id: program.id() });
                }
            }
        }
        Ok(found)
    };
    node.netns().inside(ask)?
}

/// The names of the programs that see what comes in on an interface, the first one first.
pub(crate) fn order(node: &Node, interface: &str) -> Result<Vec<String>> {
    let ask = || SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
    let (_, programs) = node.netns().inside(ask)??;
    Ok(programs.iter().filter_map(|program| program.name_as_str().map(str::to_owned)).collect())
}

/// Detaches everything, as another tool could, and returns the links that this made useless.
pub(crate) fn detach_everything(node: &Node) -> Result<BTreeSet<u64>> {
    let programs: BTreeSet<u64> = attached(node)?.into_iter().map(|attached| attached.id.into()).collect();
    let links = links_of(|program| programs.contains(&program))?;
    anyhow::ensure!(links.len() >= 3, "bpftool shows only the links {links:?} of programs {programs:?}");
    for link in &links {
        let detached = Cmd::host("bpftool").words(&format!("link detach id {link}")).run();
        // The agent may have put another in the place of one, having seen that the first were detached.
        if detached.is_err() && !links_of(|_| true)?.contains(link) {
            continue;
        }
        detached?;
    }
    Ok(links)
}

/// The BPF links of this machine whose program is `wanted`.
pub(crate) fn links_of(wanted: impl Fn(u64) -> bool) -> Result<BTreeSet<u64>> {
    let shown: Value = serde_json::from_str(&Cmd::host("bpftool").words("-j link list").run()?)?;
    let links = shown.as_array().into_iter().flatten();
    let links = links.filter(|link| link["prog_id"].as_u64().is_some_and(&wanted));
    Ok(links.filter_map(|link| link["id"].as_u64()).collect())
}
