//! The contract between the BPF programs and the agent.
//!
//! Everything here is plain data: no padding, no enums, no references, every bit pattern valid (`bytemuck::Pod`
//! proves it at compile time). Addresses, ports and lengths that also stand on the wire are big-endian byte
//! arrays; plain integers are in the byte order of the host, which both sides share.
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod config;
mod flow;
mod maps;
mod prefix;
mod reason;
mod trace;
pub mod wire;

pub use address::{IpKey, Mac};
pub use config::{Config, Encapsulation, FastPath, Range, SourceCheck, Tunnel};
pub use flow::{Flow, FlowKey, Half};
pub use maps::{
    ENDPOINTS, Endpoint, FLOWS, IDS, LEASES, LOGS, Map, NODES, POD_MACS, PORTS, Port, Remote, STATE, STATS,
    Stat, TRACE, TRACED, Travel,
};
pub use prefix::{IPV4_BITS, Prefix};
pub use reason::{PROGRAMS, Program, REASONS, Reason};
pub use trace::{Action, Event, HEAD, Trace, Traced};

/// Raised by one whenever a type in this crate changes its meaning or layout.
///
/// The agent writes it into [`Config`]; a program that finds another number passes every packet to the kernel.
pub const ABI: u32 = 5;
