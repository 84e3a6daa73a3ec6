//! Commands on the host or inside a node or pod, with errors that show the command line and what it said.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Where a command runs: the host, or a network namespace, with the host's view of files or a node's own.
#[derive(Clone, Debug, Default)]
pub struct Place {
    network: Option<PathBuf>,
    mounts: Option<PathBuf>,
}

impl Place {
    /// The host itself.
    pub fn host() -> Self {
        Self::default()
    }

    /// The network namespace behind `network` (a file such as `/run/netns/NAME`), with the host's files.
    ///
    /// This is not `ip netns exec`, which gives every command a mount namespace of its own without the BPF file
    /// system: what an agent pins there would go away with the agent.
    pub fn in_network(network: &Path) -> Self {
        Self { network: Some(network.to_owned()), mounts: None }
    }

    /// The same with the mount namespace behind `mounts`.
    #[must_use]
    pub fn with_mounts(self, mounts: &Path) -> Self {
        Self { mounts: Some(mounts.to_owned()), ..self }
    }

    /// Starts to describe a command that runs here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Cmd {
        let mut argv: Vec<OsString> = Vec::new();
        if self.network.is_some() || self.mounts.is_some() {
            argv.push("nsenter".into());
            argv.extend(self.mounts.as_deref().map(|path| option("--mount=", path)));
            argv.extend(self.network.as_deref().map(|path| option("--net=", path)));
            argv.push("--".into());
        }
        argv.push(program.as_ref().to_owned());
        Cmd { argv, env: Vec::new() }
    }
}

fn option(name: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(name);
    argument.push(path);
    argument
}

/// A command line, not yet started.
#[derive(Clone, Debug)]
pub struct Cmd {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Cmd {
    /// A command on the host.
    pub fn host(program: impl AsRef<OsStr>) -> Self {
        Place::host().command(program)
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.argv.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Adds the words of `line`, split at white space: for arguments that contain none.
    #[must_use]
    pub fn words(self, line: &str) -> Self {
        self.args(line.split_whitespace())
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs to the end, whatever the exit status, and returns what it wrote.
    pub fn output(&self) -> Result<Output> {
        self.to_std()
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run `{self}`: is {} installed?", self.program()))
    }

    /// Runs to the end and returns standard output; anything but exit status 0 is an error that shows stderr.
    pub fn run(&self) -> Result<String> {
        let output = self.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(if output.stderr.is_empty() {
                &output.stdout
            } else {
                &output.stderr
            });
            bail!("`{self}` ended with {}: {}", output.status, said.trim());
        }
        String::from_utf8(output.stdout).with_context(|| format!("read the output of `{self}` as UTF-8"))
    }

    /// The command for [`std::process`].
    pub(crate) fn to_std(&self) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(self.program_os());
        command.args(self.argv.iter().skip(1)).envs(self.env.iter().map(|(name, value)| (name, value)));
        // Ctrl-C goes to the whole foreground group of a terminal. Ours stay out of it: the harness ends them in order,
        // and commands that clean up must not die of the second Ctrl-C.
        command.process_group(0);
        command
    }

    fn program_os(&self) -> &OsStr {
        self.argv.first().map_or(OsStr::new(""), OsString::as_os_str)
    }

    fn program(&self) -> String {
        self.program_os().to_string_lossy().into_owned()
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.argv.iter().map(|word| word.to_string_lossy()).collect();
        formatter.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_command_line_and_stderr() {
        let error = Cmd::host("sh").arg("-c").arg("echo no luck >&2; exit 3").run().unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("no luck") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = format!("{:#}", Cmd::host("no-such-program").run().unwrap_err());
        assert!(error.contains("is no-such-program installed?"), "{error}");
    }
}
