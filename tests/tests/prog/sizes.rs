//! How large the programs are, and how much work they are for the verifier: so that neither grows unnoticed.

use ovl_common::Travel;
use ovl_ebpf::ip::Family;

use crate::program::Programs;

/// Bytes of a program after verification, as the kernel runs it before its own compiler. Twice what they were when this
/// was written.
const BYTES: u32 = 72 * 1024;
/// Instructions that the verifier looked at, over all paths. It gives up at a million.
const VERIFIED: u32 = 100_000;

#[test]
fn programs_stay_small() {
    check(&mut Programs::load(Travel::Vxlan), "");
    check(&mut Programs::load_ipip(Family::V4, true), "ipip, ");
}

fn check(programs: &mut Programs, kind: &str) {
    for program in Programs::all() {
        let info = programs.info(program);
        let name = format!("{kind}{}", program.name());
        let bytes = info.size_translated().expect("known since 4.15");
        // Known since 5.16.
        let verified = info.verified_instruction_count();
        println!("{name}: {bytes} bytes, {verified:?} instructions verified");
        assert!(bytes < BYTES, "{name} has {bytes} bytes");
        assert!(
            verified.is_none_or(|count| count < VERIFIED),
            "the verifier looked at {verified:?} of {name}"
        );
    }
}

/// The agent goes through all of the object at every start.
#[test]
fn the_object_carries_what_the_kernel_wants_and_no_dwarf() {
    let object = ovl_tests::artifacts::bpf_object().expect("built by cargo xtask");
    let object = std::fs::read(object).expect("readable");
    let names = |section: &str| object.windows(section.len()).any(|window| window == section.as_bytes());
    assert!(names(".BTF.ext"), "the verifier's complaints name lines by it");
    assert!(!names(".debug_info"), "DWARF");
}
