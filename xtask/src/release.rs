//! The agent as it is released: optimised, with the BPF object inside.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use ovl_tests::artifacts;

use crate::toolchain::Wanted;
use crate::{ebpf, shell};

/// Builds it and says where it is; one that `OVL_AGENT` names is taken as it is.
pub(crate) fn build_agent() -> Result<PathBuf> {
    if std::env::var_os(artifacts::AGENT_VARIABLE).is_some() {
        return artifacts::agent_binary();
    }
    ebpf::build(Wanted::Auto)?;
    shell::step("building the agent, optimised (minutes, the first time)");
    shell::run(shell::cargo().args(["build", "--release", "--quiet", "-p", "ovl-agent"]))
        .context("build the agent")?;
    Ok(artifacts::target().join("release/ovl-agent"))
}
