//! Programs that run beside a test: output into a log file, ended by their process id.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::Cmd;
use crate::wait::{poll_until, wait_for};

const GRACE: Duration = Duration::from_secs(5);

/// How long a program may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It is killed when the thread that started it ends, however that ends.
    WithHarness,
    /// It may outlive the harness after [`Background::detach`]; until then it is ended on drop like any other.
    Detachable,
}

/// A running program; ended on drop with SIGTERM, then SIGKILL.
#[derive(Debug)]
pub struct Background {
    child: Option<Child>,
    name: String,
    log: File,
}

impl Background {
    /// Starts `command` with standard output and error in the file `log`.
    pub fn start(command: &Cmd, log: &Path, lifetime: Lifetime) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(log);
        let file = file.with_context(|| format!("create the log file {}", log.display()))?;
        Self::launch(command, file, lifetime)
    }

    /// Starts `command` with a log that has no name and so can't be left behind; it lives as long as the harness.
    pub fn start_unnamed(command: &Cmd) -> Result<Self> {
        let file = tempfile::tempfile().context("create a temporary log file")?;
        Self::launch(command, file, Lifetime::WithHarness)
    }

    fn launch(command: &Cmd, log: File, lifetime: Lifetime) -> Result<Self> {
        let duplicate = || log.try_clone().context("duplicate the log file's descriptor");
        let mut process = command.to_std();
        process.stdin(Stdio::null()).stdout(duplicate()?).stderr(duplicate()?);
        if lifetime == Lifetime::WithHarness {
            // SAFETY: the closure runs between fork and exec and makes one prctl call, which is async-signal-safe.
            unsafe { process.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        }
        let child = process.spawn().with_context(|| format!("start `{command}`"))?;
        Ok(Self { child: Some(child), name: command.to_string(), log })
    }

    /// The process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        let length = self.log.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        // At an offset of our own: the descriptors share one, and the program writes there.
        match self.log.read_exact_at(&mut bytes, 0) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(the log can't be read: {error})"),
        }
    }

    /// The exit status, if it has ended.
    pub fn try_status(&mut self) -> Result<Option<ExitStatus>> {
        let name = &self.name;
        self.child
            .as_mut()
            .map_or(Ok(None), |child| child.try_wait().with_context(|| format!("look after `{name}`")))
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let what = format!("`{}` to end", self.name);
        wait_for(&what, deadline, || {
            status = self.try_status()?;
            Ok(status.is_some())
        })?;
        status.with_context(|| format!("`{}` was already detached", self.name))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to `{}`", self.name))
    }

    /// Sends `signal` and waits for the end.
    pub fn stop(&mut self, signal: Signal, deadline: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(deadline)
    }

    /// Leaves it running for good.
    pub fn detach(mut self) {
        self.let_go();
    }

    /// The same for a value that somebody else owns.
    pub(crate) fn let_go(&mut self) {
        self.child = None;
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let Ok(pid) = i32::try_from(child.id()) else { return };
        let mut ended = || child.try_wait().is_ok_and(|status| status.is_some());
        if ended() {
            return;
        }
        // Failures mean that it is gone already, which is what is wanted.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        if !poll_until(GRACE, ended) {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}
