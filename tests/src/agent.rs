//! The agent as a user runs it: the real binary, in a node, ended by its process id.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::background::{Background, Lifetime};
use crate::command::Cmd;
use crate::node::Node;
use crate::subnet::SubnetEnv;
use crate::underlay::UnderlayAddress;
use crate::wait::{patient, wait_for};

const READY_DEADLINE: Duration = Duration::from_secs(20);
const EXIT_DEADLINE: Duration = Duration::from_secs(10);
const LOG_TAIL_LINES: usize = 20;

/// Where the agents keep their leases.
#[derive(Clone, Debug)]
pub enum Store {
    /// `--store dir:PATH`.
    Dir(PathBuf),
    /// `--etcd-endpoints URL`, with flannel's usual prefix.
    Etcd(String),
    /// `--kube-subnet-mgr`, with the API server's URL and the network config's file. Nodes are called as their Nodes are.
    Kubernetes(String, PathBuf),
}

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    binary: PathBuf,
    store: Store,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    without_capabilities: Vec<String>,
    lifetime: Lifetime,
    place: Option<String>,
}

impl AgentOptions {
    /// An agent with the defaults of a user's installation but for the store, the interface and the files.
    pub fn new(binary: PathBuf, store: Store) -> Self {
        Self {
            binary,
            store,
            arguments: Vec::new(),
            environment: Vec::new(),
            without_capabilities: Vec::new(),
            lifetime: Lifetime::WithHarness,
            place: None,
        }
    }

    /// Adds the words of `line` to the command line, such as `--mode ebpf --strict`.
    #[must_use]
    pub fn args(mut self, line: &str) -> Self {
        self.arguments.extend(line.split_whitespace().map(str::to_owned));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes capabilities (`bpf`, `sys_admin`, …) away for good, as a container runtime does.
    #[must_use]
    pub fn without_capabilities(mut self, names: &[&str]) -> Self {
        self.without_capabilities.extend(names.iter().map(|&name| name.to_owned()));
        self
    }

    /// Advertises another address than the node's: for tests of conflicts.
    #[must_use]
    pub fn public_ip(self, address: IpAddr) -> Self {
        self.place(&format!("--iface eth0 --public-ip {address}"))
    }

    /// Replaces the words that say where the node is, which are otherwise `--iface eth0` and its public addresses.
    #[must_use]
    pub fn place(mut self, line: &str) -> Self {
        self.place = Some(line.to_owned());
        self
    }

    /// Chooses whether the agent may outlive the harness.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    fn command(&self, node: &Node, files: &Files) -> Cmd {
        let mut command = if self.without_capabilities.is_empty() {
            node.command(&self.binary)
        } else {
            let dropped: Vec<_> = self.without_capabilities.iter().map(|name| format!("-{name}")).collect();
            let dropped = dropped.join(",");
            node.command("setpriv")
                .args([format!("--bounding-set={dropped}"), format!("--inh-caps={dropped}")])
                .arg("--")
                .arg(&self.binary)
        };
        command = match &self.store {
            Store::Dir(path) => command.arg("--store").arg(format!("dir:{}", path.display())),
            Store::Etcd(url) => command.words("--etcd-prefix /coreos.com/network --etcd-endpoints").arg(url),
            Store::Kubernetes(url, config) => command
                .words("--kube-subnet-mgr --kube-api-url")
                .arg(url)
                .arg("--net-config-path")
                .arg(config)
                .env("NODE_NAME", node.name()),
        };
        command = command.words(&self.place.clone().unwrap_or_else(|| place_of(node)));
        command = command.arg("--subnet-file").arg(&files.subnet).arg("--socket").arg(&files.socket);
        command = command.args(&self.arguments);
        self.environment.iter().fold(command, |command, (name, value)| command.env(name, value))
    }
}

/// The interface and every address of it.
fn place_of(node: &Node) -> String {
    let addresses = node.addresses();
    let option = |name: &str, place: Option<&UnderlayAddress>| {
        place.map(|place| format!(" {name} {}", place.address)).unwrap_or_default()
    };
    let public_ip = option("--public-ip", addresses.ipv4());
    format!("--iface eth0{public_ip}{}", option("--public-ipv6", addresses.ipv6()))
}

/// A running (or ended) agent; dropping it ends it.
#[derive(Debug)]
pub struct Agent {
    process: Background,
    binary: PathBuf,
    files: Files,
    node: String,
}

#[derive(Clone, Debug)]
struct Files {
    subnet: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Files {
    /// A log file for every start, so that "it is ready" is never read in the log of an earlier one.
    fn of(node: &Node) -> Self {
        let mut runs = (1..=u16::MAX).map(|run| node.dir().join(format!("agent-{run}.log")));
        let log = runs.find(|path| !path.exists());
        Self {
            subnet: node.dir().join("subnet.env"),
            socket: node.dir().join("agent.sock"),
            log: log.unwrap_or_else(|| node.dir().join("agent.log")),
        }
    }
}

impl Agent {
    /// Starts the agent in `node` and returns at once; [`Agent::wait_ready`] waits for it.
    pub fn start(node: &Node, options: &AgentOptions) -> Result<Self> {
        let files = Files::of(node);
        let process = Background::start(&options.command(node, &files), &files.log, options.lifetime)
            .with_context(|| format!("start the agent of {}", node.name()))?;
        Ok(Self { process, binary: options.binary.clone(), files, node: node.name().to_owned() })
    }

