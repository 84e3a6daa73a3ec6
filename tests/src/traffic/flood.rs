//! Datagrams as fast as one sender can, by iperf3.

use anyhow::Result;

use super::ends::{Ends, Placement};
use super::iperf3::{Cores, Iperf3, Report};

/// What became of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flood {
    /// Datagrams that arrived, per second.
    pub received_per_second: f64,
    /// Datagrams that arrived.
    pub received: u64,
    /// Datagrams that did not: more are sent than anybody can receive.
    pub lost: u64,
}

/// Sends datagrams with `payload` bytes for some seconds, with client and server on a core each.
pub fn udp_flood(ends: Ends<'_>, payload: u32, seconds: u32) -> Result<Flood> {
    let options = format!("-u -b 0 -l {payload} -t {seconds} -i 0");
    Iperf3::start(ends, Cores::Placed(Placement::TwoCores), &options, seconds)?.finish(read)
}

fn read(report: &Report) -> Result<Flood> {
    let (sent, lost) = (report.count("/end/sum/packets")?, report.count("/end/sum/lost_packets")?);
    let received = sent.saturating_sub(lost);
    let seconds = report.number("/end/sum_received/seconds")?;
    anyhow::ensure!(seconds > 0.0, "it took no time");
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let received_per_second = received as f64 / seconds;
    Ok(Flood { received_per_second, received, lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_was_not_received() {
        let text = r#"{"end":{"sum":{"packets":1000,"lost_packets":100,"seconds":2.5},
            "sum_received":{"packets":1000,"lost_packets":100,"seconds":2.0}}}"#;
        let flood = read(&Report::parse(text).unwrap()).unwrap();
        assert_eq!(flood, Flood { received_per_second: 450.0, received: 900, lost: 100 });
    }
}
