//! Datagrams between two sockets, every one of them looked at: a few on their way at a time.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Netns;
use crate::pattern::pattern;
use crate::sockets;

/// So many are on their way at once.
const WINDOW: u64 = 10;
const RECEIVE_BUFFER: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// Two sockets that talk to each other.
#[derive(Debug)]
pub struct Datagrams {
    from: UdpSocket,
    to: UdpSocket,
}

impl Datagrams {
    /// From any address of `from` to `address`, where `to` is.
    pub fn between(from: &Netns, to: &Netns, address: IpAddr) -> Result<Self> {
        let to = sockets::udp(to, (address, 0).into())?;
        to.set_read_timeout(Some(PATIENCE))?;
        // Large datagrams take far more than their length.
        setsockopt(&to, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("set the receive buffer's size")?;
        let from = sockets::udp_to(from, to.local_addr()?)?;
        Ok(Self { from, to })
    }

    /// Sends `count` datagrams of `length` bytes and compares what arrives with what was sent; they arrive in order.
    pub fn exchange(&self, count: u64, length: usize) -> Result<()> {
        for first in (0..count).step_by(usize::try_from(WINDOW)?) {
            let window = first..count.min(first + WINDOW);
            for number in window.clone() {
                let sent = self.from.send(payload(number, length));
                sent.with_context(|| format!("send a datagram of {length} bytes"))?;
            }
            self.receive(window, length)?;
        }
        Ok(())
    }

    /// The same with one call for ten datagrams, which travel as an aggregate for as long as the devices let them
    /// (`UDP_SEGMENT`, as QUIC servers do).
    pub fn exchange_segmented(&self, count: u64, length: usize) -> Result<()> {
        setsockopt(&self.from, sockopt::UdpGsoSegment, &i32::try_from(length)?).context("set UDP_SEGMENT")?;
        for first in (0..count).step_by(usize::try_from(WINDOW)?) {
            let window = first..count.min(first + WINDOW);
            let aggregate: Vec<u8> =
                window.clone().flat_map(|number| payload(number, length)).copied().collect();
            self.from.send(&aggregate).with_context(|| format!("send {WINDOW} times {length} bytes"))?;
            self.receive(window, length)?;
        }
        setsockopt(&self.from, sockopt::UdpGsoSegment, &0).context("unset UDP_SEGMENT")
    }

    fn receive(&self, numbers: std::ops::Range<u64>, length: usize) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        for number in numbers {
            let got = self.to.recv(&mut buffer);
            let got = got.with_context(|| format!("wait for datagram {number} of {length} bytes"))?;
            let is_as_sent = &buffer[..got] == payload(number, length);
            ensure!(is_as_sent, "datagram {number} of {length} bytes is not what was sent ({got} bytes)");
        }
        Ok(())
    }
}

fn payload(number: u64, length: usize) -> &'static [u8] {
    pattern(number * 7919, length)
}
