//! Installs the parts of a BPF toolchain that are missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use ovl_tests::artifacts;

use crate::toolchain::{Choice, Missing, Part, Wanted};
use crate::{machine, setup, shell};

/// The version of bpf-linker that is known to work.
const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Which way to complete: Debian's where apt-get works, else rustup's when there is a nightly to start from.
pub(crate) fn way_to_complete(missing: &Missing, wanted: Wanted, apt_works: bool) -> Option<Choice> {
    let only_linker = missing.debian == [Part::Linker];
    if wanted != Wanted::Rustup && (apt_works || only_linker) {
        Some(Choice::Debian)
    } else if wanted != Wanted::Debian && !missing.rustup.contains(&Part::Nightly) {
        Some(Choice::Rustup)
    } else {
        None
    }
}

/// Installs what `way` lacks.
pub(crate) fn complete(missing: &Missing, way: Choice) -> Result<()> {
    let parts = match way {
        Choice::Debian => &missing.debian,
        Choice::Rustup => &missing.rustup,
    };
    let packages: Vec<_> = parts.iter().flat_map(|part| packages_of(*part)).copied().collect();
    setup::install_packages(&packages)?;
    for part in parts {
        match part {
            Part::SystemRustc | Part::BpfCore | Part::Llvm => {}
            Part::Nightly => {
                bail!("there is no nightly to build with; `rustup toolchain install nightly` gets one")
            }
            Part::RustSrc => add_rust_src()?,
            Part::Linker => build_linker()?,
        }
    }
    Ok(())
}

fn packages_of(part: Part) -> &'static [&'static str] {
    match part {
        Part::SystemRustc => &["rustc-web", "gcc", "libc6-dev"],
        Part::BpfCore => &["libstd-rust-web-dev-bpf"],
        Part::Llvm => &["llvm-22-dev", "libpolly-22-dev", "g++"],
        Part::Linker | Part::Nightly | Part::RustSrc => &[],
    }
}

fn add_rust_src() -> Result<()> {
    let mut command = Command::new("rustup");
    command.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    shell::run_quietly(&mut command, "adding rust-src to the nightly (rustup)")
        .context("give the nightly its sources; Debian's packages are the other way: --toolchain debian")
}

/// Into `target/tools`: what is in the user's own cargo bin is the user's.
fn build_linker() -> Result<()> {
    if !Path::new(LLVM_PREFIX).is_dir() && machine::apt_get().is_some() {
        setup::install_packages(packages_of(Part::Llvm))?;
    }
    let mut command = shell::cargo();
    command.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--force", "--root"]);
    command.arg(artifacts::target().join("tools"));
    if Path::new(LLVM_PREFIX).is_dir() {
        // LLVM_PREFIX is the variable; LLVM_SYS_221_PREFIX alone ends in "unable to find library -lLLVM".
        command.env("LLVM_PREFIX", LLVM_PREFIX).args(["--no-default-features", "--features", "llvm-22"]);
    }
    shell::run_quietly(&mut command, "building bpf-linker into target/tools (about a minute)").context(
        "build bpf-linker; a ready-made one from https://github.com/aya-rs/bpf-linker/releases on PATH works as well",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(debian: &[Part], rustup: &[Part]) -> Missing {
        Missing { debian: debian.to_vec(), rustup: rustup.to_vec() }
    }

    #[test]
    fn completes_what_can_be_completed_here() {
        use Part::{BpfCore, Linker, Nightly, RustSrc};
        let table = [
            ("apt works", missing(&[BpfCore], &[Nightly]), Wanted::Auto, true, Some(Choice::Debian)),
            ("no apt, a nightly", missing(&[BpfCore], &[RustSrc]), Wanted::Auto, false, Some(Choice::Rustup)),
            ("no apt, no nightly", missing(&[BpfCore], &[Nightly]), Wanted::Auto, false, None),
            (
                "only the linker, which cargo builds",
                missing(&[Linker], &[Nightly]),
                Wanted::Auto,
                false,
                Some(Choice::Debian),
            ),
            ("rustup wanted", missing(&[BpfCore], &[RustSrc]), Wanted::Rustup, true, Some(Choice::Rustup)),
            ("Debian wanted without apt", missing(&[BpfCore], &[]), Wanted::Debian, false, None),
        ];
        for (machine, missing, wanted, apt_works, expected) in table {
            assert_eq!(way_to_complete(&missing, wanted, apt_works), expected, "{machine}");
        }
    }
}
