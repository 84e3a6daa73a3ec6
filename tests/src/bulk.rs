//! Many bytes over one connection as fast as it can, and every one of them looked at.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};

use crate::pattern::pattern;

const PIECE: usize = 1 << 18;

/// Sends `bytes` from one end of a connection to the other and compares what arrives with what was sent.
pub fn transfer(mut from: &TcpStream, mut to: &TcpStream, bytes: u64) -> Result<()> {
    let piece = |offset: u64| usize::try_from(bytes - offset).unwrap_or(PIECE).min(PIECE);
    let send = move || -> Result<()> {
        let mut sent = 0;
        while sent < bytes {
            let written = from.write(pattern(sent, piece(sent)));
            sent += written.with_context(|| format!("send after {sent} bytes"))? as u64;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let sending = scope.spawn(send);
        let (mut arrived, mut buffer) = (0, vec![0; PIECE]);
        while arrived < bytes {
            let length = to.read(&mut buffer[..piece(arrived)]);
            let length = length.with_context(|| format!("receive after {arrived} bytes"))?;
            ensure!(length > 0, "the connection ended after {arrived} bytes");
            let as_sent = pattern(arrived, length) == &buffer[..length];
            ensure!(as_sent, "other bytes arrived than were sent, after {arrived}");
            arrived += length as u64;
        }
        sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
