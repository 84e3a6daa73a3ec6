//! Looks at the machine for the parts of the BPF toolchains.

use std::path::{Path, PathBuf};

use ovl_tests::artifacts;

use crate::machine;
use crate::shell::ask;
use crate::toolchain::{Found, Release};

/// The distribution's compiler.
pub(crate) const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// The compilation target.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Everything there is.
pub(crate) fn look() -> Found {
    let system_rustc = system_rustc();
    let nightly = ask_nightly(&["rustc", "--version"]).and_then(|text| Release::parse(&text));
    Found {
        bpf_core: system_rustc.is_some() && has_bpf_core(),
        system_rustc,
        llvm: Path::new("/usr/lib/llvm-22/include/llvm-c").is_dir()
            && Path::new("/usr/lib/llvm-22/lib/libPolly.a").exists(),
        linker: linker().map(|(_, version)| version),
        rust_src: nightly.is_some() && has_rust_src(),
        nightly,
    }
}

/// A bpf-linker that starts, and its version: ours first, since we know which LLVM it was built with.
pub(crate) fn linker() -> Option<(PathBuf, String)> {
    let ours = artifacts::target().join("tools/bin/bpf-linker");
    [Some(ours), machine::find_program("bpf-linker")].into_iter().flatten().find_map(|path| {
        let version = ask(path.to_str()?, &["--version"])?;
        Some((path, version.trim_start_matches("bpf-linker ").to_owned()))
    })
}

/// A rustup proxy in /usr/bin, from Debian's package rustup, has another sysroot and does not count.
fn system_rustc() -> Option<Release> {
    (ask(SYSTEM_RUSTC, &["--print", "sysroot"])? == "/usr").then_some(())?;
    Release::parse(&ask(SYSTEM_RUSTC, &["--version"])?)
}

/// rustc names the folder whether it is there or not.
fn has_bpf_core() -> bool {
    let folder = ask(SYSTEM_RUSTC, &["--print", "target-libdir", "--target", TARGET]);
    let entries = folder.and_then(|folder| Path::new(&folder).read_dir().ok());
    entries.is_some_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libcore-")))
    })
}

fn has_rust_src() -> bool {
    let sysroot = ask_nightly(&["rustc", "--print", "sysroot"]);
    sysroot.is_some_and(|sysroot| {
        Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    })
}

/// Asks the nightly, and never makes rustup fetch one.
fn ask_nightly(command: &[&str]) -> Option<String> {
    let toolchains = ask("rustup", &["toolchain", "list"])?;
    toolchains.lines().any(|line| line.starts_with("nightly")).then_some(())?;
    let arguments: Vec<_> = ["run", "nightly"].iter().chain(command).copied().collect();
    ask("rustup", &arguments)
}
