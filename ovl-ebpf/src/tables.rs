//! The maps as the packet path sees them: questions with plain answers.

use ovl_common::{Config, Endpoint, FlowKey, IpKey, Mac, Port, Reason, Remote};

use crate::flow::{Acceptance, Usage};

/// Everything the packet path knows besides the packet.
pub trait Tables {
    /// The node's configuration; `None` where it cannot be read.
    fn config(&self) -> Option<&Config>;

    /// Nanoseconds of `CLOCK_MONOTONIC`, exact to a few milliseconds.
    fn now(&self) -> u64;

    /// The first of `count` identifications for outer IPv4 headers. Packets in a row get numbers in a row: whoever
    /// aggregates them on their way (GRO) takes them for segments of one packet only then.
    fn identifications(&self, count: u16) -> u16;

    /// The peer that holds the subnet `address` lies in.
    fn remote(&self, address: IpKey) -> Option<&Remote>;

    /// Whether `address` is a node's, on the underlay.
    fn is_node(&self, address: IpKey) -> bool;

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

    /// Counts a packet of a flow that may take the fast path, or says why it may not.
    fn use_flow(&self, key: &FlowKey, usage: &Usage) -> Result<(), Reason>;

    /// The same without counting it.
    fn check_flow(&self, key: &FlowKey, usage: &Usage) -> Result<(), Reason>;

    /// Notes that netfilter accepted a packet of a flow, and says whether that is new, or [`Reason::Full`] where the table is.
    fn accept_flow(&self, key: &FlowKey, acceptance: &Acceptance) -> Reason;

    /// Notes that the connection of a flow ends or is another now, where the flow is known: it may not take the fast path
    /// any more.
    fn close_flow(&self, key: &FlowKey, tick: u32);
}
