//! What this machine lets us do.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// The path of a program that a shell would find.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Whether we are root, who alone may make network namespaces and load BPF programs.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// An error for those who are not root.
pub(crate) fn require_root(task: &str) -> Result<()> {
    if !is_root() {
        bail!(
            "{task} makes network namespaces and loads BPF programs, which needs root: run it as root or with sudo"
        );
    }
    Ok(())
}

/// apt-get as root, where that is possible without a password.
pub(crate) fn apt_get() -> Option<Command> {
    find_program("apt-get")?;
    let mut command = if is_root() {
        Command::new("env")
    } else {
        shell::ask("sudo", &["-n", "true"])?;
        let mut command = Command::new("sudo");
        command.args(["-n", "env"]);
        command
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Some(command)
}
