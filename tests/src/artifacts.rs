//! Where the built things are that tests run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The environment variable with the path of the agent's binary.
pub const AGENT_VARIABLE: &str = "OVL_AGENT";

/// The environment variable with the path of the BPF object.
pub const BPF_OBJECT_VARIABLE: &str = "OVL_BPF_OBJECT_PATH";

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Cargo's target folder of the workspace.
pub fn target() -> PathBuf {
    workspace().join("target")
}

/// The agent's binary: `OVL_AGENT`, else the debug build.
pub fn agent_binary() -> Result<PathBuf> {
    find(AGENT_VARIABLE, &target().join("debug/ovl-agent"), "the agent's binary")
}

/// The BPF object: `OVL_BPF_OBJECT_PATH`, else where `cargo xtask build-ebpf` puts it.
pub fn bpf_object() -> Result<PathBuf> {
    find(BPF_OBJECT_VARIABLE, &target().join("ovl.bpf.o"), "the BPF object")
}

fn find(variable: &str, usual: &Path, what: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map_or_else(|| usual.to_owned(), PathBuf::from);
    if !path.is_file() {
        bail!(
            "{what} is not at {}; run the tests with `cargo xtask test`, which builds it (or set {variable})",
            path.display()
        );
    }
    // It is run in other folders, too.
    std::path::absolute(&path).with_context(|| format!("where {} is", path.display()))
}
