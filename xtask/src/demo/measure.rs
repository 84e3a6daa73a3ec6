//! The demo's measurements: a TCP stream and request/response between the pods of the first two nodes.

use anyhow::{Context as _, Result};
use ovl_tests::traffic::{self, Ends, Placement, Protocol, RequestResponse, Stream};

use super::Options;
use crate::cluster::Cluster;
use crate::overlay::{Backend, Mode};
use crate::path::{self, Path};
use crate::shell;

const STREAM_SECONDS: u32 = 3;
const REQUEST_SECONDS: u32 = 2;

/// What was measured in one mode in one round.
pub(super) struct Sample {
    stream: Stream,
    stream_path: Path,
    requests: RequestResponse,
    requests_path: Path,
}

/// All samples, by mode.
pub(super) struct Measurement {
    pub(super) kernel: Vec<Sample>,
    pub(super) ebpf: Vec<Sample>,
}

impl Measurement {
    /// Measures. In ebpf mode kernel and ebpf take turns, so that both meet the same moods of the machine; the agents
    /// end in the mode that was asked for.
    pub(super) fn run(cluster: &mut Cluster, options: &Options) -> Result<Self> {
        let mut measurement = Self { kernel: Vec::new(), ebpf: Vec::new() };
        for round in 1..=options.rounds {
            shell::step(&format!("measuring, round {round} of {}", options.rounds));
            match options.mode() {
                Mode::Kernel => measurement.kernel.push(sample(cluster, options.backend)?),
                Mode::Ebpf => {
                    cluster
                        .restart_agents(&Mode::Kernel.strict_flags(options.backend))
                        .context("restart the agents in kernel mode")?;
                    measurement.kernel.push(sample(cluster, options.backend)?);
                    cluster
                        .restart_agents(&Mode::Ebpf.strict_flags(options.backend))
                        .context("restart the agents in ebpf mode")?;
                    measurement.ebpf.push(sample(cluster, options.backend)?);
                }
            }
        }
        traffic::ping_all_pairs(cluster.pods())?;
        Ok(measurement)
    }

    /// Checks that every sample took the path that its column claims.
    pub(super) fn verify(&self) -> Result<()> {
        for sample in &self.kernel {
            let packets = path::packets_of(sample.stream.bytes);
            path::expect_kernel("the TCP stream", &sample.stream_path, packets)?;
            path::expect_kernel("the requests", &sample.requests_path, sample.requests.requests)?;
        }
        for sample in &self.ebpf {
            path::expect_fast("the TCP stream", &sample.stream_path, path::packets_of(sample.stream.bytes))?;
            path::expect_fast("the requests", &sample.requests_path, sample.requests.requests)?;
        }
        Ok(())
    }
}

impl Sample {
    pub(super) fn stream_gigabits(&self) -> f64 {
        self.stream.bits_per_second / 1e9
    }

    pub(super) fn one_way_micros(&self) -> f64 {
        self.requests.mean_micros
    }

    pub(super) fn path(&self) -> Path {
        self.stream_path + self.requests_path
    }
}

fn sample(cluster: &Cluster, backend: Backend) -> Result<Sample> {
    let [client, server] = cluster.measured_pair()?.map(|member| member.pod);
    traffic::ping(client.netns(), server.address())?;
    let (stream, stream_path) =
        path::observe(cluster, backend, || traffic::tcp_stream(client, server, STREAM_SECONDS))?;
    let ends = Ends::pods(client, server);
    let (requests, requests_path) = path::observe(cluster, backend, || {
        traffic::request_response(ends, Protocol::Tcp, Placement::OneCore, REQUEST_SECONDS)
    })?;
    Ok(Sample { stream, stream_path, requests, requests_path })
}
