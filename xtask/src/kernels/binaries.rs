//! What runs in a guest: the agent, the BPF object and the test suites, as cargo builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use ovl_tests::artifacts;
use serde_json::Value;

use crate::toolchain::Wanted;
use crate::{ebpf, shell};

/// The suites that are about a kernel.
pub(super) const SUITES: [&str; 2] = ["prog", "net"];

/// The suite of two guests.
pub(super) const PAIR: &str = "pair";

/// What was built.
pub(super) struct Binaries {
    pub(super) agent: PathBuf,
    pub(super) object: PathBuf,
    pub(super) suites: Vec<Suite>,
}

/// A test binary.
pub(super) struct Suite {
    pub(super) name: &'static str,
    pub(super) binary: PathBuf,
    /// The names of all its tests.
    pub(super) tests: Vec<String>,
}

impl Binaries {
    /// Builds everything for these suites.
    pub(super) fn build(suites: &[&'static str]) -> Result<Self> {
        let object = ebpf::build(Wanted::Auto)?;
        shell::step("building the agent and the tests");
        let agent = executables(&["build", "-p", "ovl-agent", "--bin", "ovl-agent"])?;
        let agent = named("ovl-agent", &agent)?;
        let mut arguments = vec!["test", "--no-run", "-p", "ovl-tests"];
        arguments.extend(suites.iter().flat_map(|name| ["--test", name]));
        let tests = executables(&arguments)?;
        let suites =
            suites.iter().map(|&name| Suite::of(name, named(name, &tests)?)).collect::<Result<_>>()?;
        Ok(Self { agent, object, suites })
    }

    /// All of them, for a guest to have at the same places.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let suites = self.suites.iter().map(|suite| suite.binary.as_path());
        [self.agent.as_path(), self.object.as_path()].into_iter().chain(suites)
    }

    /// What tells the tests where these are.
    pub(super) fn environment(&self) -> [(&'static str, &Path); 2] {
        [(artifacts::AGENT_VARIABLE, &self.agent), (artifacts::BPF_OBJECT_VARIABLE, &self.object)]
    }
}

impl Suite {
    fn of(name: &'static str, binary: PathBuf) -> Result<Self> {
        let path = binary.to_str().with_context(|| format!("{} is no UTF-8", binary.display()))?;
        let listed = shell::ask(path, &["--list", "--format", "terse"]);
        let listed = listed.with_context(|| format!("{path} does not list its tests"))?;
        let tests: Vec<_> =
            listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
        if tests.is_empty() {
            bail!("the suite {name} has no tests: {path}");
        }
        Ok(Self { name, binary, tests })
    }
}

/// The names of cargo's targets and the programs that it built of them.
fn executables(arguments: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut command: Command = shell::cargo();
    command.args(arguments).args(["--quiet", "--message-format=json-render-diagnostics"]);
    let line = arguments.join(" ");
    let built = command.stderr(Stdio::inherit()).output().with_context(|| format!("run cargo {line}"))?;
    if !built.status.success() {
        bail!("cargo {line} ended with {}", built.status);
    }
    Ok(parse(&String::from_utf8_lossy(&built.stdout)))
}

fn parse(messages: &str) -> Vec<(String, PathBuf)> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let named = messages.filter_map(|message| {
        let path = message["executable"].as_str()?;
        Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(path)))
    });
    named.collect()
}

fn named(name: &str, built: &[(String, PathBuf)]) -> Result<PathBuf> {
    let found = built.iter().find(|(target, _)| target == name);
    found.map(|(_, path)| path.clone()).with_context(|| format!("cargo names no executable of {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_what_cargo_says() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"nix"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"net"},"executable":"/target/net-1"}
            {"reason":"build-finished","success":true}"#;
        let built = parse(messages);
        assert_eq!(named("net", &built).unwrap(), Path::new("/target/net-1"));
        assert!(named("nix", &built).unwrap_err().to_string().contains("nix"));
    }
}
