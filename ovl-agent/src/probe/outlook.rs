//! What an agent would do here, as a sentence for each backend.

use ovl_common::Program;
use serde::Serialize;

use super::feature::{Answer, Feature, Row};

/// Who would carry packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Path {
    /// The programs, with the defaults of the command line.
    Fast,
    /// The kernel's own devices.
    Kernel,
    /// Nobody.
    None,
}

/// What would become of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Outlook {
    pub(super) backend: &'static str,
    pub(super) path: Path,
    /// Without the backend's name.
    pub(super) sentence: String,
}

impl Outlook {
    /// What the exit status says.
    pub(super) fn is_fast_vxlan(&self) -> bool {
        self.backend == VXLAN && self.path == Path::Fast
    }
}

const VXLAN: &str = "vxlan";
const HOST_GW: &str = "host-gw";
const IPIP: &str = "ipip";
const ALLOC: &str = "alloc";

/// A sentence for each backend.
pub(super) fn outlook(rows: &[Row]) -> Vec<Outlook> {
    let answers = Answers(rows);
    let alloc = "leases a subnet and leaves the packets to others".to_owned();
    vec![
        answers.of(VXLAN),
        answers.of(HOST_GW),
        answers.of(IPIP),
        Outlook { backend: ALLOC, path: Path::None, sentence: alloc },
    ]
}

struct Answers<'a>(&'a [Row]);

impl Answers<'_> {
    fn of(&self, backend: &'static str) -> Outlook {
        let outlook = |path, sentence| Outlook { backend, path, sentence };
        if let Err(reason) = self.can_work(backend) {
            return outlook(Path::None, format!("does not work, because {reason}"));
        }
        let (path, mut sentence) = match self.fast(backend) {
            Ok(way) => (Path::Fast, format!("fast path by {way}")),
            Err(reason) => (Path::Kernel, format!("kernel path, because {reason}")),
        };
        let caveats = if path == Path::Fast { self.caveats(backend) } else { Vec::new() };
        for caveat in caveats.into_iter().chain(self.unforwarded()) {
            sentence.push_str("; ");
            sentence.push_str(&caveat);
        }
        outlook(path, sentence)
    }

    /// What both paths need.
    fn can_work(&self, backend: &str) -> Result<(), String> {
        if let Answer::No(_) = self.answer(Feature::NetAdmin) {
            return Err("this process lacks CAP_NET_ADMIN".to_owned());
        }
        match self.answer(Feature::VxlanDevice) {
            Answer::No(detail) if backend == VXLAN => {
                Err(format!("this kernel makes no vxlan devices{}", aside(detail)))
            }
            Answer::Yes | Answer::No(_) | Answer::Unknown(_) if backend == IPIP => {
                let Answer::No(detail) = self.answer(Feature::IpipDevice) else { return Ok(()) };
                let lacks = format!("this kernel makes no ipip devices{}", aside(detail));
                self.attached(backend)
                    .map(|_| ())
                    .map_err(|reason| format!("{lacks} and programs cannot stand in for them: {reason}"))
            }
            Answer::Yes | Answer::No(_) | Answer::Unknown(_) => Ok(()),
        }
    }

    /// What carries packets fast, or what keeps them from it.
    fn fast(&self, backend: &str) -> Result<&'static str, String> {
        let way = self.attached(backend)?;
        for (feature, what) in [(Feature::Nftables, "nf_tables"), (Feature::NftTool, "the tool nft")] {
            if let Answer::No(detail) = self.answer(feature) {
                return Err(format!(
                    "no flow can be verified without {what}{}; --fast-path always does not verify",
                    aside(detail)
                ));
            }
        }
        Ok(way)
    }

    /// How programs would be attached, or what keeps packets from them.
    fn attached(&self, backend: &str) -> Result<&'static str, String> {
        if let Answer::No(detail) = self.answer(Feature::ProgramLoad) {
            return Err(format!("programs may not be loaded{}", aside(detail)));
        }
        let needed =
            |row: &&Row| matches!(row.feature, Feature::Loads(program) if Program::TC.contains(&program));
        let programs = self.0.iter().filter(needed);
        for Row { feature, answer } in programs {
            let name = feature.about().name;
            match answer {
                Answer::Yes => {}
                Answer::No(detail) => return Err(format!("{name} does not load{}", aside(detail))),
                Answer::Unknown(detail) => {
                    return Err(format!("{name} could not be tried{}", aside(detail)));
                }
            }
        }
        // As the agent has it: where it cannot be asked, it is there.
        let room = match backend {
            VXLAN => self.answer(Feature::VxlanRoom),
            IPIP => self.answer(Feature::IpipRoom),
            _ => &Answer::Yes,
        };
        if let Answer::No(_) = room {
            return Err("this kernel cannot mark packets as a tunnel's for GSO".to_owned());
        }
        let way = match (self.answer(Feature::Tcx), self.answer(Feature::Clsact)) {
            (Answer::Yes, _) => "tcx",
            (_, Answer::Yes) => "clsact filters",
            (tcx, clsact) => {
                let detail = [tcx, clsact].map(Answer::detail).into_iter().find(|detail| !detail.is_empty());
                let detail = aside(detail.unwrap_or_default());
                return Err(format!("programs cannot be attached by tcx links or clsact filters{detail}"));
            }
        };
        Ok(way)
    }

    /// What would not be as fast as it could.
    fn caveats(&self, backend: &str) -> Vec<String> {
        let mut caveats = Vec::new();
        let mut note = |feature, caveat: &str| {
            if let Answer::No(detail) = self.answer(feature) {
                caveats.push(format!("{caveat}{}", aside(detail)));
            }
        };
        if backend == VXLAN {
            note(Feature::VxlanRoomIpv6, "tunnels over IPv6 on the kernel path");
        } else if backend == IPIP {
            note(Feature::IpipDevice, "programs stand in for the kernel's device");
        }
        note(Feature::LiberalConntrack, "TCP on the kernel path, as nf_conntrack_tcp_be_liberal cannot be 1");
        note(Feature::Jit, "slow without the JIT compiler");
        // The agent mounts one where it may.
        if *self.answer(Feature::SysAdmin) != Answer::Yes {
            note(Feature::BpfFs, "restarts of the agent take the kernel path");
        }
        caveats
    }

    /// On either path.
    fn unforwarded(&self) -> Option<String> {
        let Answer::No(_) = self.answer(Feature::Forwarding) else { return None };
        Some("no IPv4 packet leaves the node before net.ipv4.ip_forward is 1".to_owned())
    }

    fn answer(&self, feature: Feature) -> &Answer {
        self.0.iter().find(|row| row.feature == feature).map_or(&Answer::Yes, |row| &row.answer)
    }
}

