//! What the machine must be rid of when a demo ends: kept in a file, so that a later run can clean up after one that
//! was killed, and `--remove` after one that was kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ovl_tests::command::Cmd;
use ovl_tests::netns::{self, Netns};
use ovl_tests::{artifacts, wait};
use serde_json::{Value, json};

const GRACE: Duration = Duration::from_secs(5);

/// The record of the running demo.
pub(super) struct State {
    prefix: String,
}

impl State {
    /// Cleans up after a demo that was killed and starts a new record; an error when one is running or was kept.
    pub(super) fn begin() -> Result<Self> {
        if let Some(earlier) = Record::read()? {
            if earlier.kept {
                bail!("a demo is kept running here; `cargo xtask demo --remove` removes it");
            }
            if earlier.owner_lives() {
                bail!("a demo is running here already, as process {}", earlier.owner);
            }
            println!("removing what a killed demo left behind");
            earlier.clean_up()?;
        }
        let state = Self { prefix: format!("ovl-demo-{}", std::process::id()) };
        state.record(None, false).write()?;
        Ok(state)
    }

    /// The start of the names of the demo's namespaces.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Records the demo's directory.
    pub(super) fn note_directory(&self, directory: &Path) -> Result<()> {
        self.record(Some(directory.to_owned()), false).write()
    }

    /// Records that the demo stays.
    pub(super) fn keep(self) -> Result<()> {
        let directory = Record::read()?.and_then(|record| record.directory);
        self.record(directory, true).write()
    }

    /// Ends the record, and removes what is still there.
    pub(super) fn end(self) -> Result<()> {
        let own = Record::read()?.filter(|record| record.prefix == self.prefix);
        own.map_or(Ok(()), |record| record.clean_up())
    }

    fn record(&self, directory: Option<PathBuf>, kept: bool) -> Record {
        let owner = std::process::id();
        Record { prefix: self.prefix.clone(), directory, owner, born: birth(owner), kept }
    }
}

/// Removes a demo that was kept or killed.
pub(super) fn remove() -> Result<()> {
    let Some(record) = Record::read()? else {
        println!("there is no demo to remove");
        return Ok(());
    };
    if !record.kept && record.owner_lives() {
        bail!(
            "the demo is still running, as process {}; end that one (Ctrl-C) and it removes itself",
            record.owner
        );
    }
    record.clean_up()?;
    println!("removed the demo");
    Ok(())
}

/// The file's contents.
struct Record {
    prefix: String,
    directory: Option<PathBuf>,
    owner: u32,
    /// When the owner started, in the kernel's ticks: process ids are used again.
    born: Option<String>,
    kept: bool,
}

impl Record {
    fn path() -> PathBuf {
        artifacts::target().join("demo/state.json")
    }

    fn read() -> Result<Option<Self>> {
        let path = Self::path();
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let parsed = serde_json::from_str(&text).ok().and_then(|value| Self::parse(&value));
        parsed.map(Some).with_context(|| {
            format!("{} is damaged; look for namespaces ovl-demo-… and delete it", path.display())
        })
    }

    fn parse(value: &Value) -> Option<Self> {
        Some(Self {
            prefix: value
                .get("prefix")?
                .as_str()
                .filter(|prefix| prefix.starts_with("ovl-demo-"))?
                .to_owned(),
            directory: value.get("directory")?.as_str().map(PathBuf::from),
            owner: value.get("owner")?.as_u64()?.try_into().ok()?,
            born: value.get("born")?.as_str().map(str::to_owned),
            kept: value.get("kept")?.as_bool()?,
        })
    }

    fn write(&self) -> Result<()> {
        let Self { prefix, directory, owner, born, kept } = self;
        let value =
            json!({"prefix": prefix, "directory": directory, "owner": owner, "born": born, "kept": kept});
        let path = Self::path();
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(&path, format!("{value:#}\n")).with_context(|| format!("write {}", path.display()))
    }

    fn owner_lives(&self) -> bool {
        self.born.is_some() && birth(self.owner) == self.born
    }

    /// Ends the processes in the demo's namespaces, deletes these and the directory, then the record.
    fn clean_up(&self) -> Result<()> {
        let prefix = format!("{}-", self.prefix);
        let namespaces: Vec<_> =
            netns::names()?.into_iter().filter(|name| name.starts_with(&prefix)).collect();
        for name in &namespaces {
            end_processes(name)?;
        }
        for name in &namespaces {
            Netns::delete(name)?;
        }
        if let Some(directory) = self.directory.as_deref().filter(|directory| directory.exists()) {
            fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        let path = Self::path();
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }
}

/// Ends what runs in a namespace of ours.
fn end_processes(namespace: &str) -> Result<()> {
    let pids = || -> Result<Vec<i32>> {
        let text = Cmd::host("ip").args(["netns", "pids", namespace]).run()?;
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for pid in pids()? {
            // It may have ended since the list was made.
            let _gone = kill(Pid::from_raw(pid), signal);
        }
        if wait::poll_until(GRACE, || pids().is_ok_and(|left| left.is_empty())) {
            return Ok(());
        }
    }
    bail!("processes {:?} in {namespace} do not end", pids()?)
}

/// The start time of a process, the 22nd field of its stat line.
fn birth(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may contain blanks.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}
