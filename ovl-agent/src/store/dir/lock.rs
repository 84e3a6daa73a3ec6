//! The two locks of the directory: one for every change, one per public IP for as long as its agent lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// A change takes milliseconds; who holds the lock longer is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

/// A claim on a public IP.
pub(super) enum Claim {
    /// It lasts until the file is closed.
    Ours(File),
    /// Who has it, for a person.
    Theirs(String),
}

/// Opens a lock file, creating it.
pub(super) fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

/// Locks `path` until the file is closed. Asks again and again, because a blocking lock would stop the agent's loop.
pub(super) async fn exclusive(path: &Path) -> Result<File, Error> {
    let file = open(path)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(TryLockError::WouldBlock) => {
                let text =
                    format!("another process has held the lock for {} s; is it stopped?", PATIENCE.as_secs());
                return Err(Error::new(ErrorKind::TimedOut, text));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Claims `path` for this process and writes its pid there.
pub(super) fn claim(path: &Path) -> Result<Claim, Error> {
    let mut file = open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.write_all(format!("pid {}\n", std::process::id()).as_bytes())?;
            Ok(Claim::Ours(file))
        }
        Err(TryLockError::WouldBlock) => Ok(Claim::Theirs(holder(&mut file))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// It may not have written its pid yet, and the file is anybody's to write.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(64).read_to_string(&mut text);
    let pid = text.trim().strip_prefix("pid ").and_then(|pid| pid.parse::<u32>().ok());
    match (read, pid) {
        (Ok(_), Some(pid)) => format!("the ovl-agent with pid {pid}"),
        (Ok(_), None) | (Err(_), _) => "another ovl-agent".to_owned(),
    }
}
