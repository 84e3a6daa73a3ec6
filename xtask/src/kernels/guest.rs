//! A machine that QEMU emulates, with one kernel and one run of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ovl_tests::background::{Background, Lifetime};
use ovl_tests::command::Cmd;
use ovl_tests::wait::wait_for;

use super::kernel::Kernel;
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
const SILENCE: Duration = Duration::from_mins(3);
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

/// Boots `kernel` and follows the tests to their end.
pub(super) fn run(kernel: &Kernel, initramfs: &Path, what: &str) -> Result<Ran> {
    let inside = |name: &str| kernel.folder().join(name);
    let (log, console) = (inside("tests.log"), inside("console.log"));
    for file in [&log, &console] {
        fs::write(file, "").with_context(|| format!("empty {}", file.display()))?;
    }
    let size = initramfs.metadata().with_context(|| format!("look at {}", initramfs.display()))?.len();
    let port = |file: &Path| format!("file:{}", file.display());
    let command = Cmd::host("qemu-system-x86_64")
        .words(MACHINE)
        // The archive is in memory while it unpacks into a file system of at most half of the rest.
        .args(["-m".to_owned(), (768 + 3 * size / (1 << 20)).to_string()])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", KERNEL_LINE, "-serial", &port(&console), "-serial", &port(&log)]);

    let start = Instant::now();
    let mut qemu = Background::start(&command, &inside("qemu.log"), Lifetime::WithHarness)?;
    let mut progress = Progress::start(what);
    let (mut length, mut heard, mut boot, mut hung) = (0, start, None, false);
    wait_for(&format!("{} to end", kernel.release), DEADLINE, || {
        progress.tick();
        let now = log.metadata().map_or(0, |metadata| metadata.len());
        if now != length {
            (length, heard) = (now, Instant::now());
            boot = boot.or_else(|| Some(start.elapsed()));
        }
        hung = heard.elapsed() > SILENCE;
        Ok(hung || qemu.try_status()?.is_some())
    })?;
    progress.finish();
    let said = read(&log)?;
    if said.is_empty() {
        println!("    QEMU says: {}", qemu.log().trim());
    }
    Ok(Ran { report: Report::parse(&said), boot, time: start.elapsed(), hung, log, console })
}

/// A log of the guest, which may hold any bytes.
pub(super) fn read(log: &Path) -> Result<String> {
    let bytes = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}
