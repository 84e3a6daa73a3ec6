//! Where the programs are attached, as a table.

mod tc;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use aya::programs::links::PinnedLink;
use aya::programs::tc::{SchedClassifierLink, TcHandle};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use nix::net::if_::if_nametoindex;
use ovl_common::Program;
use rtnetlink::Handle;
use tracing::debug;

use super::count::{TCX_EGRESS, count};
use super::filters::Filter;
use super::pins::Pins;
use super::programs::Programs;
use crate::netlink::interfaces;
use crate::table::Table;
use crate::xdp::Mode;

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
    /// Whether packets of the interface have an Ethernet header; those of the kernel's tunnel devices of IP have none.
    pub ethernet: bool,
}

impl Attachment {
    /// Of a program of tc.
    pub fn tc(interface: &str) -> Self {
        Self { interface: interface.to_owned(), xdp: None, ethernet: true }
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
    programs: &'a mut Programs,
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
    pub fn with<'a>(&'a mut self, programs: &'a mut Programs) -> Attaching<'a> {
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
    fn program(&mut self, hook: Hook, attachment: &Attachment) -> Result<&mut SchedClassifier> {
        self.programs.classifier(hook.program, attachment.ethernet)
    }

    /// Whether a program is attached like this, as far as was last seen.
    pub fn holds(&self, hook: &Hook, attachment: &Attachment) -> bool {
        self.table.held.get(hook).is_some_and(|held| held.attachment == *attachment)
    }
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
                // Asked by name: another interface may have it now, with a program of ours.
                !is_gone(hook, &attachment) && self.is_linked(hook, &attachment)?
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
        // The kernel is told a name, and another interface may have it by now: it would get what is meant for this one, and
        // refuse its own for being there. The next listing asks for that one, and not for this one any more.
        let is_gone = || attachment.xdp.is_none() && is_gone(*hook, attachment);
        if is_gone() {
            debug!("{} (index {}) is gone", attachment.interface, hook.ifindex);
            return Ok(());
        }
        let attached = match attachment.xdp {
            Some(mode) => self.attach_xdp(*hook, attachment, mode).await,
            None => self.attach(*hook, attachment).await.map_err(Into::into),
        };
        if is_gone() {
            debug!("{} (index {}) went meanwhile", attachment.interface, hook.ifindex);
            if let Ok(held) = attached {
                self.table.held.insert(*hook, held);
                self.table.detach(*hook).await?;
            }
            return Ok(());
        }
        let held = attached?;
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
