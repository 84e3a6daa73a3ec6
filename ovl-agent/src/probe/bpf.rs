//! Questions to the BPF system call: small maps and programs are made and go away at once.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_map_supported, is_program_supported};
use ovl_common::Program;

use super::feature::{Answer, Feature, NOT_PERMITTED};
use crate::bpf::{LoadError, Trial, features};

/// Bytes of a VXLAN tunnel's headers (outer IP, UDP, VXLAN, inner Ethernet), by the outer family.
const TUNNEL: i32 = 50;
const TUNNEL_IPV6: i32 = 70;
/// The same of a tunnel that is an IPv4 header.
const IP_HEADER: i32 = 20;

/// Everything that is asked this way.
pub(super) fn ask() -> BTreeMap<Feature, Answer> {
    let mut answers = BTreeMap::from([
        (Feature::Btf, Answer::plain(Path::new("/sys/kernel/btf/vmlinux").exists())),
        (Feature::Tcx, tcx(SchedClassifier::query_tcx("lo", TcAttachType::Ingress))),
    ]);
    let loads = is_program_supported(ProgramType::SchedClassifier);
    answers.insert(
        Feature::ProgramLoad,
        match &loads {
            Ok(_) => Answer::Yes,
            Err(error) => refused(error),
        },
    );
    answers.insert(Feature::SchedCls, told(loads));
    for (feature, map) in [
        (Feature::LpmTrie, MapType::LpmTrie),
        (Feature::LruHash, MapType::LruHash),
        (Feature::PerCpuArray, MapType::PerCpuArray),
        (Feature::RingBuffer, MapType::RingBuf),
    ] {
        answers.insert(feature, told(is_map_supported(map)));
    }
    for (feature, helper) in [
        (Feature::RedirectNeigh, BpfHelper::BPF_FUNC_redirect_neigh),
        (Feature::RedirectPeer, BpfHelper::BPF_FUNC_redirect_peer),
        (Feature::FlowHash, BpfHelper::BPF_FUNC_get_hash_recalc),
        (Feature::CsumLevel, BpfHelper::BPF_FUNC_csum_level),
        (Feature::CoarseClock, BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
    ] {
        answers.insert(feature, told(features::has_helper(helper)));
    }
    answers.extend(try_programs());
    answers
}

/// What our own programs say.
fn try_programs() -> BTreeMap<Feature, Answer> {
    let mut trial = match Trial::new() {
        Ok(trial) => trial,
        Err(error) => {
            let answer = unless_denied(&error);
            return Program::ALL
                .into_iter()
                .map(|program| (Feature::Loads(program), answer.clone()))
                .collect();
        }
    };
    let mut answers = BTreeMap::new();
    for program in Program::ALL {
        let loaded = trial.load(program);
        if let Ok(is_jitted) = loaded {
            answers.insert(Feature::Jit, Answer::plain(is_jitted));
        }
        answers.insert(
            Feature::Loads(program),
            loaded.map_or_else(|error| unless_denied(&error), |_| Answer::Yes),
        );
    }
    for (feature, bytes, flags) in [
        (Feature::VxlanRoom, TUNNEL, features::ENCAP_VXLAN),
        (Feature::VxlanRoomIpv6, TUNNEL_IPV6, features::ENCAP_VXLAN_IPV6),
        (Feature::IpipRoom, IP_HEADER, features::ENCAP_IPIP),
        (Feature::MixedRoom, -TUNNEL, features::DECAP_MIXED),
    ] {
        let cannot = || Answer::Unknown("the program that asks does not run here".to_owned());
        answers.insert(feature, trial.takes_room(bytes, flags).map_or_else(cannot, Answer::plain));
    }
    answers
}

/// A missing right says nothing about the kernel.
fn unless_denied(error: &LoadError) -> Answer {
    if error.is_about_rights() {
        return Answer::Unknown(NOT_PERMITTED.to_owned());
    }
    Answer::No(format!("{}: {}", error.step, error.reason))
}

fn told(answer: Result<bool, impl std::error::Error>) -> Answer {
    answer.map_or_else(|error| Answer::Unknown(chain(&error)), Answer::plain)
}

fn refused(error: &ProgramError) -> Answer {
    Answer::No(chain(error))
}

/// The kernel answers EINVAL where it does not know the attach type. Where it does, naming the programs that are there
/// takes more rights than asking for them.
fn tcx<T>(queried: Result<T, ProgramError>) -> Answer {
    match queried {
        Ok(_) => Answer::Yes,
        Err(ProgramError::SyscallError(error)) if error.call != "bpf_prog_query" => Answer::Yes,
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(nix::libc::EINVAL) =>
        {
            Answer::No(String::new())
        }
        Err(error) => Answer::Unknown(chain(&error)),
    }
}

/// An error with its causes; of a missing right, that alone.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            return NOT_PERMITTED.to_owned();
        }
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn an_unknown_attach_type_is_no_and_a_missing_right_is_unknown() {
        let failed = |call, errno| {
            tcx::<()>(Err(SyscallError { call, io_error: io::Error::from_raw_os_error(errno) }.into()))
        };
        assert_eq!(tcx(Ok(())), Answer::Yes);
        assert_eq!(failed("bpf_prog_query", nix::libc::EINVAL).word(), "no");
        assert_eq!(failed("bpf_prog_query", nix::libc::EPERM).word(), "unknown");
        assert_eq!(failed("bpf_prog_get_fd_by_id", nix::libc::EPERM).word(), "yes");
    }
}
