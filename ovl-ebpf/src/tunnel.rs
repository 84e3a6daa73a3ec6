//! What tells one kind of tunnel from another.
//!
//! Which kind a program is for is decided when it is compiled, as the families are: the object has the programs once for
//! each, and the agent loads those that the network's backend asks for.

use ovl_common::wire::UDP;
use ovl_common::{Config, Encapsulation, Reason, Remote, Travel};

use crate::decap::{self, Outer};
use crate::encap::{self, Hops};
use crate::inspect::Inner;
use crate::ip::{Family, IpHeader};
use crate::packet::{Bytes, IP, Packet};
use crate::tables::Tables;
use crate::verdict::Verdict;

/// A kind of tunnel.
pub trait Tunnel {
    /// What the configuration calls it.
    const ENCAPSULATION: Encapsulation;
    /// What the table of leases calls it.
    const TRAVEL: Travel;
    /// Bytes between the outer and the inner IP header.
    const HEADERS: usize;
    /// Whether there is a checksum outside of the inner packet, which a device may vouch for instead of the inner one's.
    const IS_SUMMED: bool;
    /// Whether its headers name the network. Where they don't, a packet to a pod here is taken for this network's, and any
    /// other may be of another tunnel between the same nodes.
    const NAMES_NETWORK: bool;
    /// Whether programs wrap what the node itself sends, where the kernel has a device for it.
    const WRAPS_OWN: bool;
    /// The protocol number that routing rules on this node see.
    const PROTOCOL: u8;

    /// Bytes from the outer IP header to the inner one.
    #[inline(always)]
    fn length<O: IpHeader>() -> usize {
        O::LENGTH + Self::HEADERS
    }

    /// Offset of the inner IP header.
    #[inline(always)]
    fn inner_ip<O: IpHeader>() -> usize {
        IP + Self::length::<O>()
    }

    /// Whether routers may take apart what carries the packet `ip`.
    fn may_be_cut<I: IpHeader, O: IpHeader>(config: &Config, ip: &I) -> bool;

    /// Puts the packet into a tunnel to `remote`. [`Reason::Mangled`] is one that has changed and could not be finished; any
    /// other error leaves it as it was.
    fn wrap<I: IpHeader, O: IpHeader, P: Packet<Tunnel = Self>, T: Tables>(
        packet: &mut P,
        tables: &T,
        config: &Config,
        remote: &Remote,
        inner: &Inner,
        hops: Hops,
    ) -> Result<(), Reason>;

    /// Whether `ip` is a packet to this node's end of the tunnel, as far as the IP header tells.
    fn is_to<O: IpHeader>(config: &Config, ip: &O) -> bool;

    /// Reads the outer headers of a packet for which [`Tunnel::is_to`] holds. An error is a packet that is not of our
    /// network, or cannot be told to be.
    fn outer<O: IpHeader, P: Bytes>(packet: &P, config: &Config) -> Result<Outer, Reason>;

    /// What becomes of a packet from the wire that is the kernel's for `reason`.
    #[inline(always)]
    fn hand_in<P: Packet<Tunnel = Self>, T: Tables>(
        _packet: &mut P,
        _tables: &T,
        reason: Reason,
    ) -> Verdict<'static> {
        Verdict::Pass(reason)
    }

    /// The same of one that the kernel sends by the overlay device.
    #[inline(always)]
    fn hand_out<P: Packet<Tunnel = Self>, T: Tables>(
        _packet: &mut P,
        _tables: &T,
        reason: Reason,
    ) -> Verdict<'static> {
        Verdict::Pass(reason)
    }
}

/// VXLAN (RFC 7348).
#[derive(Clone, Copy, Debug)]
pub enum Vxlan {}

impl Tunnel for Vxlan {
    const ENCAPSULATION: Encapsulation = Encapsulation::Vxlan;
    const TRAVEL: Travel = Travel::Vxlan;
    const HEADERS: usize = encap::HEADERS;
    const IS_SUMMED: bool = true;
    const NAMES_NETWORK: bool = true;
    const WRAPS_OWN: bool = true;
    const PROTOCOL: u8 = UDP;

    /// Over IPv4 always, since DF is clear; over IPv6 never.
    #[inline(always)]
    fn may_be_cut<I: IpHeader, O: IpHeader>(_config: &Config, _ip: &I) -> bool {
        O::FAMILY == Family::V4
    }

    #[inline(always)]
    fn wrap<I: IpHeader, O: IpHeader, P: Packet<Tunnel = Self>, T: Tables>(
        packet: &mut P,
        tables: &T,
        config: &Config,
        remote: &Remote,
        inner: &Inner,
        hops: Hops,
    ) -> Result<(), Reason> {
        let plan = encap::plan::<O, P, T>(packet, tables, config, remote, inner)?;
        packet.push_tunnel::<O>()?;
        encap::write::<I, O, P>(packet, config, remote, &plan, hops).map_err(|_unfinished| Reason::Mangled)
    }

    #[inline(always)]
    fn is_to<O: IpHeader>(config: &Config, ip: &O) -> bool {
        decap::is_to_tunnel(config, ip)
    }

    #[inline(always)]
    fn outer<O: IpHeader, P: Bytes>(packet: &P, config: &Config) -> Result<Outer, Reason> {
        decap::outer::<O, P>(packet, config)
    }
}
