//! Where the programs are attached: tcx links where the kernel has them, clsact filters elsewhere.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, tc};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ovl_common::Program;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcHandle as PacketTcHandle, TcMessage};
use tracing::{debug, info};

use super::load::LoadError;
use super::pins::Pins;
use crate::table::Table;

/// The priority of our filters. With the handle, which is the overlay's, it tells them from everybody else's.
pub(crate) const PRIORITY: u16 = 111;
/// `ETH_P_ALL` as it stands in a filter's `info`.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// `--tc-attach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TcAttach {
    /// tcx links where the kernel has them, else clsact filters.
    Auto,
    /// tcx links only (kernel 6.6 and later).
    Tcx,
    /// clsact filters only.
    Clsact,
}

/// `--tcx-order`: which programs of others on the same interface see a packet before ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TcxOrder {
    /// None.
    First,
    /// All: what they drop or change is not there for the fast path.
    Last,
}

/// A place a program is attached at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    /// The interface.
    pub ifindex: u32,
    /// The program.
    pub program: Program,
}

impl Hook {
    fn direction(self) -> TcAttachType {
        match self.program {
            Program::FromPod | Program::FromWire => TcAttachType::Ingress,
            Program::ToPod | Program::ToOverlay => TcAttachType::Egress,
        }
    }
}

/// The interface's name, which aya attaches by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface.
    pub interface: String,
}

struct Held {
    attachment: Attachment,
    way: Way,
}

/// What keeps a program where it is.
enum Way {
    /// A tcx link: until its last descriptor or pin goes.
    Link(#[expect(dead_code, reason = "held for its descriptor")] SchedClassifierLink),
    /// A pinned tcx link: until the pin goes.
    Pinned(#[expect(dead_code, reason = "held for its descriptor")] PinnedLink),
    /// A clsact filter: until it is removed.
    Filter,
}

/// The attachments of this overlay. Pinned links and clsact filters outlive the process, whose successor takes them over;
/// their programs stop acting once the deadline is past.
pub struct AttachmentTable {
    handle: Handle,
    how: TcAttach,
    order: TcxOrder,
    pins: Option<Pins>,
    /// The handle of this overlay's filters.
    filter: TcHandle,
    held: BTreeMap<Hook, Held>,
}

/// The table for one pass, with the programs it attaches.
pub struct Attaching<'a> {
    table: &'a mut AttachmentTable,
    programs: &'a mut Ebpf,
}

impl AttachmentTable {
    /// No attachments yet. `overlay` is the network's range, whose filters are told from another overlay's by it.
    pub fn new(handle: Handle, how: TcAttach, order: TcxOrder, overlay: &str) -> Self {
        Self { handle, how, order, pins: None, filter: filter_handle(overlay), held: BTreeMap::new() }
    }

    /// Says where attachments are to be pinned, and removes those that are no use to this agent: of programs elsewhere
    /// than before it is told by [`Table::delete`].
    pub fn pin_in(&mut self, pins: Pins) {
        self.pins = Some(pins);
    }

    /// Removes the filters that an agent of this overlay left on `interfaces` when it was killed.
    pub async fn remove_leftovers(&self, interfaces: impl Iterator<Item = u32>) -> Result<()> {
        for ifindex in interfaces {
            // One of each direction.
            for program in [Program::FromPod, Program::ToPod] {
                self.remove_filter(Hook { ifindex, program }).await?;
            }
        }
        Ok(())
    }

    /// The table for one pass.
    pub fn with<'a>(&'a mut self, programs: &'a mut Ebpf) -> Attaching<'a> {
        Attaching { table: self, programs }
    }

    /// `tcx`, `clsact` or, before anything is attached, `none`.
    pub fn kind(&self) -> &'static str {
        match self.held.values().next() {
            None => "none",
            Some(held) if held.is_tcx() => "tcx",
            Some(_) => "clsact",
        }
    }

    /// Takes every program off.
    pub async fn detach_all(&mut self) {
        let hooks: Vec<Hook> = self.held.keys().copied().collect();
        for hook in hooks {
            if let Err(error) = self.detach(hook).await {
                debug!("cannot detach {}: {error:#}", hook.program.name());
            }
        }
    }

