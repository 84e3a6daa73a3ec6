//! clsact filters that run our programs. They stay where they are until somebody removes them, also when their agent was
//! killed.

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ovl_common::Program;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use super::{Hook, programs};
use crate::netlink::describe;

/// The priority of our filters. With the names of their programs it tells them from everybody else's.
pub(crate) const PRIORITY: u16 = 111;
/// The kind of filter that runs a BPF program.
const KIND: &str = "bpf";

/// A filter of ours.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// Where it is, and what it runs.
    pub(crate) hook: Hook,
    message: TcMessage,
}

impl Filter {
    /// Of any overlay, at any direction of an interface.
    pub(crate) async fn list(handle: &Handle, ifindex: u32) -> Result<Vec<Self>> {
        let mut filters = Vec::new();
        for is_egress in [false, true] {
            let mut request = handle.traffic_filter(i32::try_from(ifindex)?);
            let request = if is_egress { request.get().egress() } else { request.get().ingress() };
            let found: Vec<TcMessage> =
                request.execute().try_collect().await.map_err(describe).context("cannot list tc filters")?;
            filters.extend(found.into_iter().filter_map(|message| {
                let program = our_program(&message)?;
                Some(Self { hook: Hook { ifindex, program }, message })
            }));
        }
        Ok(filters)
    }

    /// Which overlay it is of: `TcHandle` as a number.
    pub(super) fn handle(&self) -> u32 {
        self.message.header.handle.into()
    }

    /// Removes it. Where it is gone already, that is all right.
    pub(crate) async fn remove(&self, handle: &Handle) -> Result<()> {
        let mut message = TcMessage::default();
        message.header = self.message.header.clone();
        message.attributes.push(TcAttribute::Kind(KIND.to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut handle = handle.clone();
        let mut answers = handle.request(request).context("cannot ask the kernel to remove a tc filter")?;
        while let Some(answer) = answers.next().await {
            // EINVAL: the qdisc went, and the filter with it.
            if let NetlinkPayload::Error(error) = answer.payload
                && let Some(code) = error.code
                && !matches!(code.get().abs(), nix::libc::ENOENT | nix::libc::EINVAL | nix::libc::ENODEV)
            {
                return Err(std::io::Error::from_raw_os_error(code.get().abs()))
                    .context("cannot remove a tc filter");
            }
        }
        Ok(())
    }
}

/// The program that the filter runs, where it is one of ours.
fn our_program(filter: &TcMessage) -> Option<Program> {
    if filter.header.info >> 16 != u32::from(PRIORITY)
        || !filter.attributes.contains(&TcAttribute::Kind(KIND.to_owned()))
    {
        return None;
    }
    let name = filter.attributes.iter().find_map(|attribute| {
        if let TcAttribute::Options(options) = attribute { program_name(options) } else { None }
    })?;
    programs::called(name)
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
        assert_eq!(our_program(&filter(111, "bpf", "from_pod")), Some(Program::FromPod));
        assert_eq!(our_program(&filter(111, "bpf", "to_pod")), Some(Program::ToPod));
        for name in ["ipip_to_overlay", "ipip_to_tunnel"] {
            assert_eq!(our_program(&filter(111, "bpf", name)), Some(Program::ToOverlay));
        }
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
