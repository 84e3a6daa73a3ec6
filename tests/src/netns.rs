//! Named network namespaces that go away with their guard.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::command::{Cmd, Place};

const DIRECTORY: &str = "/run/netns";

/// A network namespace; dropping it deletes it, with every device inside.
#[derive(Debug)]
pub struct Netns {
    name: String,
    kept: bool,
}

impl Netns {
    /// Creates the namespace with `lo` up.
    pub fn create(name: &str) -> Result<Self> {
        if Path::new(DIRECTORY).join(name).exists() {
            bail!("the namespace {name} exists already; `ip netns del {name}` removes it");
        }
        Cmd::host("ip").args(["netns", "add", name]).run()?;
        let namespace = Self { name: name.to_owned(), kept: false };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Inside this namespace, with the host's files.
    pub fn place(&self) -> Place {
        Place::in_network(&self.path())
    }

    /// Starts to describe a command that runs inside.
    pub fn command(&self, program: &str) -> Cmd {
        self.place().command(program)
    }

    /// Runs `work` inside, on a thread of its own: the namespace is a thread's. Sockets that it opens stay inside and
    /// can be used anywhere.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let enter_and_work = || -> Result<T> {
            setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", self.name))?;
            Ok(work())
        };
        let joined = std::thread::scope(|scope| scope.spawn(enter_and_work).join());
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip -n NAME …` with the words of `line`.
    pub fn ip(&self, line: &str) -> Result<String> {
        Cmd::host("ip").args(["-n", &self.name]).words(line).run()
    }

    /// Runs `bridge -n NAME …` with the words of `line`.
    pub fn bridge(&self, line: &str) -> Result<String> {
        Cmd::host("bridge").args(["-n", &self.name]).words(line).run()
    }

    /// Sets sysctls such as `net.ipv4.ip_forward=1`.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        self.command("sysctl").args(["-q", "-w"]).args(settings).run()?;
        Ok(())
    }

    /// Leaves the namespace in place when the guard goes away.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Deletes the namespace called `name`; one that is not there is fine.
    pub fn delete(name: &str) -> Result<()> {
        if Path::new(DIRECTORY).join(name).exists() {
            Cmd::host("ip").args(["netns", "del", name]).run()?;
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = Self::delete(&self.name)
        {
            eprintln!("could not delete the namespace {}: {error:#}", self.name);
        }
    }
}

/// The start of all names of one topology: the process id makes it unique on the machine, the counter in the process.
pub fn unique_prefix(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("ovl{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Deletes what test processes that were killed left behind: namespaces `ovl<pid>-…` whose process is gone.
pub fn sweep_stale() -> Result<()> {
    for name in names()? {
        if owner(&name).is_some_and(|pid| !is_alive(pid)) {
            Netns::delete(&name)?;
        }
    }
    Ok(())
}

/// Whether the namespace belongs to a test process that still runs.
pub fn is_in_use(name: &str) -> bool {
    owner(name).is_some_and(is_alive)
}

/// The process in the name of a namespace that [`unique_prefix`] named.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("ovl")?.split_once('-')?.0.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// The names of the machine's namespaces that this project's harness made.
pub fn names() -> Result<Vec<String>> {
    if !Path::new(DIRECTORY).exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(DIRECTORY)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("ovl") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
