//! Which tests run on which kernel: the one place that says so.

use std::fmt::Write as _;

use super::binaries::Suite;
use super::series::Series;

/// The tests that meet the kernel where kernels differ, by suite and the start of their names: about five minutes in
/// emulation, where a small transfer takes seconds and a question to tshark ten.
///
/// Not among them: `restart`, whose streams end before a restart does at that speed, `verified`, whose flows age before
/// a question about them is answered, and what asks an etcd, which guests have not.
const CORE: &[(&str, &str)] = &[
    // Every instruction of the programs, and the verifier's opinion.
    ("prog", ""),
    // Without rights, and with the kernel path alone.
    ("net", "fallback::"),
    // Filters, links where there are any, and their leftovers.
    ("net", "odd::a_killed_agents_filters_are_removed"),
    ("net", "reach::clsact_filters_carry"),
    ("net", "repair::a_clsact_filter_comes_back"),
    // The kernel's own devices of IP in IP, with and without programs, and a peer that has nothing else.
    ("net", "ipip::a_stock_peer"),
    // Devices, as old netlink makes them.
    ("net", "rows::vxlan_devices"),
    // Aggregates, checksums and sizes, against the kernel's own tunnel.
    ("net", "stock_peer::streams_with_offloads"),
    // The udp backend's aggregates: what a TUN device takes.
    ("net", "udp::carry::batches_of_datagrams"),
    ("net", "wire::tunnel_packets"),
];

/// Tests of the core that are left out, and where.
struct Exception {
    kernels: &'static [Series],
    suite: &'static str,
    /// The start of their names.
    tests: &'static str,
    reason: &'static str,
}

/// `BPF_F_ADJ_ROOM_ENCAP_L2_ETH`, which GSO of VXLAN needs, came with 5.13.
const NO_ROOM: &str =
    "this kernel lets no program wrap packets in VXLAN: its fast path is host-gw's and ipip's";

/// `bpf_xdp_get_buff_len`, with packets in several buffers, came with 5.18.
const NO_XDP: &str =
    "this kernel hands programs of XDP no packets in several buffers: tunnels are stripped at tc";

const EXCEPTIONS: &[Exception] = &[
    Exception::on_5_10("prog", "hostile::from_wire_xdp", NO_XDP),
    Exception::on_5_10("prog", "xdp::", NO_XDP),
    Exception::on_5_10("prog", "hostile::from_pod_wraps", NO_ROOM),
    Exception::on_5_10("prog", "packets::from_pod_writes_every_byte_of_the_tunnel", NO_ROOM),
    Exception::on_5_10("prog", "packets::outer_identifications", NO_ROOM),
    Exception::on_5_10("net", "reach::", NO_ROOM),
    Exception::on_5_10("net", "stock_peer::streams_with_offloads", NO_ROOM),
    Exception::on_5_10("net", "wire::tunnel_packets", NO_ROOM),
];

impl Exception {
    const fn on_5_10(suite: &'static str, tests: &'static str, reason: &'static str) -> Self {
        Self { kernels: &[Series::V5_10], suite, tests, reason }
    }
}

/// Which tests somebody wants.
#[derive(Clone, Copy)]
pub(super) struct Choice<'text> {
    /// Only those whose names contain this.
    pub(super) filter: &'text str,
    /// Not the core alone, and without exceptions.
    pub(super) all: bool,
}

impl Choice<'_> {
    /// The tests of a suite that run on a kernel, and those that are left out, with reasons.
    pub(super) fn split<'test>(
        self,
        series: Series,
        suite: &str,
        tests: &'test [String],
    ) -> (Vec<&'test str>, Vec<(&'test str, &'static str)>) {
        let (mut run, mut left_out) = (Vec::new(), Vec::new());
        for test in tests.iter().map(String::as_str).filter(|test| test.contains(self.filter)) {
            match reason(series, suite, test) {
                _ if self.all => run.push(test),
                _ if !is_core(suite, test) => {}
                Some(reason) => left_out.push((test, reason)),
                None => run.push(test),
            }
        }
        (run, left_out)
    }

    /// The same for people.
    pub(super) fn listing(self, series: Series, suites: &[Suite]) -> String {
        let mut text = String::new();
        for suite in suites {
            let (run, left_out) = self.split(series, suite.name, &suite.tests);
            let name = suite.name;
            // Writing to a string can't fail.
            let _written = writeln!(text, "{series}, {name}: {} run, {} left out", run.len(), left_out.len());
            for test in run {
                let _written = writeln!(text, "    {test}");
            }
            for (test, reason) in left_out {
                let _written = writeln!(text, "    not {test}: {reason}");
            }
        }
        text
    }
}

fn is_core(suite: &str, test: &str) -> bool {
    CORE.iter().any(|&(of, start)| of == suite && test.starts_with(start))
}

fn reason(series: Series, suite: &str, test: &str) -> Option<&'static str> {
    let applies = |exception: &&Exception| {
        exception.kernels.contains(&series) && exception.suite == suite && test.starts_with(exception.tests)
    };
    EXCEPTIONS.iter().find(applies).map(|exception| exception.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(choice: Choice<'_>, series: Series) -> (Vec<String>, usize) {
        let tests = ["fallback::a", "fallback::b", "wire::tunnel_packets_c", "restart::d"].map(str::to_owned);
        let (run, left_out) = choice.split(series, "net", &tests);
        (run.into_iter().map(str::to_owned).collect(), left_out.len())
    }

    #[test]
    fn exceptions_are_for_their_kernel_alone() {
        let core = Choice { filter: "", all: false };
        let most = ["fallback::a", "fallback::b", "wire::tunnel_packets_c"].map(str::to_owned);
        assert_eq!(split(core, Series::V6_1), (most.to_vec(), 0));
        assert_eq!(split(core, Series::V5_10), (most[..2].to_vec(), 1));
    }

    #[test]
    fn a_filter_narrows_the_core_and_all_widens_it() {
        let filter = Choice { filter: "::b", all: false };
        assert_eq!(split(filter, Series::V6_1), (vec!["fallback::b".to_owned()], 0));
        assert_eq!(split(Choice { filter: "", all: true }, Series::V5_10).0.len(), 4);
        assert_eq!(split(Choice { filter: "::d", all: true }, Series::V5_10).0, ["restart::d"]);
    }
}
