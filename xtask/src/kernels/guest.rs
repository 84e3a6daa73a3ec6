//! Machines that QEMU emulates, each with one kernel and one run of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ovl_tests::background::{Background, Lifetime};
use ovl_tests::command::Place;
use ovl_tests::wait::wait_for;

use super::kernel::Kernel;
use super::qemu::Qemu;
use super::report::Report;
use crate::shell::Progress;

/// Emulation, one host thread for all its processors: with a thread for each, QEMU loses a race with the kernel when
/// that patches its own code, and now and then a boot dies. `max`: every instruction of newer processors.
const MACHINE: &str = "-machine q35 -accel tcg,thread=single -cpu max,la57=off -smp 2 -nodefaults -no-user-config \
                       -display none -monitor none -nic none -no-reboot";
/// An oops ends the run. Nothing here needs protection from itself, which would cost time.
const KERNEL_LINE: &str = "console=ttyS0 quiet oops=panic panic=-1 net.ifnames=0 mitigations=off \
                           random.trust_cpu=on cryptomgr.notests";
/// No test says nothing for so long, and no kernel boots for so long.
const SILENCE: Duration = Duration::from_mins(8);
/// Nothing takes so long altogether.
const DEADLINE: Duration = Duration::from_hours(1);

/// What became of a guest.
pub(super) struct Ran {
    pub(super) report: Report,
    /// How long it took to the first test.
    pub(super) boot: Option<Duration>,
    pub(super) time: Duration,
    /// Whether it was ended because it said nothing any more.
    pub(super) hung: bool,
    /// What the tests said.
    pub(super) log: PathBuf,
    /// What the kernel said.
    pub(super) console: PathBuf,
}

/// What one guest has and others have not.
#[derive(Default)]
pub(super) struct Traits {
    /// What the names of its files end with.
    pub(super) suffix: String,
    /// Where QEMU runs.
    pub(super) place: Place,
    /// More of QEMU's arguments.
    pub(super) devices: Vec<String>,
    /// A variable of the tests, as `NAME=value`.
    pub(super) variable: String,
}

/// A guest that runs.
pub(super) struct Guest {
    qemu: Background,
    start: Instant,
    /// How much it has said, and when it last said something.
    length: u64,
    heard: Instant,
    boot: Option<Duration>,
    /// How long it took, once it ended.
    time: Option<Duration>,
    hung: bool,
    log: PathBuf,
    console: PathBuf,
}

impl Guest {
    /// Boots `kernel`.
    pub(super) fn start(qemu: &Qemu, kernel: &Kernel, initramfs: &Path, traits: &Traits) -> Result<Self> {
        let inside = |name: &str| kernel.folder().join(format!("{name}{}.log", traits.suffix));
        let (log, console) = (inside("tests"), inside("console"));
        for file in [&log, &console] {
            fs::write(file, "").with_context(|| format!("empty {}", file.display()))?;
        }
        let size = initramfs.metadata().with_context(|| format!("look at {}", initramfs.display()))?.len();
        let port = |file: &Path| format!("file:{}", file.display());
        // What it does not know, the kernel hands to the first process.
        let line = format!("{KERNEL_LINE} {}", traits.variable);
        let command = qemu
            .command(&traits.place)
            .words(MACHINE)
            // The archive is in memory while it unpacks into a file system of at most half of the rest.
            .args(["-m".to_owned(), (768 + 3 * size / (1 << 20)).to_string()])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &line, "-serial", &port(&console), "-serial", &port(&log)])
            .args(&traits.devices);
        let start = Instant::now();
        let qemu = Background::start(&command, &inside("qemu"), Lifetime::WithHarness)?;
        Ok(Self { qemu, start, length: 0, heard: start, boot: None, time: None, hung: false, log, console })
    }

    /// Looks after it; whether it ended, by itself or since it says nothing any more.
    fn has_ended(&mut self) -> Result<bool> {
        if self.time.is_some() {
            return Ok(true);
        }
        let now = self.log.metadata().map_or(0, |metadata| metadata.len());
        if now != self.length {
            (self.length, self.heard) = (now, Instant::now());
            self.boot = self.boot.or_else(|| Some(self.start.elapsed()));
        }
        self.hung = self.heard.elapsed() > SILENCE;
        if self.hung || self.qemu.try_status()?.is_some() {
            self.time = Some(self.start.elapsed());
        }
        Ok(self.time.is_some())
    }

    /// What became of it.
    pub(super) fn finish(self) -> Result<Ran> {
        let said = read(&self.log)?;
        if said.is_empty() {
            println!("    QEMU says: {}", self.qemu.log().trim());
        }
        let Self { boot, hung, log, console, .. } = self;
        let time = self.time.unwrap_or_else(|| self.start.elapsed());
        Ok(Ran { report: Report::parse(&said), boot, time, hung, log, console })
    }
}

/// Follows the tests of guests to their end.
pub(super) fn follow(guests: &mut [Guest], what: &str) -> Result<()> {
    let mut progress = Progress::start(what);
    wait_for(&format!("the end of: {what}"), DEADLINE, || {
        progress.tick();
        let mut have_ended = true;
        for guest in &mut *guests {
            have_ended &= guest.has_ended()?;
        }
        Ok(have_ended)
    })?;
    progress.finish();
    Ok(())
}

/// A log of the guest, which may hold any bytes.
pub(super) fn read(log: &Path) -> Result<String> {
    let bytes = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}
