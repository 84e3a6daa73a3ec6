//! What the demo prints.

use anyhow::Result;
use ovl_tests::artifacts;
use serde_json::Value;

use super::measure::{Measurement, Sample};
use crate::cluster::Cluster;
use crate::median::median;
use crate::overlay::Backend;
use crate::path::{self, Path};
use crate::table;

/// The leases, a row per node.
pub(super) fn leases(cluster: &Cluster) -> Result<()> {
    let mut rows = vec![["node", "public IP", "subnet", "backend", "MTU"].map(str::to_owned).to_vec()];
    for (node, agent) in cluster.topology().nodes().iter().zip(cluster.agents()) {
        let status = agent.status()?;
        let at = |pointer: &str| match status.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "?".to_owned(),
        };
        rows.push(vec![
            node.name().to_owned(),
            at("/node/public_ip"),
            at("/lease/subnet"),
            at("/backend"),
            at("/mtu"),
        ]);
    }
    print!("{}", table::format(&rows, false));
    Ok(())
}

/// The figures, with proof of the path.
pub(super) fn figures(measurement: &Measurement, backend: Backend) {
    let Measurement { kernel, ebpf } = measurement;
    let compared = !ebpf.is_empty();
    let columns: &[&str] = if compared { &["kernel", "ebpf", "ratio"] } else { &["kernel"] };
    let heading = std::iter::once(&"pod to pod, node1 to node2").chain(columns);
    let mut rows = vec![heading.map(|&text| text.to_owned()).collect()];
    rows.push(figure("TCP stream, Gb/s", measurement, Sample::stream_gigabits, |kernel, ebpf| ebpf / kernel));
    rows.push(figure(
        "TCP request/response, one way on one core, µs",
        measurement,
        Sample::one_way_micros,
        |kernel, ebpf| kernel / ebpf,
    ));
    rows.push(packets("packets on the fast path", measurement, |path| path.fast));
    let name = format!("packets through {}", path::kernel_device(backend));
    rows.push(packets(&name, measurement, |path| path.kernel));
    println!();
    print!("{}", table::format(&rows, true));
    let rounds = kernel.len();
    let plural = if rounds == 1 { "round" } else { "rounds" };
    let better = if compared { "; a ratio above 1 means that ebpf is ahead" } else { "" };
    println!("    (figures: medians of {rounds} {plural}; packets: sums{better})\n");
}

/// How to look around in a demo that stays, and how to remove it.
pub(super) fn look_around(cluster: &Cluster) {
    let agent = artifacts::target().join("release/ovl-agent");
    println!("The demo keeps running. To look around:");
    if let [first, second, ..] = cluster.pods() {
        println!("    ip netns exec {} ping {}", first.netns().name(), second.address());
    }
    if let Some(node) = cluster.topology().nodes().first() {
        println!("    ip -n {} route", node.netns().name());
    }
    for agent_of_node in cluster.agents() {
        println!("    {} status --socket {}", agent.display(), agent_of_node.socket().display());
    }
    println!("    ls {}", cluster.topology().dir().display());
    println!("To remove it:\n    cargo xtask demo --remove");
}

fn figure(
    name: &str,
    measurement: &Measurement,
    value: fn(&Sample) -> f64,
    ratio: fn(f64, f64) -> f64,
) -> Vec<String> {
    let of = |samples: &[Sample]| median(samples.iter().map(value));
    let (kernel, ebpf) = (of(&measurement.kernel), of(&measurement.ebpf));
    // Rounds are compared with themselves: what slows one side of a round slows the other as well.
    let pairs = measurement.kernel.iter().zip(&measurement.ebpf);
    let ratio = median(pairs.map(|(kernel, ebpf)| ratio(value(kernel), value(ebpf))));
    let one_digit = |value: f64| format!("{value:.1}");
    let cells = [kernel.map(one_digit), ebpf.map(one_digit), ratio.map(|ratio| format!("{ratio:.2}"))];
    std::iter::once(name.to_owned()).chain(cells.into_iter().flatten()).collect()
}

fn packets(name: &str, measurement: &Measurement, of: fn(Path) -> u64) -> Vec<String> {
    let sum = |samples: &Vec<Sample>| table::grouped(samples.iter().map(|sample| of(sample.path())).sum());
    let columns = [&measurement.kernel, &measurement.ebpf].into_iter().filter(|samples| !samples.is_empty());
    std::iter::once(name.to_owned()).chain(columns.map(sum)).collect()
}
