//! Questions to rtnetlink: each asks for something with a value that the kernel refuses only once it knows the kind.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::feature::{Answer, Feature, NOT_PERMITTED};
use crate::family::Family;
use crate::netlink;

/// `lo` has it in every network namespace (`LOOPBACK_IFINDEX` in linux/net/flow.h).
const LOOPBACK: i32 = 1;
/// One beyond the VNIs, which have 24 bits (RFC 7348). The driver answers ERANGE since there is one.
const NO_VNI: u32 = 1 << 24;
/// `TC_H_CLSACT`, and the handle that a qdisc there has (`linux/pkt_sched.h`).
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const CLSACT_HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// `TCA_INGRESS_BLOCK` (`linux/rtnetlink.h`). Number 0 is refused before anything is made, since there are blocks (4.16).
const INGRESS_BLOCK: u16 = 13;

/// Everything that is asked this way.
pub(super) async fn ask() -> BTreeMap<Feature, Answer> {
    let handle = match netlink::connect() {
        Ok(handle) => handle,
        Err(error) => {
            let answer = Answer::Unknown(format!("{error:#}"));
            return [Feature::VxlanDevice, Feature::IpipDevice, Feature::Clsact]
                .map(|feature| (feature, answer.clone()))
                .into();
        }
    };
    BTreeMap::from([
        (Feature::VxlanDevice, judge(vxlan(&handle).await, nix::libc::EOPNOTSUPP, nix::libc::ERANGE)),
        (Feature::IpipDevice, ipip(&handle).await),
        (Feature::Clsact, judge(clsact(&handle).await, nix::libc::ENOENT, nix::libc::EINVAL)),
    ])
}

/// What an errno means: one is that of a kernel that does not know the kind, another of one that does.
fn judge(asked: Result<(), i32>, absent: i32, present: i32) -> Answer {
    match asked {
        Ok(()) => Answer::Yes,
        // There is one already.
        Err(errno) if errno == present || errno == nix::libc::EEXIST => Answer::Yes,
        Err(errno) if errno == absent || errno == nix::libc::EOPNOTSUPP => Answer::No(String::new()),
        Err(0) => Answer::Unknown("the kernel did not answer".to_owned()),
        Err(nix::libc::EPERM) => Answer::Unknown(NOT_PERMITTED.to_owned()),
        Err(errno) => Answer::Unknown(std::io::Error::from_raw_os_error(errno).to_string()),
    }
}

async fn vxlan(handle: &Handle) -> Result<(), i32> {
    let mut message = LinkMessage::default();
    let data = InfoData::Vxlan(vec![InfoVxlan::Id(NO_VNI)]);
    let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(data)];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    send(handle, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await
}

/// A module may be loaded for it.
async fn ipip(handle: &Handle) -> Answer {
    match netlink::has_ip_tunnel(handle, Family::V4).await {
        Ok(true) => Answer::Yes,
        Ok(false) => Answer::No(String::new()),
        // No errno means that it is not there, or there.
        Err(errno) => judge(Err(errno), 0, 0),
    }
}

async fn clsact(handle: &Handle) -> Result<(), i32> {
    let mut message = TcMessage::default();
    message.header.index = LOOPBACK;
    message.header.parent = CLSACT;
    message.header.handle = CLSACT_HANDLE;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    let mut refused = message.clone();
    refused.attributes.push(TcAttribute::Other(DefaultNla::new(INGRESS_BLOCK, vec![0; 4])));
    let request = RouteNetlinkMessage::NewQueueDiscipline(refused);
    send(handle, request, NLM_F_CREATE | NLM_F_EXCL).await?;
    // A kernel that knows no blocks made one.
    send(handle, RouteNetlinkMessage::DelQueueDiscipline(message), 0).await
}

/// Sends a request; the errno it was refused with, 0 where no answer came.
async fn send(handle: &Handle, message: RouteNetlinkMessage, flags: u16) -> Result<(), i32> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = handle.clone().request(request).map_err(|_closed| 0)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return error.code.map_or(Ok(()), |code| Err(code.get().abs()));
        }
    }
    Err(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_refusals_are_an_answer() {
        use nix::libc::{EEXIST, EINVAL, ENOENT, EOPNOTSUPP, EPERM, ERANGE};
        let vxlan = |errno| judge(Err(errno), EOPNOTSUPP, ERANGE).word();
        assert_eq!([ERANGE, EOPNOTSUPP, EPERM, EINVAL].map(vxlan), ["yes", "no", "unknown", "unknown"]);
        let clsact = |errno| judge(Err(errno), ENOENT, EINVAL).word();
        assert_eq!(
            [EINVAL, EEXIST, ENOENT, EPERM, 0].map(clsact),
            ["yes", "yes", "no", "unknown", "unknown"]
        );
    }
}
