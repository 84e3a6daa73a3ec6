//! A program that is spoken to: its input is a pipe, its output a log.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::command::Cmd;
use crate::wait::wait_for;

const DEADLINE: Duration = Duration::from_secs(20);

/// A running program; dropping it ends it.
#[derive(Debug)]
pub struct Dialogue {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: File,
}

impl Dialogue {
    /// Starts `command`.
    pub fn start(command: &Cmd) -> Result<Self> {
        let name = command.to_string();
        let output = tempfile::tempfile().context("create a temporary file")?;
        let duplicate = || output.try_clone().context("duplicate a descriptor");
        let mut process = command.to_std();
        process.stdin(Stdio::piped()).stdout(duplicate()?).stderr(duplicate()?);
        let mut child = process.spawn().with_context(|| format!("start `{name}`"))?;
        let input = child.stdin.take();
        Ok(Self { name, child, input, output })
    }

    /// Writes `text` to its input.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().with_context(|| format!("`{}` has no input", self.name))?;
        input.write_all(text.as_bytes()).with_context(|| format!("write to `{}`", self.name))
    }

    /// Waits until it has written `text`.
    pub fn hear(&self, text: &str) -> Result<()> {
        wait_for(&format!("`{}` to say {text:?}", self.name), DEADLINE, || Ok(self.said().contains(text)))
    }

    /// Closes its input, waits for it to end and returns what it wrote; a failure of it is an error.
    pub fn finish(mut self) -> Result<String> {
        self.input = None;
        let mut status = None;
        wait_for(&format!("`{}` to end", self.name), DEADLINE, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        let is_success = status.is_some_and(|status| status.success());
        ensure!(is_success, "`{}` failed: {}", self.name, self.said().trim());
        Ok(self.said())
    }

    fn said(&self) -> String {
        let length = self.output.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        // At an offset of our own: the descriptors share one, and the program writes there.
        match self.output.read_exact_at(&mut bytes, 0) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(the output can't be read: {error})"),
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_answers_what_it_is_told() {
        let mut shell = Dialogue::start(&Cmd::host("sh")).unwrap();
        shell.say("echo one\n").unwrap();
        shell.hear("one").unwrap();
        shell.say("echo two; exit 0\n").unwrap();
        assert_eq!(shell.finish().unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_failure_shows_what_was_said() {
        let mut shell = Dialogue::start(&Cmd::host("sh")).unwrap();
        shell.say("echo no luck; exit 3\n").unwrap();
        let error = shell.finish().unwrap_err().to_string();
        assert!(error.contains("no luck"), "{error}");
    }
}
