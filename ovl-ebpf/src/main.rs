//! The BPF object: entry points that give the packet path a socket buffer and maps, and turn verdicts into actions.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod show;
#[cfg(target_arch = "bpf")]
mod xdp;

/// On the host there is nothing to run; this lets `cargo build`, `test` and `clippy` take the whole workspace.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // A panic that survived compilation is an endless loop, which the verifier refuses to load.
    loop {}
}
