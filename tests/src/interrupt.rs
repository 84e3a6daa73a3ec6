//! Ctrl-C and SIGTERM as a flag: long steps look at it and return an error, so that every guard on the stack is
//! dropped and nothing is left on the machine.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Makes SIGINT, SIGTERM and SIGHUP set the flag instead of ending the process at once.
pub fn catch_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("install a handler for {signal}"))?;
    }
    Ok(())
}

/// Whether somebody asked this process to end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// An error once somebody asked this process to end; long steps call it between their parts.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

extern "C" fn note_signal(_signal: nix::libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
}