    /// Waits until the agent says that it is ready, in its log, by `subnet.env` and by its status.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("the agent of {} to be ready", self.node);
        let mut ended = None;
        let waited = wait_for(&what, READY_DEADLINE, || {
            ended = self.process.try_status()?;
            Ok(ended.is_some() || self.is_ready()?)
        });
        if let Some(status) = ended {
            bail!(
                "the agent of {} ended with {status} before it was ready; its log ends:\n{}",
                self.node,
                self.log_tail()
            );
        }
        waited.with_context(|| format!("the log of the agent of {} ends:\n{}", self.node, self.log_tail()))
    }

    /// Waits until the agent knows `peers` other nodes.
    pub fn wait_for_peers(&self, peers: usize) -> Result<()> {
        wait_for(&format!("the agent of {} to know {peers} peers", self.node), READY_DEADLINE, || {
            Ok(self.status()?.get("peers").and_then(Value::as_array).is_some_and(|list| list.len() == peers))
        })
        .with_context(|| format!("the log of the agent of {} ends:\n{}", self.node, self.log_tail()))
    }

    /// What `ovl-agent status --json` says.
    pub fn status(&self) -> Result<Value> {
        // For an agent that accepts the question and hangs.
        let deadline = patient(Duration::from_secs(5));
        let ask = Cmd::host("timeout")
            .arg(deadline.as_secs().to_string())
            .arg(&self.binary)
            .words("status --json --socket");
        let text = ask.arg(&self.files.socket).run()?;
        serde_json::from_str(&text).context("parse what `ovl-agent status --json` says")
    }

    /// What the programs counted until now.
    pub fn counters(&self) -> Result<Counters> {
        match self.status()?.get_mut("counters").map(Value::take) {
            Some(Value::Array(rows)) => Ok(Counters(rows)),
            _ => bail!("the status has no counters"),
        }
    }

    /// What the programs counted: packets of `program` that ended with `reason`.
    pub fn counter(&self, program: &str, reason: &str) -> Result<u64> {
        Ok(self.counters()?.packets(program, reason))
    }

    /// The subnet the agent wrote for the CNI plugin.
    pub fn subnet(&self) -> Result<SubnetEnv> {
        SubnetEnv::read(&self.files.subnet)
    }

    /// The file it wrote that to.
    pub fn subnet_file(&self) -> &Path {
        &self.files.subnet
    }

    /// What it has logged since this start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.files.socket
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Waits for it to end by itself: for starts that must fail.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        self.process.wait(EXIT_DEADLINE).with_context(|| format!("its log ends:\n{}", self.log_tail()))
    }

    /// Ends it with SIGTERM, as a service manager does.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process
            .stop(Signal::SIGTERM, EXIT_DEADLINE)
            .with_context(|| format!("its log ends:\n{}", self.log_tail()))
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.process.stop(Signal::SIGKILL, EXIT_DEADLINE)
    }

    /// Leaves it running for good.
    pub fn detach(mut self) {
        self.process.let_go();
    }

    /// The end of the log, for error messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default().join("\n")
    }

    fn is_ready(&self) -> Result<bool> {
        if !self.log().contains("ready:") || !fs::exists(&self.files.subnet)? {
            return Ok(false);
        }
        Ok(self.status()?.get("ready") == Some(&Value::Bool(true)))
    }
}

/// What an agent's programs counted up to some moment.
#[derive(Clone, Debug)]
pub struct Counters(Vec<Value>);

impl Counters {
    /// Packets that `program` has seen.
    pub fn seen(&self, program: &str) -> u64 {
        self.0.iter().filter(|row| row["program"] == program).filter_map(|row| row["packets"].as_u64()).sum()
    }

    /// Packets of `program` that ended with `reason`.
    pub fn packets(&self, program: &str, reason: &str) -> u64 {
        let named = |row: &&Value| row["program"] == program && row["reason"] == reason;
        self.0.iter().filter(named).filter_map(|row| row["packets"].as_u64()).sum()
    }
}

/// As `from_pod forwarded 12, …`, without those that there are none of.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for row in self.0.iter().filter(|row| row["packets"] != 0) {
            let word = |member: &str| row[member].as_str().unwrap_or("?");
            write!(f, "{separator}{} {} {}", word("program"), word("reason"), row["packets"])?;
            separator = ", ";
        }
        Ok(())
    }
}

/// A failed test shows what its agents said, and what their programs did.
impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the agent of {} ends:\n{}", self.node, self.log_tail());
            match self.counters() {
                Ok(counters) => eprintln!("its programs counted: {counters}\n"),
                Err(error) => eprintln!("what its programs counted is not known: {error:#}\n"),
            }
        }
    }
}
