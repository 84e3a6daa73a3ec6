//! Who is compared. A new one is one line here.

use crate::overlay::{Backend, Mode};

/// A way for packets to get from one node to the other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) backend: Backend,
    pub(super) mode: Mode,
    /// The agent's flags beside those of the mode.
    pub(super) flags: &'static str,
    pub(super) ends: Between,
}

/// What the traffic runs between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    /// The nodes themselves.
    Nodes,
    /// Pods on them.
    Pods,
}

/// What the others are compared with: what flannel sets up.
pub(super) const BASELINE: &str = "kernel-vxlan";
/// The physical limit here.
pub(super) const LIMIT: &str = "host";

/// The flags that leave netfilter out.
const ALWAYS: &str = "--fast-path always";

/// The flags that have XDP strip tunnels.
const XDP: &str = "--fast-path verified --xdp native";

/// All of them.
pub(super) const ALL: &[Contender] = &[
    // With an agent, so that the nodes have the very rules of the others.
    contender(LIMIT, Backend::Vxlan, Mode::Kernel, "", Between::Nodes),
    contender(BASELINE, Backend::Vxlan, Mode::Kernel, "", Between::Pods),
    contender("kernel-host-gw", Backend::HostGw, Mode::Kernel, "", Between::Pods),
    contender("ovl-vxlan", Backend::Vxlan, Mode::Ebpf, "--fast-path verified", Between::Pods),
    contender("ovl-vxlan-xdp", Backend::Vxlan, Mode::Ebpf, XDP, Between::Pods),
    contender("ovl-host-gw", Backend::HostGw, Mode::Ebpf, "--fast-path verified", Between::Pods),
    contender("ovl-ipip", Backend::Ipip, Mode::Ebpf, "--fast-path verified", Between::Pods),
    contender("ovl-vxlan-always", Backend::Vxlan, Mode::Ebpf, ALWAYS, Between::Pods),
    contender("ovl-tun", Backend::Udp, Mode::Kernel, "", Between::Pods),
];

const fn contender(
    name: &'static str,
    backend: Backend,
    mode: Mode,
    flags: &'static str,
    ends: Between,
) -> Contender {
    Contender { name, backend, mode, flags, ends }
}

impl Contender {
    /// Whether netfilter sees every flow, so that conntrack knows it.
    pub(super) fn asks_netfilter(&self) -> bool {
        self.flags != ALWAYS
    }

    /// Whether XDP sees packets first, which changes what veths take off the processor.
    pub(super) fn has_xdp(&self) -> bool {
        self.flags == XDP
    }

    /// All flags of its agents, which end where something is not as it is asked for.
    pub(super) fn strict_flags(&self) -> String {
        self.complete(&self.mode.strict_flags(self.backend))
    }

    /// The same as users give them: the programs may come later.
    pub(super) fn users_flags(&self) -> String {
        self.complete(self.mode.flags(self.backend))
    }

    fn complete(&self, mode: &str) -> String {
        // Flannel's installations masquerade; the forward rules are there by default.
        format!("{mode} {} --ip-masq", self.flags)
    }
}
