//! What is measured: the rows.

use anyhow::Result;
use ovl_tests::traffic::{self, Ends, Placement, Protocol, RequestResponse, Spinners};

use super::contender::{Between, Contender};
use super::cpu::Cpu;
use super::metric::{
    CPU_PER_GB, CPU_PER_THOUSAND, Metric, P50, P99, RATE, RECEIVED, SOFTIRQ_PER_GB, SOFTIRQ_PER_THOUSAND,
    THROUGHPUT,
};
use super::site::Site;
use super::{agents, program_runs};
use crate::overlay::{Backend, Mode};
use crate::path;

/// A row, or some that come from one run.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) when: When,
    pub(super) load: Load,
}

/// When it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Always.
    Core,
    /// Not with `--quick`.
    Usual,
    /// Where it is asked for by name: one of a series, which takes its time.
    Asked,
}

impl When {
    /// Whether it is, where nothing is asked for by name.
    pub(super) fn is_usual(self, quick: bool) -> bool {
        match self {
            Self::Core => true,
            Self::Usual => !quick,
            Self::Asked => false,
        }
    }
}

/// The traffic.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// TCP streams.
    Streams(u32),
    /// Requests and answers in so many flows.
    Requests(Protocol, u32, Cores),
    /// Connections with one request and one answer each.
    Openings(Cores),
    /// Datagrams of so many bytes, as fast as one sender can.
    Flood(u32),
    /// The same as another, while the kernel counts what the programs take.
    Programs(&'static Load),
    /// None: an agent that starts.
    Start,
    /// None: a lease that appears.
    Lease,
}

/// Where client and server run, and whether their cores may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    /// Both on one.
    One,
    /// On two that sleep in between: what an idle machine gives.
    Asleep,
    /// On two that are kept awake.
    Awake,
}

impl Cores {
    /// Where both run, and what keeps their cores awake as long as it is held.
    fn prepare(self) -> Result<(Placement, Option<Spinners>)> {
        let placement = if self == One { Placement::OneCore } else { Placement::TwoCores };
        let spinners = (self == Awake).then(|| Spinners::start(&placement.cores())).transpose()?;
        Ok((placement, spinners))
    }
}

use Cores::{Asleep, Awake, One};
use Protocol::{Tcp, Udp};

/// All of them.
pub(super) const ALL: &[Workload] = &[
    core("tcp-stream-1", Load::Streams(1)),
    usual("tcp-stream-4", Load::Streams(4)),
    usual("tcp-stream-8", Load::Streams(8)),
    core("tcp-rr-1-one-core", Load::Requests(Tcp, 1, One)),
    usual("tcp-rr-1-two-cores", Load::Requests(Tcp, 1, Asleep)),
    usual("tcp-rr-1-awake", Load::Requests(Tcp, 1, Awake)),
    asked("tcp-rr-2", Load::Requests(Tcp, 2, Asleep)),
    asked("tcp-rr-4", Load::Requests(Tcp, 4, Asleep)),
    asked("tcp-rr-8", Load::Requests(Tcp, 8, Asleep)),
    asked("tcp-rr-16", Load::Requests(Tcp, 16, Asleep)),
    core("tcp-rr-32", Load::Requests(Tcp, 32, Asleep)),
    core("tcp-crr", Load::Openings(Asleep)),
    usual("tcp-crr-one-core", Load::Openings(One)),
    asked("tcp-crr-awake", Load::Openings(Awake)),
    core("udp-64", Load::Flood(64)),
    usual("udp-512", Load::Flood(512)),
    usual("udp-1380", Load::Flood(1380)),
    core("udp-rr-1-one-core", Load::Requests(Udp, 1, One)),
    usual("udp-rr-1-two-cores", Load::Requests(Udp, 1, Asleep)),
    usual("udp-rr-1-awake", Load::Requests(Udp, 1, Awake)),
    asked("udp-rr-2", Load::Requests(Udp, 2, Asleep)),
    asked("udp-rr-4", Load::Requests(Udp, 4, Asleep)),
    asked("udp-rr-8", Load::Requests(Udp, 8, Asleep)),
    asked("udp-rr-16", Load::Requests(Udp, 16, Asleep)),
    usual("udp-rr-32", Load::Requests(Udp, 32, Asleep)),
    usual("programs-stream", Load::Programs(&Load::Streams(1))),
    usual("programs-rr", Load::Programs(&Load::Requests(Tcp, 1, One))),
    usual("programs-crr", Load::Programs(&Load::Openings(Asleep))),
    core("start", Load::Start),
    core("lease", Load::Lease),
];

const fn core(name: &'static str, load: Load) -> Workload {
    Workload { name, when: When::Core, load }
}