    async fn detach(&mut self, hook: Hook) -> Result<()> {
        if let Some(pins) = &self.pins {
            Pins::remove(&pins.link(hook))?;
        }
        // Closing the descriptor detaches; an interface that is gone took the attachment along.
        match self.held.remove(&hook) {
            Some(Held { way: Way::Filter, .. }) => self.remove_filter(hook).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn filter_exists(&self, hook: Hook) -> Result<bool> {
        let mut filters = self.handle.traffic_filter(i32::try_from(hook.ifindex)?);
        let request = filters.get();
        let request = match hook.direction() {
            TcAttachType::Egress => request.egress(),
            TcAttachType::Ingress | TcAttachType::Custom(_) => request.ingress(),
        };
        let found: Vec<TcMessage> = request.execute().try_collect().await?;
        Ok(found.iter().any(|filter| {
            filter.header.info >> 16 == u32::from(PRIORITY)
                && u32::from(filter.header.handle) == u32::from(self.filter)
        }))
    }

    async fn remove_filter(&self, hook: Hook) -> Result<()> {
        let mut message = TcMessage::default();
        message.header.index = i32::try_from(hook.ifindex)?;
        message.header.parent = parent(hook);
        message.header.handle = PacketTcHandle::from(u32::from(self.filter));
        message.header.info = u32::from(PRIORITY) << 16 | u32::from(ALL_PROTOCOLS);
        message.attributes.push(rtnetlink::packet_route::tc::TcAttribute::Kind("bpf".to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(request).context("cannot ask the kernel to remove a tc filter")?;
        while let Some(answer) = answers.next().await {
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

/// A number of its own for every overlay that one is likely to find on one machine (FNV-1a of its name, folded).
fn filter_handle(overlay: &str) -> TcHandle {
    let hash = overlay
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    TcHandle::new(0, u16::from_be_bytes([a ^ c, b ^ d]) | 1)
}

/// `TC_H_CLSACT` with the minor number of the direction (`linux/pkt_sched.h`).
fn parent(hook: Hook) -> PacketTcHandle {
    let minor = match hook.direction() {
        TcAttachType::Egress => 0xfff3,
        TcAttachType::Ingress | TcAttachType::Custom(_) => 0xfff2,
    };
    PacketTcHandle { major: 0xffff, minor }
}

impl Attaching<'_> {
    fn program(&mut self, program: Program) -> Result<&mut SchedClassifier> {
        let found = self.programs.program_mut(program.name()).context("the BPF object lost a program")?;
        found.try_into().context("a BPF program changed its type")
    }

    async fn attach(&mut self, hook: Hook, attachment: &Attachment) -> Result<Held, LoadError> {
        let step = || format!("attaching {} to {}", hook.program.name(), attachment.interface);
        let wrong = |error: anyhow::Error| LoadError {
            step: step(),
            reason: format!("{error:#}"),
            advice: "restart ovl-agent",
        };
        let how = self.table.how;
        if how != TcAttach::Clsact {
            if let Some(way) = self.take_over(hook) {
                return Ok(Held { attachment: attachment.clone(), way });
            }
            let order = match self.table.order {
                TcxOrder::First => LinkOrder::first(),
                TcxOrder::Last => LinkOrder::last(),
            };
            let program = self.program(hook.program).map_err(wrong)?;
            let options = TcAttachOptions::TcxOrder(order);
            match program.attach_with_options(&attachment.interface, hook.direction(), options) {
                Ok(id) => {
                    let link = program.take_link(id).map_err(|error| LoadError::attaching(step(), &error))?;
                    let way = self.pin(hook, link)?;
                    return Ok(Held { attachment: attachment.clone(), way });
                }
                Err(error) if how == TcAttach::Auto && lacks_tcx(&error) => {
                    info!("this kernel has no tcx links; using clsact filters");
                    self.table.how = TcAttach::Clsact;
                }
                Err(error) => return Err(LoadError::attaching(step(), &error)),
            }
        }
        match tc::qdisc_add_clsact(&attachment.interface) {
            Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
            Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(nix::libc::EEXIST) => {}
            Err(error) => {
                return Err(LoadError::attaching(
                    format!("adding clsact to {}", attachment.interface),
                    &error,
                ));
            }
        }
        let filter = self.table.filter;
        let there = self.table.filter_exists(hook).await.map_err(wrong)?;
        let program = self.program(hook.program).map_err(wrong)?;
        let id = if there {
            // An earlier agent's: replaced in one step, so that no packet finds none.
            SchedClassifierLink::attached(&attachment.interface, hook.direction(), PRIORITY, filter, None)
                .map_err(ProgramError::IOError)
                .and_then(|link| program.attach_to_link(link))
        } else {
            let options = NlOptions { priority: PRIORITY, handle: filter, classid: None };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(&attachment.interface, hook.direction(), options)
        };
        let id = id.map_err(|error| LoadError::attaching(step(), &error))?;
        let link = program.take_link(id).map_err(|error| LoadError::attaching(step(), &error))?;
        // aya would remove the filter when the link is dropped; that is ours to do, or our successor's not to.
        std::mem::forget(link);
        Ok(Held { attachment: attachment.clone(), way: Way::Filter })
    }

    /// Whether our program is among those on an interface.
    fn is_linked(&mut self, hook: Hook, interface: &str) -> Result<bool> {
        let program = self.program(hook.program)?.info().context("cannot ask about a BPF program")?.id();
        match SchedClassifier::query_tcx(interface, hook.direction()) {
            Ok((_, programs)) => Ok(programs.iter().any(|info| info.id() == program)),
            // aya looks each of them up by its number, for which it takes CAP_SYS_ADMIN. A link that was taken off
            // cannot be given a program; giving it the one that it has does nothing.
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(nix::libc::EPERM) =>
            {
                Ok(self.table.pins.is_none() || self.take_over(hook).is_some())
            }
            Err(_) => Ok(false),
        }
    }

    /// Puts our program in the place of an earlier agent's, in one step. `None` where there is none to take over, or its
    /// interface is gone and another has its index.
    fn take_over(&mut self, hook: Hook) -> Option<Way> {
        let path = self.table.pins.as_ref()?.link(hook);
        let pinned = PinnedLink::from_pin(&path).ok()?;
        let link = SchedClassifierLink::try_from(FdLink::from(pinned)).ok()?;
        let program = self.program(hook.program).ok()?;
        match program.attach_to_link(link) {
            // The pin keeps the link; aya's descriptor is not needed.
            Ok(id) => {
                let link = program.take_link(id).ok()?;
                Some(Way::Link(link))
            }
            Err(error) => {
                debug!("{} is of no use any more: {error}", path.display());
                if let Err(error) = Pins::remove(&path) {
                    debug!("{error:#}");
                }
                None
            }
        }
    }

    fn pin(&mut self, hook: Hook, link: SchedClassifierLink) -> Result<Way, LoadError> {
        let Some(pins) = &self.table.pins else { return Ok(Way::Link(link)) };
        let path = pins.link(hook);
        let step = || format!("pinning {}", path.display());
        let failed = |error: anyhow::Error| LoadError {
            step: step(),
            reason: format!("{error:#}"),
            advice: "remove what is there with `ovl-agent cleanup --only-pins`",
        };
        Pins::remove(&path).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|error| LoadError::of(&step(), &error))?;
        let pinned = link.pin(&path).map_err(|error| LoadError::of(&step(), &error))?;
        Ok(Way::Pinned(pinned))
    }
}

impl Held {
    fn is_tcx(&self) -> bool {
        !matches!(self.way, Way::Filter)
    }
}

/// `bpf_link_create` answers EINVAL where it does not know the attach type.
fn lacks_tcx(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error)
        if matches!(error.io_error.raw_os_error(), Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP)))
}

impl Table for Attaching<'_> {
    type Key = Hook;
    type Row = Attachment;

    fn name(&self) -> &'static str {
        "tc attachment"
    }

