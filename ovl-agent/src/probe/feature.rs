//! What is asked, in groups, and how an answer looks.

use ovl_common::Program;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// Something a kernel, a machine or a process has or lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Feature {
    ProgramLoad,
    SchedCls,
    LpmTrie,
    LruHash,
    PerCpuArray,
    RingBuffer,
    Jit,
    Btf,
    RedirectNeigh,
    RedirectPeer,
    FlowHash,
    CsumLevel,
    CoarseClock,
    VxlanRoom,
    VxlanRoomIpv6,
    IpipRoom,
    MixedRoom,
    Tcx,
    Clsact,
    Loads(Program),
    BpfFs,
    Nftables,
    NftTool,
    Conntrack,
    LiberalConntrack,
    VxlanDevice,
    IpipDevice,
    Forwarding,
    Ipv6Forwarding,
    NetAdmin,
    Bpf,
    Perfmon,
    SysAdmin,
}

/// What a person should know of a feature.
pub(super) struct About {
    /// Its heading.
    pub(super) group: &'static str,
    /// Its name.
    pub(super) name: String,
    /// The first kernel of mainline that has it (for our programs, that was tried): a hint. Empty where it is no matter
    /// of versions.
    pub(super) since: &'static str,
    /// What happens without it.
    pub(super) without: &'static str,
}

const BASICS: &str = "BPF basics";
const PATH: &str = "packet path";
const PROGRAMS: &str = "programs of ovl";
const SITE: &str = "surroundings";
const RIGHTS: &str = "rights of this process";

/// What the kernel says to those who lack a right.
pub(super) const NOT_PERMITTED: &str = "not permitted";

/// Where all programs are needed, and one that the kernel refuses stops them all.
const ALL_OR_NONE: &str = "the kernel path carries everything";

