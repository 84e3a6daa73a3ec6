//! The loaded programs, packet by packet, through `BPF_PROG_TEST_RUN`.
//!
//! What needs a live stack (GSO, redirects, checksum offload) is in the `net` tests: a test run executes no redirect
//! and knows no offload.

mod flows;
mod hostile;
mod ipip;
mod packets;
mod program;
mod sizes;
mod speed;
mod trace;
mod xdp;
