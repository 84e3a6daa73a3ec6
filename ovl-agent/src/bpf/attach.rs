//! Where the programs are attached: tcx links where the kernel has them, clsact filters elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, Xdp, XdpMode, tc};
use nix::net::if_::if_nametoindex;
use ovl_common::Program;
use rtnetlink::Handle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::count::{TCX_EGRESS, count};
use super::filters::{Filter, PRIORITY};
use super::load::LoadError;
use super::pins::Pins;
use super::xdp::refused;
use crate::netlink::{interfaces, xdp_program};
use crate::table::Table;
use crate::xdp::{Device, Mode};

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
    /// Whether the program sees what comes in by the interface.
    pub(crate) fn is_ingress(self) -> bool {
        match self.program {
            Program::FromPod | Program::FromWire | Program::FromWireXdp => true,
            Program::ToPod | Program::ToOverlay => false,
        }
    }

    fn direction(self) -> TcAttachType {
        if self.is_ingress() { TcAttachType::Ingress } else { TcAttachType::Egress }
    }
}

/// How a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface, which aya attaches by.
    pub interface: String,
    /// The mode of a program of XDP; `None` for those of tc.
    pub xdp: Option<Mode>,
}

impl Attachment {
    /// Of a program of tc.
    pub fn tc(interface: &str) -> Self {
        Self { interface: interface.to_owned(), xdp: None }
    }
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
    /// A link of XDP, as a tcx link.
    Xdp(#[expect(dead_code, reason = "held for its descriptor")] XdpLink),
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
    /// Filters that an earlier agent left, for as long as they stand; `None` before anybody looked.
    left: Option<BTreeSet<Hook>>,
}

/// The table for one pass, with the programs it attaches.
pub struct Attaching<'a> {
    table: &'a mut AttachmentTable,
    programs: &'a mut Ebpf,
}

impl AttachmentTable {
    /// No attachments yet. `overlay` is the network's range, whose filters are told from another overlay's by it.
    pub fn new(handle: Handle, how: TcAttach, order: TcxOrder, overlay: &str) -> Self {
        let filter = filter_handle(overlay);
        Self { handle, how, order, pins: None, filter, held: BTreeMap::new(), left: None }
    }

    /// Says where attachments are to be pinned, and removes those that are no use to this agent: of programs elsewhere
    /// than before it is told by [`Table::delete`].
    pub fn pin_in(&mut self, pins: Pins) {
        self.pins = Some(pins);
    }

    /// Removes the filters that an agent of this overlay left when it was killed.
    pub async fn remove_leftovers(&self) -> Result<()> {
        for hook in self.find_leftovers().await? {
            self.remove_filter(hook).await?;
        }
        Ok(())
    }

    /// Where this overlay has filters that are none of this process.
    async fn find_leftovers(&self) -> Result<BTreeSet<Hook>> {
        let mut hooks = BTreeSet::new();
        for ifindex in interfaces(&self.handle).await?.into_keys() {
            hooks.extend(self.filters(ifindex).await?.iter().map(|filter| filter.hook));
        }
        hooks.retain(|hook| self.held.get(hook).is_none_or(Held::is_tcx));
        Ok(hooks)
    }

    /// The table for one pass.
    pub fn with<'a>(&'a mut self, programs: &'a mut Ebpf) -> Attaching<'a> {
        Attaching { table: self, programs }
    }

