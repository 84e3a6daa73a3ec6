//! The choice of a toolchain as a table of machines.

use super::*;

fn debian() -> Found {
    Found {
        system_rustc: Some(Release(1, 96, 0)),
        bpf_core: true,
        llvm: true,
        linker: Some("0.13.0".to_owned()),
        nightly: None,
        rust_src: false,
    }
}

fn rustup() -> Found {
    Found {
        nightly: Some(Release(1, 97, 0)),
        rust_src: true,
        linker: Some("0.13.0".to_owned()),
        ..Found::default()
    }
}

fn both() -> Found {
    Found { nightly: Some(Release(1, 97, 0)), rust_src: true, ..debian() }
}

#[test]
fn a_complete_way_is_chosen_and_debian_goes_first() {
    let table = [
        ("Debian only", debian(), Wanted::Auto, Choice::Debian),
        ("rustup only", rustup(), Wanted::Auto, Choice::Rustup),
        ("both", both(), Wanted::Auto, Choice::Debian),
        ("both, rustup wanted", both(), Wanted::Rustup, Choice::Rustup),
        ("both, Debian wanted", both(), Wanted::Debian, Choice::Debian),
        (
            "Debian beside a nightly without rust-src",
            Found { nightly: Some(Release(1, 97, 0)), ..debian() },
            Wanted::Auto,
            Choice::Debian,
        ),
        (
            "rustup beside Debian's old rustc",
            Found { system_rustc: Some(Release(1, 63, 0)), ..both() },
            Wanted::Auto,
            Choice::Rustup,
        ),
        (
            "no LLVM needed once there is a linker",
            Found { llvm: false, ..debian() },
            Wanted::Auto,
            Choice::Debian,
        ),
    ];
    for (machine, found, wanted, expected) in table {
        assert_eq!(choose(&found, wanted), Ok(expected), "{machine}");
    }
}

#[test]
fn what_is_missing_is_named_for_each_way() {
    use Part::{BpfCore, Linker, Llvm, Nightly, RustSrc, SystemRustc};
    let table = [
        (
            "an empty machine",
            Found::default(),
            Wanted::Auto,
            vec![SystemRustc, BpfCore, Llvm, Linker],
            vec![Nightly, RustSrc, Linker],
        ),
        (
            "a nightly without rust-src is not chosen",
            Found { rust_src: false, ..rustup() },
            Wanted::Auto,
            vec![SystemRustc, BpfCore],
            vec![RustSrc],
        ),
        (
            "Debian's rustc without its BPF library",
            Found { bpf_core: false, ..debian() },
            Wanted::Auto,
            vec![BpfCore],
            vec![Nightly, RustSrc],
        ),
        ("no linker", Found { linker: None, ..both() }, Wanted::Auto, vec![Linker], vec![Linker]),
        ("the wanted way counts", Found { rust_src: false, ..both() }, Wanted::Rustup, vec![], vec![RustSrc]),
        (
            "a nightly that is too old",
            Found { nightly: Some(Release(1, 90, 0)), ..rustup() },
            Wanted::Rustup,
            vec![SystemRustc, BpfCore],
            vec![Nightly],
        ),
    ];
    for (machine, found, wanted, debian, rustup) in table {
        assert_eq!(choose(&found, wanted), Err(Missing { debian, rustup }), "{machine}");
    }
}

#[test]
fn an_error_names_packages_and_commands() {
    let text = choose(&Found::default(), Wanted::Auto).unwrap_err().to_string();
    for part in
        ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "bpf-linker", "rustup component add rust-src"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn versions_are_read_from_what_rustc_says() {
    assert_eq!(
        Release::parse("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"),
        Some(Release(1, 96, 0))
    );
    assert_eq!(Release::parse("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)"), Some(Release(1, 97, 0)));
    assert_eq!(Release::parse("error: toolchain 'nightly' is not installed"), None);
}
