//! What is counted, in which unit, and what its ratios mean.

/// A figure's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) sense: Sense,
}

/// What a ratio between two figures means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    /// More is better: above 1 is ahead.
    Rate,
    /// Less is better, and the ratio is turned round: above 1 is ahead.
    Latency,
    /// What it costs: below 1 is cheaper.
    Cost,
}

impl Sense {
    /// `value` compared with `reference`; nothing is compared with nothing.
    pub(super) fn ratio(self, value: f64, reference: f64) -> Option<f64> {
        let (above, below) = match self {
            Self::Rate | Self::Cost => (value, reference),
            Self::Latency => (reference, value),
        };
        (below > 0.0).then_some(above / below)
    }
}

const fn metric(name: &'static str, unit: &'static str, sense: Sense) -> Metric {
    Metric { name, unit, sense }
}

pub(super) const THROUGHPUT: Metric = metric("throughput", "Gb/s", Sense::Rate);
pub(super) const RATE: Metric = metric("rate", "1/s", Sense::Rate);
pub(super) const RECEIVED: Metric = metric("received", "packets/s", Sense::Rate);
/// One way for requests and answers, all of it for a connection.
pub(super) const P50: Metric = metric("p50", "µs", Sense::Latency);
pub(super) const P99: Metric = metric("p99", "µs", Sense::Latency);
/// Of the whole machine.
pub(super) const CPU_PER_GB: Metric = metric("CPU", "s/GB", Sense::Cost);
/// The part of it in softirqs.
pub(super) const SOFTIRQ_PER_GB: Metric = metric("softirq", "s/GB", Sense::Cost);
pub(super) const CPU_PER_THOUSAND: Metric = metric("CPU", "s/1000", Sense::Cost);
pub(super) const SOFTIRQ_PER_THOUSAND: Metric = metric("softirq", "s/1000", Sense::Cost);
/// From the agent's start until it says that it is ready: with everything there, and on a node that has nothing.
pub(super) const WARM: Metric = metric("ready, warm", "ms", Sense::Latency);
pub(super) const COLD: Metric = metric("ready, cold", "ms", Sense::Latency);
/// The same of an agent that waits for its programs.
pub(super) const WARM_STRICT: Metric = metric("ready, --strict, warm", "ms", Sense::Latency);
pub(super) const COLD_STRICT: Metric = metric("ready, --strict, cold", "ms", Sense::Latency);
/// From a lease in the store to the first answer from behind it.
pub(super) const REACHABLE: Metric = metric("reachable", "ms", Sense::Latency);
/// A run of a program.
pub(super) const FROM_POD: Metric = metric("from_pod", "ns/run", Sense::Cost);
pub(super) const FROM_WIRE: Metric = metric("from_wire", "ns/run", Sense::Cost);
pub(super) const FROM_WIRE_XDP: Metric = metric("from_wire_xdp", "ns/run", Sense::Cost);
pub(super) const TO_POD: Metric = metric("to_pod", "ns/run", Sense::Cost);
pub(super) const TO_OVERLAY: Metric = metric("to_overlay", "ns/run", Sense::Cost);
/// A packet by itself.
pub(super) const TIME: Metric = metric("time", "ns/packet", Sense::Cost);
/// With what the system call takes that brings the packet.
pub(super) const INSTRUCTIONS: Metric = metric("instructions", "1/packet", Sense::Cost);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_speed_are_above_one_for_who_is_ahead() {
        assert_eq!(Sense::Rate.ratio(15.0, 10.0), Some(1.5));
        assert_eq!(Sense::Latency.ratio(10.0, 15.0), Some(1.5));
        assert_eq!(Sense::Cost.ratio(5.0, 10.0), Some(0.5));
        assert_eq!(Sense::Rate.ratio(5.0, 0.0), None);
    }
}
