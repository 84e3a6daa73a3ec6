//! The chain that marks what netfilter has accepted, judged with `nft`, `conntrack` and packets that pass.

mod packets;
pub(crate) mod path;
mod rulesets;
mod table;

use ovl_agent::family::ByFamily;
use ovl_agent::firewall::{Marking, Outcome, Verification};

use crate::firewall::host::block_on;

const BIT: u32 = 0x0800_0000;

/// Both families.
fn marking() -> Marking {
    let networks = ByFamily { v4: "10.42.0.0/16".parse().ok(), v6: "fd42::/48".parse().ok() };
    Marking { bit: BIT, networks }
}

/// What the agent does at start and every few seconds, in this thread's namespace.
fn ensure(verification: &mut Verification, wanted: &Marking) -> Outcome {
    block_on(verification.ensure(wanted))
}

/// The same, where nothing may go wrong.
fn ensure_well(verification: &mut Verification, wanted: &Marking) -> Outcome {
    let outcome = ensure(verification, wanted);
    assert_eq!(outcome.errors, [""; 0], "{outcome:?}");
    outcome
}
