//! The udp backend: bare packets in UDP, carried by the agent itself (FLANNEL.md 5.3).

use ovl_tests::agent::Agent;
use ovl_tests::topology::Builder;

use crate::overlay::{Overlay, config};

mod carry;
mod errors;
mod hostile;
mod life;
mod load;
mod stock;

const UDP: &str = r#"{"Type":"udp"}"#;

/// Nodes with an agent and a pod each, over this backend.
fn start(topology: Builder, network: &str, args: &str) -> Overlay {
    Overlay::start_with(topology, &config(&[network], UDP), args).unwrap()
}

/// Packets that went out to peers and came in from them.
fn carried(agent: &Agent) -> (u64, u64) {
    let count = |program, reason| agent.counter(program, reason).unwrap();
    (count("from_tun", "forwarded"), count("to_tun", "delivered"))
}
