//! The programs of tc: tcx links where the kernel has them, clsact filters elsewhere.

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, tc};
use nix::libc;
use tracing::{debug, info};

use super::super::filters::PRIORITY;
use super::super::load::LoadError;
use super::super::pins::Pins;
use super::{Attaching, Attachment, Held, Hook, TcAttach, TcxOrder, Way};

const STILL_THERE: &str = "an attachment of before is about to go, which the agent's next look finds; restart ovl-agent if this comes again";

impl Attaching<'_> {
    /// Attaches a program of tc. Where an earlier agent's is attached, ours takes its place in one step.
    pub(super) async fn attach(&mut self, hook: Hook, attachment: &Attachment) -> Result<Held, LoadError> {
        let step = || format!("attaching {} to {}", hook.program.name(), attachment.interface);
        let wrong = |error: anyhow::Error| LoadError {
            step: step(),
            reason: format!("{error:#}"),
            advice: "restart ovl-agent",
        };
        let how = self.table.how;
        if how != TcAttach::Clsact {
            if let Some(way) = self.take_over(hook, attachment) {
                return Ok(Held { attachment: attachment.clone(), way });
            }
            let order = match self.table.order {
                TcxOrder::First => LinkOrder::first(),
                TcxOrder::Last => LinkOrder::last(),
            };
            let program = self.program(hook, attachment).map_err(wrong)?;
            let options = TcAttachOptions::TcxOrder(order);
            match program.attach_with_options(&attachment.interface, hook.direction(), options) {
                Ok(id) => {
                    let link = program.take_link(id).map_err(|error| LoadError::of(&step(), &error))?;
                    let way = self.pin(hook, link)?;
                    return Ok(Held { attachment: attachment.clone(), way });
                }
                Err(error) if how == TcAttach::Auto && lacks_tcx(&error) => {
                    info!("this kernel has no tcx links; using clsact filters");
                    self.table.how = TcAttach::Clsact;
                }
                Err(error) => return Err(refused(&step(), &error)),
            }
        }
        match tc::qdisc_add_clsact(&attachment.interface) {
            Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
            Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => {
                return Err(LoadError::of(&format!("adding clsact to {}", attachment.interface), &error));
            }
        }
        let filter = self.table.filter;
        let there = self.table.filter_exists(hook).await.map_err(wrong)?;
        let program = self.program(hook, attachment).map_err(wrong)?;
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
        let id = id.map_err(|error| refused(&step(), &error))?;
        let link = program.take_link(id).map_err(|error| LoadError::of(&step(), &error))?;
        // aya would remove the filter when the link is dropped; that is ours to do, or our successor's not to.
        std::mem::forget(link);
        Ok(Held { attachment: attachment.clone(), way: Way::Filter })
    }

    /// Whether our program is among those on an interface.
    pub(super) fn is_linked(&mut self, hook: Hook, attachment: &Attachment) -> Result<bool> {
        let program = self.program(hook, attachment)?.info().context("cannot ask about a BPF program")?.id();
        match SchedClassifier::query_tcx(&attachment.interface, hook.direction()) {
            Ok((_, programs)) => Ok(programs.iter().any(|info| info.id() == program)),
            // aya looks each of them up by its number, for which it takes CAP_SYS_ADMIN. A link that was taken off
            // cannot be given a program; giving it the one that it has does nothing.
            Err(error) if errno(&error) == Some(libc::EPERM) => {
                Ok(self.table.pins.is_none() || self.take_over(hook, attachment).is_some())
            }
            Err(_) => Ok(false),
        }
    }

    /// Puts our program in the place of an earlier agent's, in one step. `None` where there is none to take over, or its
    /// interface is gone and another has its index.
    fn take_over(&mut self, hook: Hook, attachment: &Attachment) -> Option<Way> {
        let path = self.table.pins.as_ref()?.link(hook);
        let pinned = PinnedLink::from_pin(&path).ok()?;
        let link = SchedClassifierLink::try_from(FdLink::from(pinned)).ok()?;
        let program = self.program(hook, attachment).ok()?;
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

/// `bpf_link_create` answers EINVAL where it does not know the attach type.
fn lacks_tcx(error: &ProgramError) -> bool {
    matches!(errno(error), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Why a program could not be attached. A program is at an interface once: the kernel lets go of a link a moment after its
/// last pin and descriptor.
fn refused(step: &str, error: &ProgramError) -> LoadError {
    let refused = LoadError::of(step, error);
    if errno(error) == Some(libc::EEXIST) { LoadError { advice: STILL_THERE, ..refused } } else { refused }
}

/// What a system call answered.
fn errno(error: &ProgramError) -> Option<i32> {
    let ProgramError::SyscallError(error) = error else { return None };
    error.io_error.raw_os_error()
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn a_program_that_is_still_there_says_nothing_about_the_kernel() {
        let answer = |errno| {
            let io_error = std::io::Error::from_raw_os_error(errno);
            refused("x", &SyscallError { call: "bpf_mprog_attach", io_error }.into())
        };
        let there = answer(libc::EEXIST);
        assert_eq!(there.advice, STILL_THERE);
        assert!(there.reason.contains("File exists"), "{}", there.reason);
        assert_ne!(answer(libc::ENOMEM).advice, STILL_THERE);
    }
}
