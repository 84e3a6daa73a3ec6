//! The answers as a person reads them.

use std::fmt::Write as _;

use super::Report;
use super::feature::{About, Answer};
use crate::status::table::Side::Left;
use crate::status::table::table;

/// The whole page.
pub(super) fn render(report: &Report) -> String {
    let mut page = format!("ovl-agent {} on Linux {}\n\n", report.version, report.kernel);
    let mut rows = Vec::new();
    let mut last_group = "";
    for row in &report.features {
        let About { group, name, since, without } = row.feature.about();
        if group != last_group {
            rows.push([group, "", "", ""].map(str::to_owned));
            last_group = group;
        }
        let here = match row.answer {
            Answer::Unknown(_) => "?",
            Answer::Yes | Answer::No(_) => row.answer.word(),
        };
        let mut why = without.to_owned();
        if !row.answer.detail().is_empty() {
            // Writing to a string cannot fail.
            let _written = write!(why, " [{}]", row.answer.detail());
        }
        rows.push([format!("  {name}"), here.to_owned(), since.to_owned(), why]);
    }
    page.push_str(&table([("FEATURE", Left), ("HERE", Left), ("SINCE", Left), ("WITHOUT IT", Left)], &rows));
    page.push('\n');
    for outlook in &report.backends {
        let _written = writeln!(page, "{}: {}", outlook.backend, outlook.sentence);
    }
    for outlook in &report.xdp {
        let _written = writeln!(page, "xdp on {}: {} ({})", outlook.interface, outlook.mode, outlook.reason);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::feature::{Feature, Row};
    use super::super::outlook::outlook;
    use super::*;

    #[test]
    fn groups_are_headed_and_details_follow_what_they_explain() {
        let features = vec![
            Row::new(Feature::SchedCls, Answer::Yes),
            Row::new(Feature::Btf, Answer::No(String::new())),
            Row::new(Feature::NftTool, Answer::No("not installed".to_owned())),
            Row::new(Feature::Nftables, Answer::Unknown("EPERM".to_owned())),
        ];
        let backends = outlook(&features[..3]);
        let reason = "--xdp auto: eth0 is a veth".to_owned();
        let xdp = vec![super::super::xdp::Outlook { interface: "eth0".into(), mode: "off", reason }];
        let report = Report { version: "1.2.3", kernel: "6.18.0".to_owned(), features, backends, xdp };
        let expected = "\
ovl-agent 1.2.3 on Linux 6.18.0

FEATURE                       HERE  SINCE  WITHOUT IT
BPF basics
  programs of type sched_cls  yes   4.1    the kernel path carries everything
  BTF of the kernel           no    5.4    tools show less of programs; the programs need none
surroundings
  the tool nft                no           no flow is verified: --fast-path always or none [not installed]
  nf_tables                   ?     3.14   no flow is verified: --fast-path always or none [EPERM]

vxlan: kernel path, because no flow can be verified without the tool nft (not installed); --fast-path always does not verify
host-gw: kernel path, because no flow can be verified without the tool nft (not installed); --fast-path always does not verify
ipip: kernel path, because no flow can be verified without the tool nft (not installed); --fast-path always does not verify
alloc: leases a subnet and leaves the packets to others
xdp on eth0: off (--xdp auto: eth0 is a veth)
";
        assert_eq!(render(&report), expected);
    }
}
