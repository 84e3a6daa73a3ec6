//! The loaded programs, by what they are for: the object has them once for each kind of tunnel.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, Xdp};
use ovl_common::{Encapsulation, Program};

/// The programs of a network's kind of tunnel.
pub struct Programs {
    pub(super) ebpf: Ebpf,
    pub(super) encapsulation: Encapsulation,
}

impl Programs {
    /// A program of tc, for interfaces whose packets have an Ethernet header or none.
    pub(super) fn classifier(&mut self, program: Program, ethernet: bool) -> Result<&mut SchedClassifier> {
        let name = name(program, self.encapsulation, ethernet);
        let found = self.ebpf.program_mut(name).context("the BPF object lost a program")?;
        found.try_into().context("a BPF program changed its type")
    }

    /// The program of XDP.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp> {
        let name = name(Program::FromWireXdp, self.encapsulation, true);
        let found = self.ebpf.program_mut(name).context("the BPF object lost a program")?;
        found.try_into().context("a BPF program changed its type")
    }

    /// Whether the kernel changes a packet's room by `bytes` with `flags`; `None` where it cannot be asked.
    pub fn take_room(&mut self, bytes: i32, flags: u64) -> Option<bool> {
        super::features::takes_room(&mut self.ebpf, bytes, flags)
    }
}

/// What the object calls a program for tunnels of a kind, at interfaces whose packets have an Ethernet header or, as at
/// the kernel's devices of IP in IP, none.
pub fn name(program: Program, encapsulation: Encapsulation, ethernet: bool) -> &'static str {
    match (encapsulation, program) {
        (Encapsulation::Ipip, Program::FromPod) => "ipip_from_pod",
        (Encapsulation::Ipip, Program::FromWire) => "ipip_from_wire",
        (Encapsulation::Ipip, Program::FromWireXdp) => "ipip_from_wire_xdp",
        (Encapsulation::Ipip, Program::ToOverlay) if !ethernet => "ipip_to_tunnel",
        (Encapsulation::Ipip, Program::ToOverlay) => "ipip_to_overlay",
        (Encapsulation::Ipip, Program::ToPod) | (Encapsulation::None | Encapsulation::Vxlan, _) => {
            program.name()
        }
    }
}

/// Which program has this name in the object, for whatever tunnels.
pub(super) fn called(text: &str) -> Option<Program> {
    let kinds = [Encapsulation::Vxlan, Encapsulation::Ipip];
    let is_called = |program: Program| {
        kinds.iter().any(|kind| [true, false].map(|ethernet| name(program, *kind, ethernet)).contains(&text))
    };
    Program::ALL.into_iter().find(|program| is_called(*program))
}