const fn usual(name: &'static str, load: Load) -> Workload {
    Workload { name, when: When::Usual, load }
}

const fn asked(name: &'static str, load: Load) -> Workload {
    Workload { name, when: When::Asked, load }
}

/// What a run showed.
pub(super) struct Outcome {
    pub(super) values: Vec<(Metric, f64)>,
    /// How many packets there must have been at the very least.
    pub(super) packets: u64,
}

impl Load {
    /// Whether most packets open or close connections, which is netfilter's affair.
    pub(super) fn opens_connections(self) -> bool {
        match self {
            Self::Openings(_) => true,
            Self::Programs(load) => load.opens_connections(),
            Self::Streams(_) | Self::Requests(..) | Self::Flood(_) | Self::Start | Self::Lease => false,
        }
    }

    /// Whether it is a matter of agents, and there is no traffic whose path could be looked at.
    pub(super) fn is_of_agents(self) -> bool {
        matches!(self, Self::Start | Self::Lease)
    }

    /// Whether a contender has such a thing: the kernel has no programs, the bare network no agents of its own, and a node
    /// whose agent carries the packets does not stay as it is without it, as [`agents::lease`] wants.
    pub(super) fn concerns(self, contender: &Contender) -> bool {
        match self {
            Self::Programs(_) => contender.mode == Mode::Ebpf,
            Self::Start => contender.ends == Between::Pods,
            Self::Lease => contender.ends == Between::Pods && contender.backend != Backend::Udp,
            Self::Streams(_) | Self::Requests(..) | Self::Openings(_) | Self::Flood(_) => true,
        }
    }

    /// Runs it for some seconds.
    pub(super) fn run(self, site: &mut Site, seconds: u32) -> Result<Outcome> {
        match self {
            Self::Streams(flows) => streams(site.ends()?, flows, seconds),
            Self::Requests(protocol, flows, cores) => requests(site.ends()?, protocol, flows, cores, seconds),
            Self::Openings(cores) => openings(site.ends()?, cores, seconds),
            Self::Flood(payload) => flood(site.ends()?, payload, seconds),
            Self::Programs(load) => program_runs::during(site, |site| load.run(site, seconds)),
            Self::Start => Ok(Outcome { values: agents::start(site)?, packets: 0 }),
            Self::Lease => Ok(Outcome { values: agents::lease(site)?, packets: 0 }),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
fn streams(ends: Ends<'_>, flows: u32, seconds: u32) -> Result<Outcome> {
    let (stream, cpu) = Cpu::during(|| traffic::tcp_streams(ends, flows, seconds))?;
    let gigabytes = stream.bytes as f64 / 1e9;
    anyhow::ensure!(gigabytes > 0.0, "not a byte arrived");
    let values = vec![
        (THROUGHPUT, stream.bits_per_second / 1e9),
        (CPU_PER_GB, cpu.busy / gigabytes),
        (SOFTIRQ_PER_GB, cpu.softirq / gigabytes),
    ];
    Ok(Outcome { values, packets: path::packets_of(stream.bytes) })
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
fn requests(ends: Ends<'_>, protocol: Protocol, flows: u32, cores: Cores, seconds: u32) -> Result<Outcome> {
    let (placement, _spinners) = cores.prepare()?;
    let run = || match flows {
        1 => traffic::request_response(ends, protocol, placement, seconds),
        flows => traffic::many_requests(ends, protocol, flows as usize, placement, seconds),
    };
    let (RequestResponse { p50_micros, p99_micros, per_second, requests, total, .. }, cpu) =
        Cpu::during(run)?;
    let mut values = vec![(P50, p50_micros), (P99, p99_micros), (RATE, per_second)];
    // Who keeps cores awake takes all there is.
    if cores != Awake {
        let thousands = total as f64 / 1e3;
        values.push((CPU_PER_THOUSAND, cpu.busy / thousands));
        values.push((SOFTIRQ_PER_THOUSAND, cpu.softirq / thousands));
    }
    Ok(Outcome { values, packets: requests })
}

fn openings(ends: Ends<'_>, cores: Cores, seconds: u32) -> Result<Outcome> {
    let (placement, _spinners) = cores.prepare()?;
    let openings = traffic::open_and_close(ends, placement, seconds)?;
    let values = vec![(RATE, openings.per_second), (P50, openings.p50_micros), (P99, openings.p99_micros)];
    Ok(Outcome { values, packets: openings.connections })
}

fn flood(ends: Ends<'_>, payload: u32, seconds: u32) -> Result<Outcome> {
    let flood = traffic::udp_flood(ends, payload, seconds)?;
    Ok(Outcome { values: vec![(RECEIVED, flood.received_per_second)], packets: flood.received })
}
