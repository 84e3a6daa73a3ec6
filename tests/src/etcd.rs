//! A real etcd.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::background::{Background, Lifetime};
use crate::command::{Cmd, Place};
use crate::topology::{SWITCH_ADDRESS, Topology};
use crate::wait::wait_for;

const DEADLINE: Duration = Duration::from_secs(20);

/// A running etcd with an empty store in a directory of its own; dropping it ends it.
#[derive(Debug)]
pub struct Etcd {
    process: Option<Background>,
    place: Place,
    client_url: String,
    peer_url: String,
    data: PathBuf,
    lifetime: Lifetime,
}

impl Etcd {
    /// On the underlay of a topology, where every node reaches it.
    pub fn on_underlay(topology: &Topology, lifetime: Lifetime) -> Result<Self> {
        let place = topology.switch()?.place();
        Self::start(place, SWITCH_ADDRESS, [2379, 2380], &topology.dir().join("etcd"), lifetime)
    }

    /// On a free port of the host's loopback, with its data below `dir`.
    pub fn local(dir: &Path) -> Result<Self> {
        Self::start(
            Place::host(),
            Ipv4Addr::LOCALHOST,
            free_ports()?,
            &dir.join("etcd"),
            Lifetime::WithHarness,
        )
    }

    /// The URL for clients.
    pub fn url(&self) -> &str {
        &self.client_url
    }

    /// Writes a value.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.etcdctl().args(["put", "--", key, value]).run()?;
        Ok(())
    }

    /// Reads a value.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let text = self.etcdctl().args(["get", "--print-value-only", "--", key]).run()?;
        Ok(text.strip_suffix('\n').map(str::to_owned).filter(|value| !value.is_empty()))
    }

    /// Deletes a value.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.etcdctl().args(["del", "--", key]).run()?;
        Ok(())
    }

    /// The keys below `prefix`, sorted.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let text = self.etcdctl().args(["get", "--prefix", "--keys-only", "--", prefix]).run()?;
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// A client's command line, to be completed; runs where the server runs.
    pub fn etcdctl(&self) -> Cmd {
        self.place.command("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", &self.client_url])
    }

    /// Stops it without a word to its clients.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::SIGKILL, DEADLINE).context("stop etcd")?;
        }
        Ok(())
    }

    /// Starts it again, with the data it had.
    pub fn start_again(&mut self) -> Result<()> {
        let command = self
            .place
            .command("etcd")
            .args(["--name", "ovl", "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &self.client_url, "--advertise-client-urls", &self.client_url])
            .args(["--listen-peer-urls", &self.peer_url, "--initial-advertise-peer-urls", &self.peer_url])
            .args(["--initial-cluster", &format!("ovl={}", self.peer_url)]);
        let process = Background::start(&command, &self.data.with_extension("log"), self.lifetime)?;
        let process = self.process.insert(process);
        let mut ended = false;
        let health = self.place.command("etcdctl").env("ETCDCTL_API", "3");
        let health = health.args(["--endpoints", &self.client_url, "endpoint", "health"]);
        wait_for("etcd to be healthy", DEADLINE, || {
            ended = process.try_status()?.is_some();
            Ok(ended || health.run().is_ok())
        })?;
        anyhow::ensure!(!ended, "etcd ended at once; its log says:\n{}", process.log());
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Background::pid)
    }

    /// Leaves it running for good.
    pub fn detach(mut self) {
        if let Some(process) = self.process.take() {
            process.detach();
        }
    }

    fn start(
        place: Place,
        address: Ipv4Addr,
        ports: [u16; 2],
        data: &Path,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let [client_url, peer_url] = ports.map(|port| format!("http://{address}:{port}"));
        let mut etcd = Self { process: None, place, client_url, peer_url, data: data.to_owned(), lifetime };
        etcd.start_again()?;
        Ok(etcd)
    }
}

/// Two ports nobody listens on. Another process could take them before etcd does; then etcd ends and says so.
fn free_ports() -> Result<[u16; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port");
    let (client, peer) = (bind()?, bind()?);
    Ok([client.local_addr()?.port(), peer.local_addr()?.port()])
}
