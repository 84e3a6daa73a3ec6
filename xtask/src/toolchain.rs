//! Which toolchain builds the BPF object: a function of what the machine has.

use std::fmt;

use clap::ValueEnum;

/// The oldest compiler that builds the workspace.
pub(crate) const OLDEST_RUSTC: Release = Release(1, 95, 0);

/// A compiler's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release(pub(crate) u16, pub(crate) u16, pub(crate) u16);

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wanted {
    /// Debian's packages where they are, else rustup's nightly.
    Auto,
    /// Debian's rustc-web with its BPF core library.
    Debian,
    /// A nightly of rustup with the component rust-src.
    Rustup,
}

/// A way to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// `/usr/bin/rustc` with the prebuilt core library.
    Debian,
    /// A nightly that builds the core library itself.
    Rustup,
}

/// What the machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// `/usr/bin/rustc`, when it is the distribution's own compiler and not a proxy of rustup.
    pub(crate) system_rustc: Option<Release>,
    /// Whether that compiler has a core library for BPF.
    pub(crate) bpf_core: bool,
    /// The library that bpf-linker is built with here, LLVM 22 with its headers.
    pub(crate) llvm: bool,
    /// The version of a bpf-linker that starts.
    pub(crate) linker: Option<String>,
    /// The newest nightly of rustup.
    pub(crate) nightly: Option<Release>,
    /// Whether that nightly has the sources of the core library.
    pub(crate) rust_src: bool,
}

/// Something a way needs and the machine lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A compiler of the distribution that is new enough.
    SystemRustc,
    /// The prebuilt core library.
    BpfCore,
    /// LLVM's library and headers, to build the linker.
    Llvm,
    /// The linker.
    Linker,
    /// A nightly that is new enough.
    Nightly,
    /// The component rust-src.
    RustSrc,
}

/// What each way lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// For Debian's way.
    pub(crate) debian: Vec<Part>,
    /// For rustup's.
    pub(crate) rustup: Vec<Part>,
}

/// Chooses a complete way, Debian's first: its core library is already built.
pub(crate) fn choose(found: &Found, wanted: Wanted) -> Result<Choice, Missing> {
    let missing = Missing { debian: missing_for_debian(found), rustup: missing_for_rustup(found) };
    if wanted != Wanted::Rustup && missing.debian.is_empty() {
        Ok(Choice::Debian)
    } else if wanted != Wanted::Debian && missing.rustup.is_empty() {
        Ok(Choice::Rustup)
    } else {
        Err(missing)
    }
}

fn missing_for_debian(found: &Found) -> Vec<Part> {
    let mut parts = Vec::new();
    if found.system_rustc.is_none_or(|release| release < OLDEST_RUSTC) {
        parts.push(Part::SystemRustc);
    }
    if !found.bpf_core {
        parts.push(Part::BpfCore);
    }
    if found.linker.is_none() {
        if !found.llvm {
            parts.push(Part::Llvm);
        }
        parts.push(Part::Linker);
    }
    parts
}

fn missing_for_rustup(found: &Found) -> Vec<Part> {
    let mut parts = Vec::new();
    if found.nightly.is_none_or(|release| release < OLDEST_RUSTC) {
        parts.push(Part::Nightly);
    }
    if !found.rust_src {
        parts.push(Part::RustSrc);
    }
    if found.linker.is_none() {
        parts.push(Part::Linker);
    }
    parts
}

impl Release {
    /// Reads `rustc 1.96.0 (…)` or `rustc 1.97.0-nightly (…)`.
    pub(crate) fn parse(version: &str) -> Option<Self> {
        let number = version.strip_prefix("rustc ")?.split([' ', '-']).next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next()??))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemRustc => {
                write!(formatter, "a /usr/bin/rustc of {OLDEST_RUSTC} or newer (package rustc-web)")
            }
            Self::BpfCore => {
                formatter.write_str("core for bpfel-unknown-none (package libstd-rust-web-dev-bpf)")
            }
            Self::Llvm => formatter
                .write_str("LLVM 22 to build bpf-linker with (packages llvm-22-dev, libpolly-22-dev)"),
            Self::Linker => formatter.write_str("bpf-linker 0.13 (built into target/tools, or one on PATH)"),
            Self::Nightly => {
                write!(formatter, "a nightly of {OLDEST_RUSTC} or newer (rustup toolchain install nightly)")
            }
            Self::RustSrc => {
                formatter.write_str("rust-src (rustup component add rust-src --toolchain nightly)")
            }
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (way, parts) in [("Debian's packages", &self.debian), ("rustup's nightly", &self.rustup)] {
            let list: Vec<_> = parts.iter().map(Part::to_string).collect();
            let list = if list.is_empty() { "nothing".to_owned() } else { list.join("; ") };
            write!(formatter, "\n  missing for {way}: {list}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
