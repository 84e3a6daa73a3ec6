//! What this kernel's BPF can do, asked by doing it: versions tell little about distributions' kernels.

use aya::Ebpf;
use aya::programs::{ProgramError, ProgramType, SchedClassifier, TestRun as _, TestRunOptions};
use aya::sys::{BpfHelper, is_helper_supported};
use tracing::debug;

/// The name of the program that only asks.
const PROBE: &str = "probe_room";

/// A flag of `bpf_skb_adjust_room`, as those below (`linux/bpf.h`): segments keep their size.
pub const FIXED_GSO: u64 = 1 << 0;
const ENCAP_L3_IPV4: u64 = 1 << 1;
const ENCAP_L3_IPV6: u64 = 1 << 2;
const ENCAP_L4_UDP: u64 = 1 << 4;
/// The checksum's state stays what it is.
pub const NO_CSUM_RESET: u64 = 1 << 5;
const ENCAP_L2_ETH: u64 = 1 << 6;
/// What is left is IPv6.
pub const DECAP_L3_IPV6: u64 = 1 << 8;
const ENCAP_L2_SHIFT: u32 = 56;

/// What the programs ask for to make room for VXLAN.
pub const ENCAP_VXLAN: u64 =
    FIXED_GSO | NO_CSUM_RESET | ENCAP_L3_IPV4 | ENCAP_L4_UDP | ENCAP_L2_ETH | 14 << ENCAP_L2_SHIFT;

/// The same for IP in IPv4.
pub const ENCAP_IPIP: u64 = FIXED_GSO | NO_CSUM_RESET | ENCAP_L3_IPV4;

/// The same as for VXLAN, for tunnels over IPv6.
pub(crate) const ENCAP_VXLAN_IPV6: u64 = ENCAP_VXLAN ^ ENCAP_L3_IPV4 ^ ENCAP_L3_IPV6;
/// What they ask for to take a tunnel over IPv4 off an IPv6 packet.
pub(crate) const DECAP_MIXED: u64 = FIXED_GSO | NO_CSUM_RESET | DECAP_L3_IPV6;

/// Whether programs may read the clock of the last tick, which costs a third of the exact one (since 5.11).
pub fn has_coarse_clock() -> bool {
    has_helper(BpfHelper::BPF_FUNC_ktime_get_coarse_ns).unwrap_or(true)
}

/// Whether programs of XDP may see packets in several buffers, and how long they are (since 5.18): ours do.
pub fn has_xdp_buffers() -> Result<bool, ProgramError> {
    is_helper_supported(ProgramType::Xdp, BpfHelper::BPF_FUNC_xdp_get_buff_len)
}

/// Whether tc programs may call a helper.
pub fn has_helper(helper: BpfHelper) -> Result<bool, ProgramError> {
    is_helper_supported(ProgramType::SchedClassifier, helper)
}

/// Whether the kernel changes a packet's room by `bytes` with `flags`; `None` where it cannot be asked.
pub fn takes_room(programs: &mut Ebpf, bytes: i32, flags: u64) -> Option<bool> {
    let program: &mut SchedClassifier = programs.program_mut(PROBE)?.try_into().ok()?;
    if program.fd().is_err()
        && let Err(error) = program.load()
    {
        debug!("cannot load {PROBE}: {error}");
        return None;
    }
    let mut context = [0; CONTEXT];
    let mut set = |at: usize, bytes: [u8; 4]| context[at..at + 4].copy_from_slice(&bytes);
    let [mark, priority]: [[u8; 4]; 2] = bytemuck::cast(flags);
    set(MARK, mark);
    set(PRIORITY, priority);
    set(CB, bytes.to_ne_bytes());
    let run = TestRunOptions {
        data_in: Some(&PACKET),
        ctx_in: Some(&context),
        repeat: 1,
        ..TestRunOptions::default()
    };
    match program.test_run(run) {
        Ok(result) => Some(result.return_value == 0),
        Err(error) => {
            debug!("cannot run {PROBE}: {error}");
            None
        }
    }
}

/// Size of `struct __sk_buff` and where its fields are (`linux/bpf.h`).
const CONTEXT: usize = 192;
const MARK: usize = 8;
const PRIORITY: usize = 32;
const CB: usize = 48;

/// An IPv4 packet that is long enough to lose a tunnel.
const PACKET: [u8; 200] = {
    let mut packet = [0; 200];
    (packet[12], packet[13], packet[14], packet[17], packet[22], packet[23]) = (8, 0, 0x45, 186, 64, 17);
    packet
};
