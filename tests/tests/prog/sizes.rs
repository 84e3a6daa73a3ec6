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
