//! The TUN device with its workers, as a table: one row, which is put by making the device and starting the workers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail};
use nix::sys::eventfd::EventFd;
use rtnetlink::packet_route::link::{InfoKind, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};
use tracing::warn;

use super::peers::Shared;
use super::reason::Counters;
use super::socket::{RawSocket, Socket};
use super::tun::Queue;
use super::worker::Worker;
use crate::backend::TunDevice;
use crate::family::ByFamily;
use crate::netlink::{LinkFacts, absent_is_success, describe, links};
use crate::table::Table;

/// Most workers: so many have more to do than the kernel can give them.
const WORKERS: usize = 8;

/// TUN devices that carry our mark, and the one whose name we want.
#[derive(Debug)]
pub(crate) struct TunTable {
    handle: Handle,
    /// The mark: the device's alias.
    alias: String,
    wanted: Option<String>,
    shared: Shared,
    counters: Arc<Counters>,
    running: Option<Running>,
}

/// Workers, which end when this is dropped.
#[derive(Debug)]
struct Running {
    name: String,
    device: TunDevice,
    end: Arc<EventFd>,
    workers: Vec<JoinHandle<()>>,
}

/// A device as the kernel has it.
struct Found {
    ifindex: u32,
    name: String,
    alias: String,
    mtu: u32,
    up: bool,
    is_tun: bool,
}

impl TunTable {
    /// The devices of the overlay `alias` names; `wanted` is ours, too, whoever made it.
    pub(crate) fn new(
        handle: Handle,
        alias: String,
        wanted: Option<String>,
        shared: Shared,
        counters: Arc<Counters>,
    ) -> Self {
        Self { handle, alias, wanted, shared, counters, running: None }
    }

    async fn found(&self) -> Result<Vec<Found>> {
        let is_ours =
            |link: &Found| link.alias == self.alias || self.wanted.as_deref() == Some(link.name.as_str());
        Ok(links(&self.handle).await?.iter().map(found).filter(is_ours).collect())
    }

    fn start(&mut self, name: &str, device: &TunDevice) -> Result<()> {
        // The ports are to be free, or taken by somebody who has to be named.
        self.running = None;
        let end = Arc::new(EventFd::new().context("cannot make an event descriptor")?);
        let count = thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
        let raw = |address: IpAddr| {
            let socket = RawSocket::open(address);
            socket.inspect_err(|errno| {
                warn!("senders are not told of what cannot be carried (CAP_NET_RAW): {errno}");
            })
        };
        let mut running = Running {
            name: name.to_owned(),
            device: device.clone(),
            end: Arc::clone(&end),
            workers: Vec::new(),
        };
        for number in 0..count {
            let mut sockets = ByFamily::default();
            for (family, address) in device.local.iter() {
                sockets.set(family, Some(Socket::bind(SocketAddr::new(*address, device.port))?));
            }
            let worker = Worker {
                queue: Queue::open(name)?,
                sockets,
                raw: ByFamily { v4: raw([0; 4].into()).ok(), v6: raw([0; 16].into()).ok() },
                shared: self.shared.clone(),
                counters: Arc::clone(&self.counters),
                end: Arc::clone(&end),
                port: device.port,
            };
            let thread = thread::Builder::new().name(format!("udp-{number}"));
            running.workers.push(thread.spawn(|| worker.run()).context("cannot start a thread")?);
        }
        self.running = Some(running);
        Ok(())
    }
}

impl Running {
    fn is(&self, name: &str, device: &TunDevice) -> bool {
        let ends = |device: &TunDevice| (device.port, device.local);
        self.name == name
            && ends(&self.device) == ends(device)
            && !self.workers.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end.write(1).is_ok() {
            for worker in self.workers.drain(..) {
                // One that panicked has said so.
                let _panicked = worker.join();
            }
        }
    }
}

impl Table for TunTable {
    type Key = String;
    type Row = TunDevice;

    fn name(&self) -> &'static str {
        "TUN device"
    }

    fn label(name: &String) -> String {
        name.clone()
    }

    /// A device that is down, lacks our mark or has no workers is listed with MTU 0, so that it is put right.
    async fn rows(&mut self) -> Result<BTreeMap<String, TunDevice>> {
        let rows = self.found().await?.into_iter().filter(|link| link.is_tun).map(|link| {
            let running = self.running.as_ref().filter(|running| running.is(&link.name, &running.device));
            let mut device = running.map(|running| running.device.clone()).unwrap_or_default();
            let is_whole = running.is_some() && link.up && link.alias == self.alias;
            device.mtu = if is_whole { link.mtu } else { 0 };
            (link.name, device)
        });
        Ok(rows.collect())
    }

    async fn put(&mut self, name: &String, want: &TunDevice) -> Result<()> {
        let have = self.found().await?.into_iter().find(|link| link.name == *name);
        if have.as_ref().is_some_and(|link| !link.is_tun) {
            bail!("interface {name} exists and is no TUN device; remove it (`ip link del {name}`)");
        }
        // The workers of a device that was deleted have queues of nothing.
        let is_running =
            have.is_some() && self.running.as_ref().is_some_and(|running| running.is(name, want));
        if !is_running {
            self.start(name, want)?;
        }
        let message = LinkUnspec::new_with_name(name).mtu(want.mtu).alias(self.alias.as_str()).up().build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(describe).with_context(|| format!("cannot set up TUN device {name}"))?;
        if let Some(running) = &mut self.running {
            running.device = want.clone();
        }
        Ok(())
    }

    async fn delete(&mut self, name: &String) -> Result<()> {
        if self.running.as_ref().is_some_and(|running| running.name == *name) {
            self.running = None;
        }
        match self.found().await?.into_iter().find(|link| &link.name == name && link.alias == self.alias) {
            Some(link) => absent_is_success(self.handle.link().del(link.ifindex).execute().await)
                .with_context(|| format!("cannot remove TUN device {name}")),
            None => Ok(()),
        }
    }
}

fn found(message: &LinkMessage) -> Found {
    let facts = LinkFacts::of(message);
    Found {
        ifindex: facts.ifindex,
        name: facts.name.to_owned(),
        alias: facts.alias.to_owned(),
        mtu: facts.mtu,
        up: facts.is_up(),
        is_tun: facts.kind() == Some(&InfoKind::Tun),
    }
}
