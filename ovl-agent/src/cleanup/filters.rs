//! clsact filters, which outlive the agent that was killed; tcx links don't.

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ovl_common::Program;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use super::{Leftover, Removal};
use crate::bpf::PRIORITY;
use crate::netlink::{describe, interfaces};

/// The kind of filter that runs a BPF program.
const KIND: &str = "bpf";

/// The filters that any agent made, of whatever overlay: with our priority, and a program with the name of one of ours.
pub(super) async fn find(handle: &Handle) -> Result<Vec<Leftover>> {
    let mut leftovers = Vec::new();
    for (ifindex, interface) in interfaces(handle).await? {
        let mut filters = handle.traffic_filter(i32::try_from(ifindex)?);
        for direction in ["ingress", "egress"] {
            let request = filters.get();
            let request = if direction == "ingress" { request.ingress() } else { request.egress() };
            let found: Vec<TcMessage> = request
                .execute()
                .try_collect()
                .await
                .map_err(describe)
                .with_context(|| format!("cannot list the tc filters of {}", interface.name))?;
            leftovers.extend(found.into_iter().filter_map(|filter| {
                let program = our_program(&filter)?;
                let what = format!("tc filter {program} on {} {direction}", interface.name);
                Some(Leftover { what, how: Removal::Filter(filter) })
            }));
        }
    }
    Ok(leftovers)
}

pub(super) async fn remove(handle: &Handle, filter: TcMessage) -> Result<()> {
    let mut message = TcMessage::default();
    message.header = filter.header;
    message.attributes.push(TcAttribute::Kind(KIND.to_owned()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut handle = handle.clone();
    let mut answers = handle.request(request).context("cannot ask the kernel")?;
    while let Some(answer) = answers.next().await {
        // EINVAL: the qdisc went, and the filter with it.
        if let NetlinkPayload::Error(error) = answer.payload
            && let Some(code) = error.code
            && !matches!(code.get().abs(), nix::libc::ENOENT | nix::libc::EINVAL | nix::libc::ENODEV)
        {
            return Err(std::io::Error::from_raw_os_error(code.get().abs()).into());
        }
    }
    Ok(())
}

/// The program that the filter runs, where it is one of ours.
fn our_program(filter: &TcMessage) -> Option<&'static str> {
    if filter.header.info >> 16 != u32::from(PRIORITY)
        || !filter.attributes.contains(&TcAttribute::Kind(KIND.to_owned()))
    {
        return None;
    }
    let name = filter.attributes.iter().find_map(|attribute| {
        if let TcAttribute::Options(options) = attribute { program_name(options) } else { None }
    })?;
    Program::ALL.iter().map(|program| program.name()).find(|ours| *ours == name)
}

fn program_name(options: &[TcOption]) -> Option<&str> {
    options.iter().find_map(|option| {
        if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option { Some(name.as_str()) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_ours_by_priority_kind_and_program() {
        let filter = |priority: u32, kind: &str, program: &str| {
            let mut message = TcMessage::default();
            message.header.info = priority << 16 | 3;
            message.attributes = vec![
                TcAttribute::Kind(kind.into()),
                TcAttribute::Options(vec![TcOption::Bpf(TcFilterBpfOption::ProgName(program.into()))]),
            ];
            message
        };
        assert_eq!(our_program(&filter(111, "bpf", "from_pod")), Some("from_pod"));
        assert_eq!(our_program(&filter(111, "bpf", "to_pod")), Some("to_pod"));
        for (priority, kind, program) in [
            (110, "bpf", "from_pod"),
            (111, "flower", "from_pod"),
            (111, "bpf", "cil_from_netdev"),
            (0, "bpf", ""),
        ] {
            assert_eq!(our_program(&filter(priority, kind, program)), None, "{priority} {kind} {program}");
        }
    }
}
