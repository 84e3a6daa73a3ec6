//! Embeds the BPF object, so that one binary is the whole product.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=OVL_BPF_OBJECT");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = manifest.parent().unwrap_or(manifest);
    let object =
        env::var_os("OVL_BPF_OBJECT").map_or_else(|| workspace.join("target/ovl.bpf.o"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let embedded = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("ovl.bpf.o");
    let bytes = fs::read(&object).unwrap_or_default();
    if bytes.is_empty() {
        println!(
            "cargo:warning=no BPF object at {}: this ovl-agent will only have the kernel path. \
             Run `cargo xtask build-ebpf`, then build again.",
            object.display()
        );
    }
    fs::write(embedded, bytes).expect("OUT_DIR can be written");
}
