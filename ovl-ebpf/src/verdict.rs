//! What a program decided.

use ovl_common::{IpKey, Mac, Reason};

/// The fate of a packet. Every one has a [`Reason`], which the entry point counts.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// To the kernel, untouched.
    Pass(Reason),
    /// Nowhere.
    Drop(Reason),
    /// Out of the underlay interface; the kernel finds the next hop's MAC.
    Send {
        /// The interface.
        ifindex: u32,
        /// The next hop, where it is not for the kernel's routes to say.
        next_hop: Option<&'a IpKey>,
    },
    /// Into the tunnel and out of the underlay interface, for the kernel, which has no device for that.
    Wrap {
        /// The interface.
        ifindex: u32,
        /// Why it is the kernel's.
        reason: Reason,
    },
    /// Into the pod behind the host-side interface.
    Deliver {
        /// The interface.
        ifindex: u32,
    },
    /// Without its tunnel to the program at tc.
    Strip,
    /// Its tunnel was taken off, and the rest is the kernel's: to the overlay device, as what came out of the tunnel.
    Return {
        /// The overlay device.
        ifindex: u32,
        /// Why it is the kernel's.
        reason: Reason,
    },
}

impl Verdict<'_> {
    /// What becomes of a packet about which a program `decided`: on any doubt it passes untouched. One that was changed
    /// half-way is neither what came nor what should leave.
    #[inline(always)]
    pub fn of(decided: Result<Self, Reason>) -> Self {
        match decided {
            Ok(verdict) => verdict,
            Err(Reason::Mangled) => Self::Drop(Reason::Mangled),
            Err(reason) => Self::Pass(reason),
        }
    }

    /// What to count it as.
    #[inline(always)]
    pub fn reason(self) -> Reason {
        match self {
            Self::Pass(reason)
            | Self::Drop(reason)
            | Self::Wrap { reason, .. }
            | Self::Return { reason, .. } => reason,
            Self::Send { .. } => Reason::Forwarded,
            Self::Deliver { .. } => Reason::Delivered,
            Self::Strip => Reason::Stripped,
        }
    }
}

/// Whether `mac` names a group of stations (IEEE 802 group bit), which no pod and no tunnel device is.
#[inline(always)]
pub(crate) fn is_group(mac: Mac) -> bool {
    mac.0[0] & 1 != 0
}
