//! The flows as a person reads them.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::Report;
use super::row::Row;
use crate::status::human::{bytes, duration};
use crate::status::table::Side::{Left, Right};
use crate::status::table::table;

/// So many fill a screen; `--all` shows the others.
const FLOWS: usize = 50;

/// The whole page.
pub(super) fn render(report: &Report, all: bool) -> String {
    let matching = report.flows.len();
    let shown = if all { matching } else { matching.min(FLOWS) };
    let mut page = String::new();
    if shown > 0 {
        let rows: Vec<_> = report.flows.iter().take(shown).map(cells).collect();
        let heads = [
            ("LOCAL", Left),
            ("REMOTE", Left),
            ("PROTOCOL", Left),
            ("AGE", Right),
            ("IDLE", Right),
            ("PACKETS OUT", Right),
            ("IN", Right),
            ("BYTES OUT", Right),
            ("IN", Right),
            ("STATE OUT", Left),
            ("IN", Left),
        ];
        page.push_str(&table(heads, &rows));
        page.push('\n');
    }
    // Writing to a string cannot fail.
    for note in &report.notes {
        let _written = writeln!(page, "{note}");
    }
    let matching = if report.is_filtered { format!(" ({matching} match)") } else { String::new() };
    let Report { total, capacity, .. } = report;
    let _written =
        writeln!(page, "{shown} of {total} flows shown{matching}; the map has room for {capacity}");
    page
}

fn cells(row: &Row) -> [String; 11] {
    [
        end(row, row.local, row.local_port),
        end(row, row.remote, row.remote_port),
        row.protocol.clone(),
        duration(row.age_seconds),
        row.idle_seconds.map_or_else(|| "-".to_owned(), duration),
        row.packets_out.to_string(),
        row.packets_in.to_string(),
        bytes(row.bytes_out),
        bytes(row.bytes_in),
        row.state_out.name().to_owned(),
        row.state_in.name().to_owned(),
    ]
}

/// One side: the one that asks for echoes has their identifier.
fn end(row: &Row, address: IpAddr, port: Option<u16>) -> String {
    match port {
        None => address.to_string(),
        Some(id) if row.protocol.starts_with("icmp") => format!("{address} asks, id {id}"),
        Some(port) => SocketAddr::new(address, port).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ovl_common::wire::{ICMP, TCP};
    use ovl_common::{Config, FlowKey};

    use super::super::report;
    use super::super::row::example;
    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    fn config() -> Config {
        Config { epoch: 7, deadline: NOW, carry_tcp: 1, ..bytemuck::Zeroable::zeroed() }
    }

    #[test]
    fn busy_flows_come_first_and_echoes_have_an_identifier() {
        let (tcp, mut busy) = example(TCP);
        busy.out.packets = 1_234_567;
        busy.out.bytes = 1_234_567_890;
        busy.into.epoch = 6;
        let flows = BTreeMap::from([example(ICMP), (tcp, busy)]);
        let expected = "\
LOCAL                     REMOTE        PROTOCOL  AGE  IDLE  PACKETS OUT  IN  BYTES OUT       IN  STATE OUT  IN
10.42.3.2:40000           10.42.7.2:80  tcp       10m    1m      1234567  20    1.23 GB  20.0 kB  fast       changed
10.42.3.2 asks, id 40000  10.42.7.2     icmp      10m    1m            3  20    3.00 kB  20.0 kB  fast       fast

2 of 2 flows shown; the map has room for 16
";
        assert_eq!(render(&report(&flows, &config(), NOW, 16, &[]), false), expected);
        let filter = ["icmp".parse().expect("a protocol")];
        let page = render(&report(&flows, &config(), NOW, 16, &filter), false);
        assert!(page.ends_with("\n1 of 2 flows shown (1 match); the map has room for 16\n"), "{page}");
        assert!(!page.contains("tcp"), "{page}");
    }

    #[test]
    fn a_screen_is_filled_unless_all_are_wanted_and_what_stops_them_is_said() {
        let (key, flow) = example(TCP);
        let flows: BTreeMap<FlowKey, _> =
            (1..=60_u16).map(|port| (FlowKey { local_port: port.to_be_bytes(), ..key }, flow)).collect();
        let stopped = Config { deadline: 1, carry_tcp: 0, ..config() };
        let report = report(&flows, &stopped, NOW, 64, &[]);
        let page = render(&report, false);
        assert!(page.contains("\n50 of 60 flows shown;"), "{page}");
        assert!(page.contains("deadline") && page.contains("TCP is on the kernel path"), "{page}");
        assert_eq!(render(&report, true).matches("10.42.7.2:80").count(), 60);
    }

    #[test]
    fn no_flows_are_one_line() {
        let report = report(&BTreeMap::new(), &config(), NOW, 64, &[]);
        assert_eq!(render(&report, false), "0 of 0 flows shown; the map has room for 64\n");
    }
}
