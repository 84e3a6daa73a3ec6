//! What an overlay is made of: how packets travel, and who moves them.

use clap::ValueEnum;

/// The backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// VXLAN on UDP port 8472.
    Vxlan,
    /// Plain routes: all nodes share a network.
    HostGw,
    /// IP in IP.
    Ipip,
    /// Bare packets in UDP on port 8285, carried by the agents: there are no programs for it.
    Udp,
}

/// Who moves the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The BPF programs.
    Ebpf,
    /// The kernel's devices, routing and netfilter.
    Kernel,
}

impl Backend {
    /// As the network config spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::Ipip => "ipip",
            Self::Udp => "udp",
        }
    }
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Kernel => "kernel",
        }
    }

    /// The agent's flags.
    pub(crate) fn flags(self, backend: Backend) -> &'static str {
        match (self, backend) {
            (Self::Ebpf, _) => "--mode ebpf",
            // Where the kernel has no device for it, programs stand in for that alone.
            (Self::Kernel, Backend::Ipip) => "--mode ebpf --fast-path off",
            (Self::Kernel, _) => "--mode kernel",
        }
    }

    /// The same, so that no fallback passes for the real thing.
    pub(crate) fn strict_flags(self, backend: Backend) -> String {
        let flags = self.flags(backend);
        if (self, backend) == (Self::Kernel, Backend::Ipip) || self == Self::Ebpf {
            format!("{flags} --strict")
        } else {
            flags.to_owned()
        }
    }
}