    /// `tcx`, `clsact` or, before anything is attached, `none`.
    pub fn kind(&self) -> &'static str {
        match self.held.values().find(|held| held.attachment.xdp.is_none()) {
            None => "none",
            Some(held) if held.is_tcx() => "tcx",
            Some(_) => "clsact",
        }
    }

    /// Whether programs of others are attached by tcx where pods' packets leave through `interface`, beside ours or an
    /// earlier agent's. Whose they are the kernel says to CAP_SYS_ADMIN alone; else one is taken for ours where we have one
    /// there. A kernel without tcx has none.
    pub fn has_others(&self, ifindex: u32, interface: &str) -> bool {
        let hook = Hook { ifindex, program: Program::ToPod };
        if let Ok((_, programs)) = SchedClassifier::query_tcx(interface, hook.direction()) {
            let is_others = |info: &ProgramInfo| info.name_as_str() != Some(hook.program.name());
            return programs.iter().any(is_others);
        }
        let is_held = self.held.get(&hook).is_some_and(Held::is_tcx);
        let is_ours = is_held || self.pins.as_ref().is_some_and(|pins| pins.link(hook).exists());
        count(ifindex, TCX_EGRESS).is_ok_and(|count| count > u32::from(is_ours))
    }

    /// Takes every program off.
    pub async fn detach_all(&mut self) {
        // What strips before what takes over stripped packets: the last number of an interface is XDP's.
        let hooks: Vec<Hook> = self.held.keys().rev().copied().collect();
        for hook in hooks {
            if let Err(error) = self.detach(hook).await {
                debug!("cannot detach {}: {error:#}", hook.program.name());
            }
        }
    }

    async fn detach(&mut self, hook: Hook) -> Result<()> {
        if let Some(pins) = &self.pins {
            Pins::remove(&pins.link(hook))?;
            if hook.program == Program::FromWireXdp {
                Pins::remove(&pins.program(hook.program))?;
            }
        }
        // Closing the descriptor detaches; an interface that is gone took the attachment along.
        let held = self.held.remove(&hook);
        if held.is_some_and(|held| !held.is_tcx()) || self.is_left(hook) {
            self.remove_filter(hook).await?;
        }
        Ok(())
    }

    /// Whether a filter of an earlier agent stands there. From now on it is nobody's any more.
    fn is_left(&mut self, hook: Hook) -> bool {
        self.left.as_mut().is_some_and(|left| left.remove(&hook))
    }

    /// The MTU of an interface; 0 where it is gone.
    async fn mtu(&self, ifindex: u32) -> u32 {
        let interfaces = interfaces(&self.handle).await.unwrap_or_default();
        interfaces.get(&ifindex).map_or(0, |interface| interface.mtu)
    }

    /// This overlay's filters on an interface.
    async fn filters(&self, ifindex: u32) -> Result<Vec<Filter>> {
        let mut filters = Filter::list(&self.handle, ifindex).await?;
        filters.retain(|filter| filter.handle() == u32::from(self.filter));
        Ok(filters)
    }

    async fn filter_exists(&self, hook: Hook) -> Result<bool> {
        Ok(self.filters(hook.ifindex).await?.iter().any(|filter| filter.hook == hook))
    }

    async fn remove_filter(&self, hook: Hook) -> Result<()> {
        for filter in self.filters(hook.ifindex).await? {
            if filter.hook == hook {
                filter.remove(&self.handle).await?;
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

impl Attaching<'_> {
    fn program(&mut self, program: Program) -> Result<&mut SchedClassifier> {
        let found = self.programs.program_mut(program.name()).context("the BPF object lost a program")?;
        found.try_into().context("a BPF program changed its type")
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        let found = self.programs.program_mut(Program::FromWireXdp.name());
        found.context("the BPF object lost a program")?.try_into().context("a BPF program changed its type")
    }

    /// Whether a program is attached like this, as far as was last seen.
    pub fn holds(&self, hook: &Hook, attachment: &Attachment) -> bool {
        self.table.held.get(hook).is_some_and(|held| held.attachment == *attachment)
    }

    /// Attaches the program of XDP, which is loaded for it. Where an earlier agent's is attached in this mode, ours takes
    /// its place in one step.
    async fn attach_xdp(&mut self, hook: Hook, attachment: &Attachment, mode: Mode) -> Result<Held> {
        let (handle, pins) = (self.table.handle.clone(), self.table.pins.clone());
        let device = Device::look(&attachment.interface, self.table.mtu(hook.ifindex).await, false);
        let program = self.xdp()?;
        if program.fd().is_err() {
            let step = "loading from_wire_xdp, which takes Linux 5.18,";
            program.load().map_err(|error| LoadError::of(step, &error))?;
            if let Some(pins) = &pins {
                let path = pins.program(hook.program);
                Pins::remove(&path)?;
                program.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
            }
        }
        let path = pins.as_ref().map(|pins| pins.link(hook));
        if let Some(path) = &path
            && let Ok(pinned) = PinnedLink::from_pin(path)
        {
            let is_in_mode = xdp_program(&handle, hook.ifindex, mode).await?.is_some();
            let link = XdpLink::try_from(FdLink::from(pinned)).ok().filter(|_| is_in_mode);
            if let Some(link) = link
                && let Ok(id) = program.attach_to_link(link)
            {
                // The pin keeps the link.
                let link = program.take_link(id).context("aya lost a link")?;
                return Ok(Held { attachment: attachment.clone(), way: Way::Xdp(link) });
            }
            Pins::remove(path)?;
            // The kernel lets go of it a moment after its last pin and descriptor.
            let gone = async {
                while is_taken(&handle, hook.ifindex).await? {
                    sleep(Duration::from_millis(2)).await;
                }
                anyhow::Ok(())
            };
            timeout(Duration::from_secs(1), gone).await.unwrap_or(Ok(()))?;
        }
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Skb => XdpMode::Skb,
        };
        let id = program
            .attach_to_if_index(hook.ifindex, flags)
            .map_err(|error| refused(&device, mode, &error))?;
        let link = program.take_link(id).context("aya lost a link")?;
        let Some(path) = path else {
            return Ok(Held { attachment: attachment.clone(), way: Way::Xdp(link) });
        };
        let link = FdLink::try_from(link).context("this kernel has no links of XDP, which came with 5.9")?;
        let pinned = link.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Held { attachment: attachment.clone(), way: Way::Pinned(pinned) })
    }

    /// Whether our program of XDP is what an interface runs in a mode.
    async fn runs_xdp(&mut self, ifindex: u32, mode: Mode) -> Result<bool> {
        let handle = self.table.handle.clone();
        let ours = self.xdp()?.info().context("cannot ask about a BPF program")?.id();
        Ok(xdp_program(&handle, ifindex, mode).await? == Some(ours))
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

/// Whether a device runs any program of XDP.
async fn is_taken(handle: &Handle, ifindex: u32) -> Result<bool> {
    let native = xdp_program(handle, ifindex, Mode::Native).await?;
    Ok(native.is_some() || xdp_program(handle, ifindex, Mode::Skb).await?.is_some())
}

/// Whether the interface of a hook is not there any more.
pub fn is_gone(hook: Hook, attachment: &Attachment) -> bool {
    if_nametoindex(attachment.interface.as_str()) != Ok(hook.ifindex)
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

    fn label(hook: &Hook) -> String {
        format!("of {} to interface {}", hook.program.name(), hook.ifindex)
    }

    async fn rows(&mut self) -> Result<BTreeMap<Hook, Attachment>> {
        let mut rows = BTreeMap::new();
        let hooks: Vec<Hook> = self.table.held.keys().copied().collect();
        for hook in hooks {
            let Some(held) = self.table.held.get(&hook) else { continue };
            let (attachment, is_tcx) = (held.attachment.clone(), held.is_tcx());
            let is_attached = if let Some(mode) = attachment.xdp {
                self.runs_xdp(hook.ifindex, mode).await?
            } else if is_tcx {
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
        // What an earlier agent left and nobody has taken over is unwanted, unless it is put first.
        let pinned = self.table.pins.as_ref().map(Pins::links).unwrap_or_default();
        if self.table.left.is_none() {
            let (beside_links, left) = self
                .table
                .find_leftovers()
                .await?
                .into_iter()
                .partition::<BTreeSet<Hook>, _>(|hook| self.table.held.contains_key(hook));
            for hook in beside_links {
                self.table.remove_filter(hook).await?;
            }
            self.table.left = Some(left);
        }
        let left = self.table.left.iter().flatten().copied();
        for hook in pinned.into_iter().chain(left).filter(|hook| !self.table.held.contains_key(hook)) {
            rows.insert(hook, Attachment::tc(""));
        }
        Ok(rows)
    }

    async fn put(&mut self, hook: &Hook, attachment: &Attachment) -> Result<()> {
        if self.table.held.contains_key(hook) {
            self.table.detach(*hook).await?;
        }
        let attached = match attachment.xdp {
            Some(mode) => self.attach_xdp(*hook, attachment, mode).await,
            None => self.attach(*hook, attachment).await.map_err(Into::into),
        };
        let held = match attached {
            // A pod that went while its interface was looked at; the next listing does not ask for it any more.
            Err(error) if attachment.xdp.is_none() && is_gone(*hook, attachment) => {
                debug!("{error:#}, which is gone");
                return Ok(());
            }
            attached => attached?,
        };
        // A filter was replaced; beside a link it would run the programs twice.
        if self.table.is_left(*hook) && held.is_tcx() {
            self.table.remove_filter(*hook).await?;
        }
        self.table.held.insert(*hook, held);
        Ok(())
    }

    async fn delete(&mut self, hook: &Hook) -> Result<()> {
        self.table.detach(*hook).await
    }
}