impl Feature {
    /// All of them, as they are printed.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        use Feature as F;
        let basics = [
            F::ProgramLoad,
            F::SchedCls,
            F::LpmTrie,
            F::LruHash,
            F::PerCpuArray,
            F::RingBuffer,
            F::Jit,
            F::Btf,
        ];
        let path = [
            F::RedirectNeigh,
            F::RedirectPeer,
            F::FlowHash,
            F::CsumLevel,
            F::CoarseClock,
            F::VxlanRoom,
            F::VxlanRoomIpv6,
            F::IpipRoom,
            F::MixedRoom,
            F::Tcx,
            F::Clsact,
        ];
        let site = [
            F::BpfFs,
            F::Nftables,
            F::NftTool,
            F::Conntrack,
            F::LiberalConntrack,
            F::VxlanDevice,
            F::IpipDevice,
            F::Forwarding,
            F::Ipv6Forwarding,
        ];
        let rights = [F::NetAdmin, F::Bpf, F::Perfmon, F::SysAdmin];
        let programs = Program::ALL.into_iter().map(F::Loads);
        basics.into_iter().chain(path).chain(programs).chain(site).chain(rights)
    }

    /// What to say of it.
    pub(super) fn about(self) -> About {
        let (group, name, since, without) = match self {
            Self::Loads(Program::FromWireXdp) => {
                (PROGRAMS, Program::FromWireXdp.name(), "5.18", "--xdp off: tunnels are stripped at tc alone")
            }
            Self::Loads(program) => (PROGRAMS, program.name(), "5.10", ALL_OR_NONE),
            Self::ProgramLoad => (BASICS, "loading programs (BPF_PROG_LOAD)", "3.18", ALL_OR_NONE),
            Self::SchedCls => (BASICS, "programs of type sched_cls", "4.1", ALL_OR_NONE),
            Self::LpmTrie => (BASICS, "map type LPM trie", "4.11", "no peers' subnets: the kernel path"),
            Self::LruHash => (BASICS, "map type LRU hash", "4.10", "no flows: the kernel path"),
            Self::PerCpuArray => (BASICS, "map type per-CPU array", "4.6", "no counters: the kernel path"),
            Self::RingBuffer => {
                (BASICS, "map type ring buffer", "5.8", "nothing that carries packets needs it")
            }
            Self::Jit => (BASICS, "JIT compiler on", "3.16", "programs are interpreted, many times slower"),
            Self::Btf => {
                (BASICS, "BTF of the kernel", "5.4", "tools show less of programs; the programs need none")
            }
            Self::RedirectNeigh => (PATH, "helper redirect_neigh", "5.10", ALL_OR_NONE),
            Self::RedirectPeer => (PATH, "helper redirect_peer", "5.10", ALL_OR_NONE),
            Self::FlowHash => (PATH, "helper get_hash_recalc", "4.8", ALL_OR_NONE),
            Self::CsumLevel => (PATH, "helper csum_level", "5.8", ALL_OR_NONE),
            Self::CoarseClock => {
                (PATH, "helper ktime_get_coarse_ns", "5.11", "the exact clock, at three times the cost")
            }
            Self::VxlanRoom => (PATH, "room for VXLAN over IPv4", "5.13", "tunnels on the kernel path"),
            Self::VxlanRoomIpv6 => {
                (PATH, "room for VXLAN over IPv6", "5.13", "tunnels over IPv6 on the kernel path")
            }
            Self::IpipRoom => (PATH, "room for IP in IP", "5.8", "tunnels of ipip on the kernel path"),
            Self::MixedRoom => (
                PATH,
                "stripping a tunnel of the other family",
                "6.3",
                "tunnels of one family that carry the other are the kernel's",
            ),
            Self::Tcx => (PATH, "tcx links", "6.6", "clsact filters instead"),
            Self::Clsact => (PATH, "clsact filters", "4.5", "tcx links alone"),
            Self::BpfFs => {
                (SITE, "BPF file system on /sys/fs/bpf", "4.4", "restarts of the agent take the kernel path")
            }
            Self::Nftables => (SITE, "nf_tables", "3.14", "no flow is verified: --fast-path always or none"),
            Self::NftTool => (SITE, "the tool nft", "", "no flow is verified: --fast-path always or none"),
            Self::Conntrack => (SITE, "connection tracking", "", "no flow is verified"),
            Self::LiberalConntrack => {
                (SITE, "nf_conntrack_tcp_be_liberal may be 1", "2.6", "TCP on the kernel path")
            }
            Self::VxlanDevice => (SITE, "vxlan devices", "3.7", "no vxlan backend at all"),
            Self::IpipDevice => (SITE, "ipip devices", "2.2", "programs do for ipip what they would"),
            Self::Forwarding => (SITE, "net.ipv4.ip_forward is 1", "", "pods' IPv4 packets stay on the node"),
            Self::Ipv6Forwarding => {
                (SITE, "net.ipv6.conf.all.forwarding is 1", "", "pods' IPv6 packets stay on the node")
            }
            Self::NetAdmin => (RIGHTS, "CAP_NET_ADMIN", "", "neither path can be set up"),
            Self::Bpf => (RIGHTS, "CAP_BPF", "5.8", "no programs, unless with CAP_SYS_ADMIN"),
            Self::Perfmon => (RIGHTS, "CAP_PERFMON", "5.8", "no programs, unless with CAP_SYS_ADMIN"),
            Self::SysAdmin => (
                RIGHTS,
                "CAP_SYS_ADMIN",
                "",
                "/sys/fs/bpf has to be mounted already; kernels before 5.8: no programs",
            ),
        };
        About { group, name: name.to_owned(), since, without }
    }
}

/// What was found, with a detail where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is there.
    Yes,
    /// It is not.
    No(String),
    /// It could not be asked.
    Unknown(String),
}

impl Answer {
    /// Nobody could ask: what only our own programs can say, and they do not load.
    pub(super) fn not_asked() -> Self {
        Self::Unknown("no program loads that could be asked".to_owned())
    }

    /// One that needs no explanation.
    pub(super) fn plain(is_there: bool) -> Self {
        if is_there { Self::Yes } else { Self::No(String::new()) }
    }

    /// The word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No(_) => "no",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What there is to add.
    pub(super) fn detail(&self) -> &str {
        match self {
            Self::Yes => "",
            Self::No(detail) | Self::Unknown(detail) => detail,
        }
    }
}

/// A feature with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) feature: Feature,
    pub(super) answer: Answer,
}

impl Row {
    pub(super) fn new(feature: Feature, answer: Answer) -> Self {
        Self { feature, answer }
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let About { group, name, since, without } = self.feature.about();
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in [
            ("group", group),
            ("feature", name.as_str()),
            ("here", self.answer.word()),
            ("since", since),
            ("without", without),
            ("detail", self.answer.detail()),
        ] {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_feature_is_listed_once_and_groups_stay_together() {
        let all: Vec<Feature> = Feature::all().collect();
        let names: BTreeSet<String> = all.iter().map(|feature| feature.about().name).collect();
        assert_eq!(names.len(), all.len());
        let mut groups: Vec<&str> = all.iter().map(|feature| feature.about().group).collect();
        groups.dedup();
        assert_eq!(groups, [BASICS, PATH, PROGRAMS, SITE, RIGHTS]);
    }
}
