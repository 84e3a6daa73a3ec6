//! The programs' counters, added up over the CPUs.

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use ovl_common::{Program, REASONS, Reason, Stat};
use serde::Serialize;

use super::maps::Abi;

/// One counter that is not zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// Name of the program.
    pub program: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// What the reason means.
    pub meaning: &'static str,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
}

/// Every counter that is not zero, by program and reason.
pub fn counters(stats: &PerCpuArray<MapData, Abi<Stat>>) -> Result<Vec<Counter>> {
    let mut counters = Vec::new();
    for program in Program::ALL {
        for reason in Reason::ALL {
            let row = program as u32 * REASONS + reason as u32;
            let per_cpu = stats.get(&row, 0).context("cannot read the BPF counters")?;
            let sum = per_cpu.iter().fold(Stat::default(), |sum, Abi(stat)| Stat {
                packets: sum.packets.wrapping_add(stat.packets),
                bytes: sum.bytes.wrapping_add(stat.bytes),
            });
            if sum.packets > 0 {
                counters.push(Counter {
                    program: program.name(),
                    reason: reason.name(),
                    meaning: reason.meaning(),
                    packets: sum.packets,
                    bytes: sum.bytes,
                });
            }
        }
    }
    Ok(counters)
}
