//! What the programs decided, and why: one list for both sides.

/// A program of the data plane.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Ingress of a pod's host-side interface: what the pod sends.
    FromPod = 0,
    /// Ingress of the underlay device: what peers send.
    FromWire = 1,
    /// Egress of a pod's host-side interface: what the kernel delivers to the pod.
    ToPod = 2,
    /// Egress of the overlay device, and of the underlay device where peers are reached without a tunnel: what the kernel
    /// sends to other nodes' pods.
    ToOverlay = 3,
    /// XDP on the underlay device: what peers send, before the kernel makes socket buffers of it.
    FromWireXdp = 4,
}

/// Number of programs.
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
pub const PROGRAMS: u32 = Program::ALL.len() as u32;

impl Program {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::FromPod, Self::FromWire, Self::ToPod, Self::ToOverlay, Self::FromWireXdp];

    /// Those that tc runs, in the order of their numbers: without them there is no fast path. XDP is on top.
    pub const TC: [Self; 4] = [Self::FromPod, Self::FromWire, Self::ToPod, Self::ToOverlay];

    /// The name in the object file and in everything a person reads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::FromWire => "from_wire",
            Self::ToPod => "to_pod",
            Self::ToOverlay => "to_overlay",
            Self::FromWireXdp => "from_wire_xdp",
        }
    }
}

macro_rules! reasons {
    ($($variant:ident $name:literal $meaning:literal,)*) => {
        /// Why a program did what it did with a packet. Whether the packet was dropped is the verdict's to
        /// say; all others but the first three leave it to the kernel, untouched.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $meaning] $variant,)* }

        /// Number of reasons.
        #[expect(clippy::cast_possible_truncation, reason = "a few dozen")]
        pub const REASONS: u32 = Reason::ALL.len() as u32;

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; [$(stringify!($variant)),*].len()] = [$(Self::$variant),*];

            /// A short name for tables and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for a person.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

reasons! {
    Forwarded "forwarded" "Sent to the peer's node on the fast path.",
    Delivered "delivered" "Delivered into the pod on the fast path.",
    Stripped "stripped" "Stripped of its tunnel before the kernel aggregates packets; from_wire goes on with it.",
    Learned "learned" "The kernel delivered this packet; its pod is now known as an endpoint.",
    Known "known" "The kernel delivered this packet to an endpoint that is known already.",
    Verified "verified" "Netfilter accepted this packet; its flow may take the fast path in this direction.",
    Mangled "mangled" "Dropped: a step failed after the headers had changed. Stays 0.",
    NoConfig "no_config" "The agent has not written the node's configuration, or was built with other maps.",
    Expired "expired" "The agent has not been heard of for longer than its deadline.",
    FastPathOff "fast_path_off" "The fast path is switched off (--fast-path=off).",
    NotIp "not_ip" "Not an IP packet (ARP, others).",
    Vlan "vlan" "Tagged for a VLAN, which is another network.",
    NotForUs "not_for_us" "Addressed to another host or to a group on the link.",
    Short "short" "The packet ends before its headers do.",
    BadHeader "bad_header" "An IP version or header length that is not what it should be.",
    BadLength "bad_length" "A length field that disagrees with the packet.",
    Options "options" "IPv4 options or IPv6 extension headers.",
    Fragment "fragment" "A fragment.",
    Ttl "ttl" "A TTL or hop limit of 1 or 0: the kernel answers it.",
    Protocol "protocol" "Neither TCP, UDP nor ICMP echo.",
    TcpFlags "tcp_flags" "A TCP packet with SYN, FIN or RST: the connection changes its state.",
    Closing "closing" "The connection of an accepted packet is just ending: it teaches nothing.",
    StrictConntrack "strict_conntrack" "TCP, which conntrack would call invalid after the fast path: nf_conntrack_tcp_be_liberal is 0.",
    NotOverlay "not_overlay" "The destination is in no peer's subnet.",
    UnknownSource "unknown_source" "The source is no known endpoint on this interface.",
    NotToGateway "not_to_gateway" "Not addressed to the pod's gateway.",
    MovedSource "moved_source" "The source was known on another interface; that entry is forgotten.",
    Oversize "oversize" "Larger than the path takes.",
    NoRoom "no_room" "The kernel refused to make room for the outer headers, or to strip them.",
    Metadata "metadata" "The driver hands no metadata from XDP to tc, or another program's stands there.",
    NotTunnel "not_tunnel" "An underlay packet that is neither of this tunnel nor for a pod.",
    TunnelFlags "tunnel_flags" "A VXLAN header with flags or reserved bits that are not ours to interpret.",
    OtherVni "other_vni" "A VXLAN packet of another network.",
    InnerMac "inner_mac" "The inner frame is not addressed to this node's tunnel device.",
    UnknownNode "unknown_node" "A tunnel packet from an address that is no node's. Dropped unless --source-check=off.",
    WrongNode "wrong_node" "The inner source is in a subnet of another node than the one that sent it. Dropped unless --source-check=off.",
    ForeignSource "foreign_source" "The source is in no node's subnet. Dropped with --source-check=strict.",
    OtherWay "other_way" "It came through the tunnel and belongs beside it, or the other way round.",
    NoFlow "no_flow" "Netfilter has not accepted this flow yet, as far as is known.",
    OneWay "one_way" "Netfilter has not accepted the other direction of this flow yet.",
    Changed "changed" "Rules, routes or leases changed since netfilter accepted this flow.",
    Aged "aged" "It is long ago that netfilter accepted this flow (--verify-interval).",
    Unmarked "unmarked" "Not a packet that netfilter accepted of an established connection without NAT.",
    OuterChecksum "outer_checksum" "The peer wants a UDP checksum over IPv6 that a program cannot make for this packet.",
    UnknownPod "unknown_pod" "The destination is no known endpoint yet.",
    Aggregate "aggregate" "Several UDP datagrams in one tunnel packet, which a pod could not take apart once the tunnel is stripped.",
    Ecn "ecn" "An ECN combination that RFC 6040 wants logged or dropped.",
    NotPort "not_port" "The interface is not one of the pod ports the agent named.",
    NotRouted "not_routed" "Delivered by the bridge, not through the gateway.",
    Flooded "flooded" "Not addressed to the pod behind this port: the bridge flooded it.",
    Full "full" "The map for what was learned is full.",
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_follow_the_order_and_names_are_distinct() {
        let mut names = BTreeSet::new();
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert!(names.insert(reason.name()), "{} stands twice", reason.name());
        }
        for (number, program) in Program::ALL.into_iter().enumerate() {
            assert_eq!(program as usize, number);
        }
    }
}
