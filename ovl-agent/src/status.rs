//! `ovl-agent status`: what an agent says about itself, for a person or as JSON.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use crate::cli::StatusArgs;
use crate::facts::Facts;

pub(crate) mod human;
mod page;
pub(crate) mod table;

pub use page::render;

/// How long an agent may take to answer. It turns every second; passes over thousands of rows take a few.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the agent and prints what it says.
pub fn print(args: &StatusArgs) -> Result<()> {
    let document = ask(&args.socket)?;
    let text = if args.json {
        format!("{document}\n")
    } else {
        let facts: Facts =
            serde_json::from_value(document).context("the agent is another version; ask it with --json")?;
        render(&facts, args.all)
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the status")
}

/// Asks the agent behind `socket`.
///
/// # Errors
/// Also where it accepts the question and then says nothing.
pub fn ask(socket: &Path) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let text = runtime.context("cannot start the event loop")?.block_on(read(socket, PATIENCE))?;
    serde_json::from_str(&text).context("the agent's answer is not JSON; is it another version?")
}

async fn read(socket: &Path, patience: Duration) -> Result<String> {
    let answer = async {
        let mut text = String::new();
        UnixStream::connect(socket).await?.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let answered = tokio::time::timeout(patience, answer).await.map_err(|_elapsed| {
        anyhow!(
            "the ovl-agent on {} did not answer within {patience:?}: it is stuck; its log may say at what",
            socket.display()
        )
    })?;
    answered.with_context(|| {
        format!("no ovl-agent answers on {}; is it running, and is this its --socket?", socket.display())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test(flavor = "current_thread")]
    async fn an_agent_that_hangs_or_is_gone_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("agent.sock");
        let absent = format!("{:#}", read(&socket, SHORT).await.expect_err("absent"));
        assert!(absent.contains("no ovl-agent answers on") && absent.contains("agent.sock"), "{absent}");
        let listener = UnixListener::bind(&socket).expect("free");
        let stuck = format!("{:#}", read(&socket, SHORT).await.expect_err("stuck"));
        assert!(stuck.contains("did not answer within 50ms"), "{stuck}");
        // One that died leaves its socket.
        drop(listener);
        let dead = format!("{:#}", read(&socket, SHORT).await.expect_err("dead"));
        assert!(dead.contains("no ovl-agent answers on"), "{dead}");
    }
}
