//! Running the firewall's own tools.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Longer than the tools wait for each other's lock.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a tool gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It is not installed.
    #[error("{0} is not installed")]
    Missing(String),
    /// It was refused, or did not end in time.
    #[error("{0}")]
    Refused(String),
}

/// Runs `program` with `input` as standard input, and returns what it wrote.
pub(super) async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, Failure> {
    let refused = |why: &str| Failure::Refused(format!("{program} {}: {why}", arguments.join(" ")));
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            Failure::Missing(program.to_owned())
        } else {
            refused(&error.to_string())
        }
    })?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A tool that ends before it has read all says why by itself.
            let _written = stdin.write_all(input.as_bytes()).await;
        }
    };
    let both = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = tokio::time::timeout(DEADLINE, both)
        .await
        .map_err(|_elapsed| refused("no answer within 30 s; is the lock /run/xtables.lock held?"))?
        .map_err(|error| refused(&error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(refused(&said.split_whitespace().collect::<Vec<_>>().join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn input_output_and_errors() {
        assert_eq!(run("cat", &[], "rules\n").await.expect("cat"), "rules\n");
        let refused = run("sh", &["-c", "echo no such >&2; echo table >&2; exit 2"], "").await;
        assert!(refused.is_err_and(|error| error.to_string().ends_with(": no such table")));
        let missing = run("no-such-tool", &[], "").await;
        assert!(missing.is_err_and(|error| error.to_string() == "no-such-tool is not installed"));
    }
}
