//! The socket that `ovl-agent status` asks. Only root may.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

/// How long a client may take to read its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// So many networks are likely on one machine.
const OTHERS: u8 = 32;

impl Control {
    /// Listens on `path`, or, where that is `usual` and another agent has it, on one beside it: two networks on one
    /// machine need no flag for it, as they need none with flanneld.
    pub fn listen_near(path: &Path, usual: &Path) -> Result<Self> {
        if path != usual || !is_answered(path) {
            return Self::listen(path);
        }
        let beside = (2..=OTHERS).map(|number| path.with_file_name(format!("agent-{number}.sock")));
        for path in beside {
            if !is_answered(&path) {
                warn!(
                    "another ovl-agent answers on {}; this one's status: ovl-agent status --socket {}",
                    usual.display(),
                    path.display()
                );
                return Self::listen(&path);
            }
        }
        Self::listen(path)
    }

    /// Listens on `path`. A file that a killed agent left there is replaced; a living agent's is not.
    pub fn listen(path: &Path) -> Result<Self> {
        let context = || format!("cannot listen on {}; choose another --socket", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(context)?;
        }
        if is_answered(path) {
            anyhow::bail!(
                "another ovl-agent answers on {}; stop it or choose another --socket",
                path.display()
            );
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(context);
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(context)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(context)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next client.
    pub async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    debug!("cannot accept on {}: {error}", self.path.display());
                    tokio::time::sleep(PATIENCE).await;
                }
            }
        }
    }
}

fn is_answered(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Answers a client in the background: a slow one holds up nobody.
pub fn answer(mut stream: UnixStream, text: String) {
    tokio::spawn(async move {
        match tokio::time::timeout(PATIENCE, stream.write_all(text.as_bytes())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("a status client went away: {error}"),
            Err(_elapsed) => debug!("a status client did not read"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_agent_listens_beside_the_first_unless_it_was_told_where() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let usual = folder.path().join("agent.sock");
        let _first = Control::listen_near(&usual, &usual).expect("free");
        let second = Control::listen_near(&usual, &usual).expect("beside it");
        assert_eq!(second.path, folder.path().join("agent-2.sock"));
        let told = Control::listen_near(&usual, Path::new("/elsewhere")).expect_err("taken").to_string();
        assert!(told.contains("another ovl-agent answers"), "{told}");
    }
}
