//! This machine: a node with one of its cards, and what runs there.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ovl_tests::agent::{Agent, AgentOptions, Store};
use ovl_tests::artifacts;
use ovl_tests::echo::{Caller, Echo};
use ovl_tests::kube::ApiServer;
use ovl_tests::node::Node;
use ovl_tests::pod::Pod;
use ovl_tests::topology::Topology;
use ovl_tests::traffic;

use crate::SOON;
use crate::partner::Partner;

/// What says which of the two guests this is, 1 or 2.
const GUEST: &str = "OVL_GUEST";
/// The cards, as the last but one byte of their MACs counts them; the last is the guest's number.
const CARDS: [&str; 3] = ["plain", "offloads", "fixed"];

const CONFIG: &str =
    r#"{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd42::/48","Backend":{"Type":"vxlan"}}"#;
/// The echo server of every pod.
const PORT: u16 = 7;
/// What is asked of it over TCP in each family, in pieces.
const PIECES: usize = 4;
const PIECE: usize = 1 << 16;
/// So many full packets carry the questions and the answers of one family, at least.
pub(crate) const PACKETS: u64 = (PIECES * PIECE / 1500) as u64;

/// A node of two. Fields are dropped in order.
pub(crate) struct Machine {
    partner: Partner,
    /// The first machine has it.
    _server: Option<ApiServer>,
    store: Store,
    number: usize,
    topology: Topology,
}

/// An agent and a pod with an echo server.
pub(crate) struct Running {
    _echoes: Vec<Echo>,
    pod: Pod,
    pub(crate) agent: Agent,
    others: [IpAddr; 2],
}

impl Machine {
    /// With the card of this name, once the other machine is there.
    pub(crate) fn open(card: &str) -> Self {
        Self::try_open(card).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_open(card: &str) -> Result<Self> {
        let number: usize =
            std::env::var(GUEST).ok().and_then(|number| number.parse().ok()).with_context(|| {
                format!("{GUEST} says no number: `cargo xtask kernels --pair` runs these tests")
            })?;
        let device = device(card, number)?;
        let topology = Topology::builder("pair").ipv6().alone(number, &device).build()?;
        let node = topology.node(0)?;
        let first: IpAddr = [192, 0, 2, 11].into();
        let (server, partner) = if number == 1 {
            let server = ApiServer::on_node(node)?;
            for number in 1..=2 {
                let subnets = [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number}::/64")];
                server.add_node(&format!("node{number}"), &[&subnets[0], &subnets[1]]);
            }
            (Some(server), Partner::expect(node)?)
        } else {
            (None, Partner::seek(node, Partner::place(first))?)
        };
        let config = topology.dir().join("net-conf.json");
        fs::write(&config, CONFIG).context("write the network config")?;
        let store = Store::Kubernetes(ApiServer::url_on(first), config);
        Ok(Self { partner, _server: server, store, number, topology })
    }

    pub(crate) fn node(&self) -> &Node {
        self.topology.node(0).unwrap()
    }

    /// Starts an agent with `args` and a pod, and returns when both machines have theirs.
    pub(crate) fn start(&mut self, args: &str) -> Running {
        let options = AgentOptions::new(artifacts::agent_binary().unwrap(), self.store.clone()).args(args);
        let mut agent = Agent::start(self.node(), &options).unwrap();
        agent.wait_ready().unwrap();
        agent.wait_for_peers(1).unwrap();
        let pod = self.node().add_pod_at("a", &agent.subnet().unwrap(), 0).unwrap();
        let serve = |address| Echo::start(pod.netns(), SocketAddr::new(address, PORT), 1).unwrap();
        let echoes = pod.addresses().map(serve).collect();
        let other = 3 - self.number;
        let number = u8::try_from(other).unwrap();
        let others = [[10, 42, number, 2].into(), format!("fd42:0:0:{other}::2").parse().unwrap()];
        self.partner.meet(&format!("pods with {args}")).unwrap();
        Running { _echoes: echoes, pod, agent, others }
    }

    /// Ends it, once the other machine does not need it any more.
    pub(crate) fn stop(&mut self, mut running: Running) {
        self.partner.meet("all has arrived").unwrap();
        running.agent.terminate().unwrap();
        running.pod.remove().unwrap();
        self.partner.meet("nothing runs").unwrap();
    }
}

impl Running {
    /// The addresses of the pod on the other machine.
    pub(crate) fn others(&self) -> [IpAddr; 2] {
        self.others
    }

    /// Twenty packets, at some distance from each other.
    pub(crate) fn ping(&self, address: IpAddr) -> Result<()> {
        let lost = traffic::ping_burst(self.pod.netns(), address, 20)?.lost();
        anyhow::ensure!(lost == 0, "{lost} pings to {address} were lost");
        Ok(())
    }

    /// Pings, TCP both ways and UDP with the other machine's pod, by every address; all of it arrives as it was sent.
    pub(crate) fn exchange(&self) {
        for address in self.others {
            let to = SocketAddr::new(address, PORT);
            traffic::ping(self.pod.netns(), address).unwrap();
            let mut caller = Caller::connect(self.pod.netns(), to, SOON).unwrap();
            for _ in 0..PIECES {
                caller.ask(PIECE).unwrap();
            }
            assert_eq!(ovl_tests::echo::ask_once(self.pod.netns(), to, SOON).unwrap(), 1);
        }
    }
}

/// The name of the card of this name, which may have been renamed when an earlier node went.
fn device(card: &str, guest: usize) -> Result<String> {
    let number = CARDS.iter().position(|name| *name == card).context("there is no such card")?;
    let mac = format!("52:54:00:00:{number:02x}:{guest:02x}");
    let folders = fs::read_dir("/sys/class/net").context("list the cards")?;
    let paths: Vec<PathBuf> = folders.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let has_mac =
        |path: &&PathBuf| fs::read_to_string(path.join("address")).is_ok_and(|address| address.trim() == mac);
    let found = paths.iter().find(has_mac).and_then(|path| Path::file_name(path)?.to_str());
    Ok(found.with_context(|| format!("no card has the MAC {mac}"))?.to_owned())
}