    async fn rows(&mut self) -> Result<BTreeMap<Hook, Attachment>> {
        let mut rows = BTreeMap::new();
        let hooks: Vec<Hook> = self.table.held.keys().copied().collect();
        for hook in hooks {
            let Some(held) = self.table.held.get(&hook) else { continue };
            let (attachment, is_tcx) = (held.attachment.clone(), held.is_tcx());
            let is_attached = if is_tcx {
                self.is_linked(hook, &attachment.interface)?
            } else {
                self.table.filter_exists(hook).await.unwrap_or(false)
            };
            if is_attached {
                rows.insert(hook, attachment);
            } else {
                // Somebody took it off, or the interface went.
                self.table.detach(hook).await?;
            }
        }
        // What an earlier agent pinned and nobody has taken over is unwanted, unless it is put first.
        let pinned = self.table.pins.as_ref().map(Pins::links).unwrap_or_default();
        for hook in pinned.into_iter().filter(|hook| !self.table.held.contains_key(hook)) {
            rows.insert(hook, Attachment { interface: String::new() });
        }
        Ok(rows)
    }

    async fn put(&mut self, hook: &Hook, attachment: &Attachment) -> Result<()> {
        if self.table.held.contains_key(hook) {
            self.table.detach(*hook).await?;
        }
        let held = self.attach(*hook, attachment).await?;
        self.table.held.insert(*hook, held);
        Ok(())
    }

    async fn delete(&mut self, hook: &Hook) -> Result<()> {
        self.table.detach(*hook).await
    }
}
