//! Taking events out of aya-log's ring.
//!
//! A thread does it: aya-log reads until the ring is empty, which under load may never be.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ovl_common::Event;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// What the programs call their records.
const TARGET: &str = "ovl";
/// Events between the thread and who prints them.
const CAPACITY: usize = 1024;
/// For how long something may still be on its way.
const GRACE: Duration = Duration::from_millis(50);

/// The ring, of which there is one for all programs.
pub(super) struct Ring(Receiver<Event>);

impl Ring {
    /// The ring that a loaded program writes to, by the program's number. What nobody has fetched of earlier events is gone.
    pub(super) async fn open(program: u32) -> Result<Self> {
        let (sender, events) = channel(CAPACITY);
        let logger = EbpfLogger::init_from_id_with_logger(program, Sink(sender)).with_context(|| {
            format!("cannot open the ring of BPF program {program}; it takes CAP_SYS_ADMIN")
        })?;
        let thread = std::thread::Builder::new().name("ring".to_owned());
        thread.spawn(move || pump(logger)).context("cannot start a thread")?;
        let mut ring = Self(events);
        while !ring.rest().await.is_empty() {}
        Ok(ring)
    }

    /// Waits for events, and returns what there is.
    pub(super) async fn take(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.0.recv_many(&mut events, CAPACITY).await;
        events
    }

    /// What is left while the programs show nothing; empty when there is nothing any more.
    pub(super) async fn rest(&mut self) -> Vec<Event> {
        tokio::time::timeout(GRACE, self.take()).await.unwrap_or_default()
    }
}

/// Reads for as long as the process lives.
fn pump(mut logger: EbpfLogger<Sink>) {
    loop {
        let ready = poll(&mut [PollFd::new(logger.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        match ready {
            Ok(_) => logger.flush(),
            Err(Errno::EINTR) => {}
            // The channel closes, which ends the command.
            Err(_) => return,
        }
    }
}

/// Where aya-log thinks it logs.
struct Sink(Sender<Event>);

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() != TARGET {
            return;
        }
        if let Some(event) = read(&record.args().to_string()) {
            // Waits for a printer that has not kept up. Meanwhile the ring fills up, and what finds no room counts as lost.
            let _ended = self.0.blocking_send(event);
        }
    }

    fn flush(&self) {}
}

/// An event as aya-log writes bytes.
fn read(text: &str) -> Option<Event> {
    let bytes = text
        .as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    bytemuck::try_pod_read_unaligned(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::super::packet::testing::event;
    use super::*;

    #[test]
    fn an_event_comes_back_from_its_text() {
        let event = event();
        let digits = bytemuck::bytes_of(&event).iter().map(|byte| format!("{byte:02x}"));
        let text = digits.collect::<Vec<_>>().concat();
        assert_eq!(read(&text), Some(event));
        for other in ["", "ovl", &text[2..], &format!("{text}00"), &text.replace('a', "ä")] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
