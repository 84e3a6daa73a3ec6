//! Single verdicts, for a person who asks for them.

use bytemuck::{Pod, Zeroable};

use crate::REASONS;

/// What somebody wants to see of the verdicts. A zeroed row is nobody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Trace {
    /// Until when, nanoseconds of `CLOCK_MONOTONIC`.
    pub until: u64,
    /// Of how many packets that fit one is shown, at random; 0 and 1 show every one.
    pub one_in: u32,
    /// Bit `1 << program` for each [`crate::Program`] to show.
    pub programs: u32,
    /// Bit `1 << reason` for each [`crate::Reason`] to show.
    pub reasons: u64,
}

const _: () = assert!(REASONS <= u64::BITS, "the bits of `Trace::reasons`");

/// Bytes of a packet behind its Ethernet header that an [`Event`] has room for: IPv6, UDP, VXLAN, Ethernet, IPv6 and ports
/// are 114. More than 128 would be copied by a function, which needs stack.
pub const HEAD: usize = 116;

/// One verdict, and the packet it was about as the program left it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// A [`crate::Program`].
    pub program: u8,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// An [`Action`].
    pub action: u8,
    /// Bytes that [`Event::head`] holds of this packet; behind them is something else.
    pub captured: u8,
    /// Bytes from the link layer on, as the program first saw the packet.
    pub length: u32,
    /// The interface that the program ran on.
    pub ifindex: u32,
    /// The mark.
    pub mark: u32,
    /// EtherType, network byte order.
    pub ethertype: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
    /// The packet behind its Ethernet header.
    pub head: [u8; HEAD],
}

const _: () = assert!(size_of::<Event>() == 136);

/// What became of a packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Left to the kernel.
    Pass = 0,
    /// Dropped.
    Drop = 1,
    /// Sent out of the underlay device.
    Send = 2,
    /// Delivered into the pod.
    Deliver = 3,
    /// Stripped of its tunnel and passed on to tc.
    Strip = 4,
    /// Stripped, and handed to the overlay device as the tunnel's payload.
    Return = 5,
    /// Wrapped and sent out of the underlay device for the kernel, which has no device for the tunnel.
    Wrap = 6,
}

impl Action {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Pass, Self::Drop, Self::Send, Self::Deliver, Self::Strip, Self::Return, Self::Wrap];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Send => "send",
            Self::Deliver => "deliver",
            Self::Strip => "strip",
            Self::Return => "return",
            Self::Wrap => "wrap",
        }
    }
}

/// What one CPU has shown.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Traced {
    /// How many verdicts so far, whether there was room in the ring or not: what is missing from the ring is lost.
    pub events: u64,
    /// The last one. It is put together here, where there is room: the stack has none left.
    pub event: Event,
}
