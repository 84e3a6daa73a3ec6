//! The harness: nodes and pods as network namespaces, an underlay between them, agents run as the real binary,
//! traffic and captures. The demo, the tests and the benchmark share it.
//!
//! It looks at the kernel with `ip`, `tc`, `tshark` and friends and never with the agent's own netlink code, so that
//! a mistake there can't hide itself. Everything it creates is owned by a value and goes away when that is dropped,
//! also when a test panics or a person presses Ctrl-C (see [`interrupt`]).
//!
//! ```no_run
//! use ovl_tests::{agent::{Agent, AgentOptions, Store}, artifacts, topology::Topology, traffic};
//!
//! # fn main() -> anyhow::Result<()> {
//! let topology = Topology::builder("reach").nodes(2).build()?;
//! let store = ovl_tests::store_dir::DirStore::create(&topology.dir().join("store"))?;
//! store.put("config", r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#)?;
//! let options = AgentOptions::new(artifacts::agent_binary()?, Store::Dir(store.path().to_owned()));
//! let mut pods = Vec::new();
//! let mut agents = Vec::new();
//! for node in topology.nodes() {
//!     let mut agent = Agent::start(node, &options)?;
//!     agent.wait_ready()?;
//!     pods.push(node.add_pod("a", &agent.subnet()?)?);
//!     agents.push(agent);
//! }
//! traffic::ping_all_pairs(&pods)?;
//! # Ok(())
//! # }
//! ```

pub mod agent;
pub mod artifacts;
pub mod background;
pub mod bulk;
pub mod capture;
pub mod cni;
pub mod command;
pub mod datagrams;
pub mod dialogue;
pub mod echo;
pub mod etcd;
pub mod families;
pub mod firewall;
pub mod flannel_udp;
pub mod flow;
pub mod interrupt;
pub mod kernel_ipip;
pub mod kernel_vtep;
pub mod kube;
pub mod links;
pub mod netns;
pub mod node;
pub mod pattern;
pub mod pod;
pub mod probe;
pub mod service;
pub mod sockets;
pub mod store_dir;
pub mod subnet;
pub mod topology;
pub mod traffic;
pub mod underlay;
pub mod wait;
