//! Where measured traffic begins and ends, and on which cores.

use std::net::IpAddr;

use crate::background::Background;
use crate::command::Cmd;
use crate::netns::Netns;
use crate::pod::Pod;

/// The two ends of measured traffic: pods, or the nodes themselves.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Who asks and sends.
    pub client: &'a Netns,
    /// Who answers and receives.
    pub server: &'a Netns,
    /// The server's address.
    pub address: IpAddr,
}

impl<'a> Ends<'a> {
    /// From pod to pod, by the server's first address.
    pub fn pods(client: &'a Pod, server: &'a Pod) -> Self {
        Self { client: client.netns(), server: server.netns(), address: server.address() }
    }
}

/// The protocols below requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// On which cores client and server run. Left to the scheduler they jump, and the figures with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Both on one core: the pure cost of the path.
    OneCore,
    /// Each on a core of its own, which sleeps while there is nothing to do.
    TwoCores,
}

impl Placement {
    /// The client's core and the server's. The last ones: the first is where interrupts usually are.
    pub fn cores(self) -> [usize; 2] {
        let last = last_core();
        match self {
            Self::OneCore => [last, last],
            Self::TwoCores => [last.saturating_sub(1), last],
        }
    }
}

fn last_core() -> usize {
    // Not those that this process may use: a shell that is pinned would change what is measured.
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
    online
        .ok()
        .flatten()
        .and_then(|cores| usize::try_from(cores).ok())
        .map_or(0, |cores| cores.saturating_sub(1))
}

/// Keeps cores awake until dropped: loops of the idle class, which give way to everything else.
#[derive(Debug)]
pub struct Spinners(#[expect(dead_code, reason = "held for what their end does")] Vec<Background>);

impl Spinners {
    /// Starts one on each of these cores.
    pub fn start(cores: &[usize]) -> anyhow::Result<Self> {
        let start = |core: &usize| {
            let command =
                pinned(Cmd::host("taskset"), *core).words("chrt --idle 0 sh -c").arg("while :; do :; done");
            Background::start_unnamed(&command)
        };
        cores.iter().map(start).collect::<anyhow::Result<_>>().map(Self)
    }
}

/// `taskset` with a core; the command comes next.
pub(super) fn pinned(taskset: Cmd, core: usize) -> Cmd {
    taskset.words(&format!("-c {core}"))
}
