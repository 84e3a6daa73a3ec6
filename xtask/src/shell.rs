//! Programs that a task runs: with their output on the terminal, or quietly with progress and a log.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use ovl_tests::artifacts;
use ovl_tests::wait::wait_for;

/// Nothing a task starts takes longer, not even a cold build on one slow core.
const DEADLINE: Duration = Duration::from_hours(2);
const LOG_TAIL_LINES: usize = 30;

/// Announces the next part of a task.
pub(crate) fn step(what: &str) {
    println!("==> {what}");
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(artifacts::workspace());
    // What cargo tells us of ourselves, build scripts (ring's) would take for a change, and they and all that needs them
    // would be built anew, after a cargo that somebody ran by hand and again before it.
    let of_ourselves = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_ourselves)) {
        command.env_remove(name);
    }
    command
}

/// Runs `command` with its output on the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    let child = command.spawn().with_context(|| format!("run `{line}`"))?;
    let status = wait(child, &line, || {})?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// The same, which also returns what was on its standard output.
pub(crate) fn run_and_read(command: &mut Command) -> Result<(Result<()>, String)> {
    let line = line_of(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("run `{line}`"))?;
    let mut from = child.stdout.take().context("the output is not ours to read")?;
    let copier = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        loop {
            let read = match from.read(&mut some)? {
                0 => return Ok(all),
                length => some.get(..length).unwrap_or_default(),
            };
            all.extend_from_slice(read);
            let mut to = std::io::stdout().lock();
            to.write_all(read)?;
            to.flush()?;
        }
    });
    let status = wait(child, &line, || {})?;
    let output = copier.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let output = output.with_context(|| format!("read the output of `{line}`"))?;
    let result = if status.success() { Ok(()) } else { Err(anyhow!("`{line}` ended with {status}")) };
    Ok((result, String::from_utf8_lossy(&output).into_owned()))
}

/// Runs `command` with its output in a log, names it and says how long it takes; the end of the log is shown when it
/// fails.
pub(crate) fn run_quietly(command: &mut Command, what: &str) -> Result<()> {
    let folder = artifacts::target().join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let name: String =
        what.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    let log = folder.join(format!("{}.log", name.get(..60).unwrap_or(&name)));
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stderr(file.try_clone().context("duplicate the log's descriptor")?)
        .stdout(file);
    // Ctrl-C must not tear a package installation apart; it is asked to end instead.
    command.process_group(0);

    let line = line_of(command);
    let child = command.spawn().with_context(|| format!("run `{line}`"))?;
    let mut progress = Progress::start(what);
    let status = wait(child, &line, || progress.tick())?;
    progress.finish();
    if !status.success() {
        let text =
            fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default().join("\n");
        bail!("`{line}` ended with {status}; {} ends:\n{tail}", log.display());
    }
    Ok(())
}

/// The standard output of a command that ended well; nothing otherwise. For looking around.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn wait(mut child: Child, line: &str, mut meanwhile: impl FnMut()) -> Result<ExitStatus> {
    let mut status = None;
    let waited = wait_for(&format!("`{line}` to end"), DEADLINE, || {
        meanwhile();
        status = child.try_wait()?;
        Ok(status.is_some())
    });
    if let Err(error) = waited {
        end(child);
        return Err(error);
    }
    status.with_context(|| format!("`{line}` ended without a status"))
}

fn end(mut child: Child) {
    use nix::sys::signal::{Signal, kill};
    if let Ok(pid) = i32::try_from(child.id()) {
        // Gone already is as good.
        let _gone = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM);
    }
    let _status = child.wait();
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// One line that grows older: rewritten every second on a terminal, repeated now and then in a log.
pub(crate) struct Progress {
    what: String,
    start: Instant,
    shown: Duration,
    terminal: bool,
}

impl Progress {
    /// Shows the line for the first time.
    pub(crate) fn start(what: &str) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let progress = Self { what: what.to_owned(), start: Instant::now(), shown: Duration::ZERO, terminal };
        progress.show(if terminal { "" } else { "\n" });
        progress
    }

    /// Shows it again when it is time to.
    pub(crate) fn tick(&mut self) {
        let elapsed = self.start.elapsed();
        let interval = Duration::from_secs(if self.terminal { 1 } else { 30 });
        if elapsed >= self.shown + interval {
            self.shown = elapsed;
            self.show(if self.terminal { "" } else { "\n" });
        }
    }

    /// Shows it for the last time.
    pub(crate) fn finish(&self) {
        if self.terminal || self.start.elapsed() >= Duration::from_secs(1) {
            self.show("\n");
        }
    }

    fn show(&self, end: &str) {
        let seconds = self.start.elapsed().as_secs();
        let elapsed = if seconds == 0 { "…".to_owned() } else { format!("… {seconds} s") };
        let begin = if self.terminal { "\r" } else { "" };
        print!("{begin}    {} {elapsed}{end}", self.what);
        // A terminal that went away does not matter to the work.
        let _shown = std::io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cargo_of_ours_does_not_learn_who_we_are() {
        // The cargo that runs this test says it.
        let ours = ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"];
        assert!(ours.iter().all(|name| std::env::var_os(name).is_some()));
        let command = cargo();
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).collect();
        assert!(ours.iter().all(|name| removed.iter().any(|(removed, _)| removed == name)), "{removed:?}");
    }
}