/// A detail in brackets, where there is one.
fn aside(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

#[cfg(test)]
mod tests {
    use ovl_common::Program;

    use super::*;

    /// The sentences for vxlan, host-gw and ipip where everything is there but for some features.
    fn sentences(but: &[(Feature, Answer)]) -> [(Path, String); 3] {
        let answer = |feature| {
            let other = but.iter().find(|(other, _)| *other == feature);
            other.map_or(Answer::Yes, |(_, answer)| answer.clone())
        };
        let rows: Vec<Row> = Feature::all().map(|feature| Row::new(feature, answer(feature))).collect();
        let all = outlook(&rows);
        let names: Vec<&str> = all.iter().map(|outlook| outlook.backend).collect();
        assert_eq!(names, ["vxlan", "host-gw", "ipip", "alloc"]);
        assert_eq!(all.iter().any(Outlook::is_fast_vxlan), all[0].path == Path::Fast);
        [0, 1, 2].map(|index| (all[index].path, all[index].sentence.clone()))
    }

    /// What differs, and what is to be said of vxlan and of host-gw.
    type Case<'a> = (Vec<(Feature, Answer)>, (Path, &'a str), (Path, &'a str));

    #[test]
    fn what_is_missing_decides_the_path() {
        use Feature as F;
        use Path::{Fast, Kernel, None};
        let no = || Answer::No(String::new());
        let because = |reason: &str| Answer::No(reason.to_owned());
        let unknown = || Answer::Unknown("EPERM".to_owned());
        let tcx = "fast path by tcx";
        let loads = F::Loads(Program::FromPod);
        let table: Vec<Case<'_>> = vec![
            (vec![], (Fast, tcx), (Fast, tcx)),
            (
                vec![(F::Tcx, no())],
                (Fast, "fast path by clsact filters"),
                (Fast, "fast path by clsact filters"),
            ),
            (vec![(F::VxlanRoom, no())], (Kernel, "cannot mark packets as a tunnel's"), (Fast, tcx)),
            (vec![(F::VxlanRoom, unknown())], (Fast, tcx), (Fast, tcx)),
            (vec![(F::VxlanRoomIpv6, no())], (Fast, "; tunnels over IPv6 on the kernel path"), (Fast, tcx)),
            (vec![(F::VxlanDevice, no())], (None, "makes no vxlan devices"), (Fast, tcx)),
            (
                vec![(loads, because("R1 invalid"))],
                (Kernel, "because from_pod does not load (R1 invalid)"),
                (Kernel, "from_pod does not load (R1 invalid)"),
            ),
            (
                vec![(loads, unknown())],
                (Kernel, "from_pod could not be tried (EPERM)"),
                (Kernel, "could not be tried"),
            ),
            (
                vec![(F::ProgramLoad, because("EPERM")), (loads, unknown())],
                (Kernel, "programs may not be loaded (EPERM)"),
                (Kernel, "programs may not be loaded (EPERM)"),
            ),
            (
                vec![(F::NftTool, because("not installed"))],
                (Kernel, "without the tool nft (not installed); --fast-path always"),
                (Kernel, "without the tool nft"),
            ),
            (
                vec![(F::LiberalConntrack, because("read-only"))],
                (Fast, "; TCP on the kernel path, as nf_conntrack_tcp_be_liberal cannot be 1 (read-only)"),
                (Fast, "; TCP on the kernel path"),
            ),
            (
                vec![(F::Tcx, unknown()), (F::Clsact, unknown())],
                (Kernel, "cannot be attached by tcx links or clsact filters (EPERM)"),
                (Kernel, "cannot be attached"),
            ),
            (vec![(F::NetAdmin, no())], (None, "lacks CAP_NET_ADMIN"), (None, "lacks CAP_NET_ADMIN")),
            (vec![(F::Forwarding, no())], (Fast, "before net.ipv4.ip_forward is 1"), (Fast, "ip_forward")),
            (vec![(F::BpfFs, no())], (Fast, tcx), (Fast, tcx)),
            (
                vec![(F::BpfFs, no()), (F::SysAdmin, no())],
                (Fast, "; restarts of the agent take the kernel path"),
                (Fast, "; restarts"),
            ),
        ];
        for (but, vxlan, host_gw) in table {
            for (found, (path, part)) in sentences(&but).iter().zip([vxlan, host_gw]) {
                assert_eq!(found.0, path, "{but:?}: {}", found.1);
                assert!(found.1.contains(part), "{but:?}: '{part}' is not in: {}", found.1);
            }
        }
    }

    /// What differs, and what is to be said of ipip.
    type IpipCase<'a> = (Vec<(Feature, Answer)>, Path, &'a str);

    #[test]
    fn ipip_needs_a_device_of_the_kernel_or_programs() {
        use Feature as F;
        use Path::{Fast, Kernel, None};
        let no = || Answer::No(String::new());
        let loads = F::Loads(Program::FromPod);
        let table: [IpipCase<'_>; 6] = [
            (vec![], Fast, "fast path by tcx"),
            (vec![(F::IpipDevice, no())], Fast, "; programs stand in for the kernel's device"),
            (vec![(F::IpipRoom, no())], Kernel, "cannot mark packets as a tunnel's"),
            (vec![(loads, no())], Kernel, "from_pod does not load"),
            (vec![(F::IpipDevice, no()), (loads, no())], None, "programs cannot stand in for them: from_pod"),
            (vec![(F::IpipDevice, no()), (F::NftTool, no())], Kernel, "without the tool nft"),
        ];
        for (but, path, part) in table {
            let (found, sentence) = &sentences(&but)[2];
            assert_eq!(*found, path, "{but:?}: {sentence}");
            assert!(sentence.contains(part), "{but:?}: '{part}' is not in: {sentence}");
        }
    }
}
