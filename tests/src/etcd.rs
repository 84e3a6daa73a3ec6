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

mod users;

const DEADLINE: Duration = Duration::from_secs(20);
/// etcd's own default.
const MAX_TXN_OPS: usize = 128;

/// A running etcd with an empty store in a directory of its own; dropping it ends it.
#[derive(Debug)]
pub struct Etcd {
    process: Option<Background>,
    place: Place,
    name: String,
    client_url: String,
    peer_url: String,
    /// Names and peer URLs of all members.
    cluster: String,
    tls: Option<Tls>,
    /// More of the server's flags.
    flags: Vec<String>,
    /// `root`'s password, where authentication is on.
    password: Option<String>,
    data: PathBuf,
    lifetime: Lifetime,
}

/// PEM files of a server.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Its certificate.
    pub cert: PathBuf,
    /// The key of it.
    pub key: PathBuf,
    /// What its clients have to know it by.
    pub ca: PathBuf,
    /// The CA that must have signed its clients' certificates, with one for `etcdctl` and the key of that; without it,
    /// clients need none.
    pub client: Option<[PathBuf; 3]>,
}

impl Etcd {
    /// On the underlay of a topology, where every node reaches it.
    pub fn on_underlay(topology: &Topology, lifetime: Lifetime) -> Result<Self> {
        let place = topology.switch()?.place();
        Self::start(place, SWITCH_ADDRESS, [2379, 2380], &topology.dir().join("etcd"), lifetime)
    }

    /// On a free port of the host's loopback, with its data below `dir`.
    pub fn local(dir: &Path) -> Result<Self> {
        let data = dir.join("etcd");
        Self::start(Place::host(), Ipv4Addr::LOCALHOST, free_ports()?, &data, Lifetime::WithHarness)
    }

    /// The same with TLS for its clients.
    pub fn local_with_tls(dir: &Path, tls: Tls) -> Result<Self> {
        let data = dir.join("etcd");
        let place = Place::host();
        let mut etcd =
            Self::describe(place, Ipv4Addr::LOCALHOST, free_ports()?, &data, Lifetime::WithHarness);
        etcd.client_url = etcd.client_url.replace("http://", "https://");
        etcd.tls = Some(tls);
        etcd.start_again()?;
        Ok(etcd)
    }

    /// The same without TLS and with more of the server's flags.
    pub fn local_with_flags(dir: &Path, flags: &[&str]) -> Result<Self> {
        let (place, data) = (Place::host(), dir.join("etcd"));
        let mut etcd =
            Self::describe(place, Ipv4Addr::LOCALHOST, free_ports()?, &data, Lifetime::WithHarness);
        etcd.flags = flags.iter().map(ToString::to_string).collect();
        etcd.start_again()?;
        Ok(etcd)
    }

    /// A cluster of `size` members on free ports of the host's loopback.
    pub fn local_cluster(dir: &Path, size: usize) -> Result<Vec<Self>> {
        let mut members = Vec::new();
        for index in 0..size {
            let data = dir.join(format!("etcd-{index}"));
            let (place, lifetime) = (Place::host(), Lifetime::WithHarness);
            members.push(Self {
                name: format!("member-{index}"),
                ..Self::describe(place, Ipv4Addr::LOCALHOST, free_ports()?, &data, lifetime)
            });
        }
        let cluster: Vec<_> = members.iter().map(Self::as_peer).collect();
        for member in &mut members {
            member.cluster = cluster.join(",");
            // None is healthy before most of them run.
            member.launch()?;
        }
        members.iter_mut().try_for_each(Self::wait_until_healthy)?;
        Ok(members)
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

    /// Writes many values, in transactions of as many as etcd takes. Keys must not hold white space or quotes.
    pub fn put_all(&self, pairs: &[(String, String)]) -> Result<()> {
        let script = self.data.with_extension("txn");
        for some in pairs.chunks(MAX_TXN_OPS) {
            let puts: Vec<_> = some.iter().map(|(key, value)| format!("put {key} {value:?}")).collect();
            // No conditions, and nothing to do otherwise.
            std::fs::write(&script, format!("\n{}\n\n\n", puts.join("\n")))
                .context("write a transaction for etcdctl")?;
            let line = format!("{} txn < {}", self.etcdctl(), script.display());
            self.place.command("sh").args(["-c", &line]).env("ETCDCTL_API", "3").run()?;
        }
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
        let mut command = self.place.command("etcdctl").env("ETCDCTL_API", "3");
        command = command.args(["--endpoints", &self.client_url]);
        if let Some(tls) = &self.tls {
            command = command.arg("--cacert").arg(&tls.ca);
            if let Some([_, cert, key]) = &tls.client {
                command = command.arg("--cert").arg(cert).arg("--key").arg(key);
            }
        }
        match &self.password {
            Some(password) => command.args(["--user", &format!("root:{password}")]),
            None => command,
        }
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
        self.launch()?;
        self.wait_until_healthy()
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = self
            .place
            .command("etcd")
            .args(["--name", &self.name, "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &self.client_url, "--advertise-client-urls", &self.client_url])
            .args(["--listen-peer-urls", &self.peer_url, "--initial-advertise-peer-urls", &self.peer_url])
            .args(["--initial-cluster", &self.cluster])
            .args(&self.flags);
        if let Some(tls) = &self.tls {
            command = command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
            if let Some([ca, ..]) = &tls.client {
                command = command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            }
        }
        let process = Background::start(&command, &self.data.with_extension("log"), self.lifetime)?;
        self.process = Some(process);
        Ok(())
    }

    fn wait_until_healthy(&mut self) -> Result<()> {
        let health = self.etcdctl().words("endpoint health");
        let Some(process) = &mut self.process else { anyhow::bail!("etcd was not started") };
        let mut ended = false;
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
        let mut etcd = Self::describe(place, address, ports, data, lifetime);
        etcd.start_again()?;
        Ok(etcd)
    }

    /// A cluster of one, not yet started.
    fn describe(place: Place, address: Ipv4Addr, ports: [u16; 2], data: &Path, lifetime: Lifetime) -> Self {
        let [client_url, peer_url] = ports.map(|port| format!("http://{address}:{port}"));
        let mut etcd = Self {
            process: None,
            place,
            name: "ovl".to_owned(),
            client_url,
            peer_url,
            cluster: String::new(),
            tls: None,
            flags: Vec::new(),
            password: None,
            data: data.to_owned(),
            lifetime,
        };
        etcd.cluster = etcd.as_peer();
        etcd
    }

    fn as_peer(&self) -> String {
        format!("{}={}", self.name, self.peer_url)
    }
}

/// Two ports nobody listens on. Another process could take them before etcd does; then etcd ends and says so.
fn free_ports() -> Result<[u16; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port");
    let (client, peer) = (bind()?, bind()?);
    Ok([client.local_addr()?.port(), peer.local_addr()?.port()])
}
