//! The maps as the packet path sees them: questions with plain answers.

use ovl_common::{Config, Endpoint, IpKey, Mac, Port, Remote};

/// Everything the packet path knows besides the packet.
pub trait Tables {
    /// The node's configuration; `None` where it cannot be read.
    fn config(&self) -> Option<&Config>;

    /// Nanoseconds of `CLOCK_MONOTONIC`, exact to a few milliseconds.
    fn now(&self) -> u64;

    /// The peer that holds the subnet `address` lies in.
    fn remote(&self, address: IpKey) -> Option<&Remote>;

    /// The local pod that has `address`.
    fn endpoint(&self, address: IpKey) -> Option<&Endpoint>;

    /// Makes `endpoint` the pod that has `address`; `false` where the table is full.
    fn learn_endpoint(&self, address: IpKey, endpoint: &Endpoint) -> bool;

    /// Makes `address` unknown.
    fn forget_endpoint(&self, address: IpKey);

    /// What the agent said about a pod's interface.
    fn port(&self, ifindex: u32) -> Option<&Port>;

    /// The MAC that last sent on a pod's interface.
    fn pod_mac(&self, ifindex: u32) -> Option<&Mac>;

    /// Makes `mac` the one that last sent on a pod's interface.
    fn learn_pod_mac(&self, ifindex: u32, mac: &Mac);
}
