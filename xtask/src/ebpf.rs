//! `cargo xtask build-ebpf`: the BPF object, by whichever toolchain is complete.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};
use object::build::elf;
use object::elf::SHT_STRTAB;
use ovl_tests::artifacts;

use crate::probe::{self, SYSTEM_RUSTC, TARGET};
use crate::remedy;
use crate::toolchain::{Choice, Found, Wanted, choose};
use crate::{machine, shell};

/// Debug info for BTF, BTF, and the instructions that every kernel since 5.1 knows.
const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf -C target-cpu=v3 -C link-arg=--cpu-features=+allows-misaligned-mem-access";

/// Options of `build-ebpf`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The toolchain to build with.
    #[arg(long, value_enum, default_value_t = Wanted::Auto)]
    toolchain: Wanted,
}

/// Builds the object and says with what.
pub(crate) fn run(options: &Options) -> Result<()> {
    build(options.toolchain)?;
    Ok(())
}

/// Builds the object, `target/ovl.bpf.o`, and installs what is missing for that.
pub(crate) fn build(wanted: Wanted) -> Result<PathBuf> {
    shell::step("build-ebpf: the BPF object");
    let (choice, found) = ready_toolchain(wanted)?;
    println!("    with {}", describe(choice, &found));
    let mut command = cargo(choice)?;
    command.args(["build", "--release", "--quiet", "-p", "ovl-ebpf", "--bin", "ovl-bpf"]);
    shell::run(&mut command).context("build the BPF object")?;
    publish()
}

/// Cargo with `choice`'s compiler, set up for the BPF target; a subcommand's name comes next.
pub(crate) fn cargo(choice: Choice) -> Result<Command> {
    let mut command = match choice {
        Choice::Debian => shell::cargo(),
        Choice::Rustup => nightly_cargo(),
    };
    with_bpf_target(&mut command, choice)?;
    Ok(command)
}

/// Sets the environment that makes a cargo build for BPF with `choice`'s compiler.
pub(crate) fn with_bpf_target(command: &mut Command, choice: Choice) -> Result<()> {
    let (linker, _) = probe::linker().context("find bpf-linker")?;
    command
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_BUILD_TARGET", TARGET)
        .env("CARGO_TARGET_DIR", artifacts::target().join("ebpf"))
        // They would take the place of the target's own flags.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    match choice {
        // aya-ebpf uses an unstable feature, `asm_experimental_arch`, which a stable compiler allows on request.
        Choice::Debian => command.env("RUSTC", SYSTEM_RUSTC).env("RUSTC_BOOTSTRAP", "1"),
        Choice::Rustup => command.env("CARGO_UNSTABLE_BUILD_STD", "core"),
    };
    Ok(())
}

/// A complete toolchain, completed first where necessary and possible.
pub(crate) fn ready_toolchain(wanted: Wanted) -> Result<(Choice, Found)> {
    let found = probe::look();
    let missing = match choose(&found, wanted) {
        Ok(choice) => return Ok((choice, found)),
        Err(missing) => missing,
    };
    let unavailable = || anyhow!("no toolchain for BPF is complete:{missing}");
    let way =
        remedy::way_to_complete(&missing, wanted, machine::apt_get().is_some()).ok_or_else(unavailable)?;
    println!("    no toolchain for BPF is complete:{missing}");
    remedy::complete(&missing, way)?;
    let found = probe::look();
    let choice = choose(&found, wanted)
        .map_err(|missing| anyhow!("after the installation there is still{missing}"))?;
    Ok((choice, found))
}

fn nightly_cargo() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(artifacts::workspace());
    // Set by the cargo that runs us, for its own toolchain.
    command.env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn describe(choice: Choice, found: &Found) -> String {
    let linker = found.linker.as_deref().unwrap_or("unknown");
    let compiler = match choice {
        Choice::Debian => ("Debian's rustc", found.system_rustc),
        Choice::Rustup => ("rustup's nightly rustc", found.nightly),
    };
    let version = compiler.1.map_or_else(|| "of unknown version".to_owned(), |release| release.to_string());
    format!("{} {version} and bpf-linker {linker}", compiler.0)
}

/// Copies the object to where the agent's build script looks, in one step, and only when it changed: a new time stamp
/// would build the agent again.
fn publish() -> Result<PathBuf> {
    let built = artifacts::target().join("ebpf").join(TARGET).join("release/ovl-bpf");
    let object = artifacts::target().join("ovl.bpf.o");
    let bytes = fs::read(&built).with_context(|| format!("read the built object {}", built.display()))?;
    let bytes = without_dwarf(&bytes).with_context(|| format!("strip {}", built.display()))?;
    let same = fs::read(&object).is_ok_and(|present| present == bytes);
    if !same {
        let fresh = object.with_extension("o.new");
        fs::write(&fresh, &bytes).with_context(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, &object).with_context(|| format!("put {} in place", object.display()))?;
    }
    let news = if same { "unchanged" } else { "new" };
    println!("    target/ovl.bpf.o: {} bytes, {news}", bytes.len());
    Ok(object)
}

/// The object without DWARF, four fifths of it: BTF was made of that, and the agent would go through it at every start.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut object = elf::Builder::read(object)?;
    for section in &mut object.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    // bpf-linker keeps the names of sections among those of symbols, which the writer here does not.
    let names = object.sections.add();
    (names.name, names.sh_type, names.data) =
        (b".shstrtab"[..].into(), SHT_STRTAB, elf::SectionData::SectionString);
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(stripped)
}
