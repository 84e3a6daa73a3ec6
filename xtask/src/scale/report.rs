//! What the benchmark prints.

use std::collections::BTreeSet;
use std::time::Duration;

use super::etcd_requests::Requests;
use super::figures::Figures;
use super::lease_change::Times;
use crate::overlay::Mode;
use crate::peer::Overlay;
use crate::table;

/// A column per run, a row per figure, and beside them what was asked for.
pub(super) fn print(overlay: Overlay, mode: Mode, runs: &[Figures]) {
    let heading = format!("{}, mode {}", overlay.name(), mode.name());
    let mut table = Table { runs, rows: Vec::new() };
    table.row(&heading, "asked for", |run| format!("{} leases", table::grouped(run.leases.into())));

    table.row("load average of the machine before", "", |run| format!("{:.1}", run.load));
    table.row("start to ready, s", "", |run| seconds(Some(run.first_sync.start_to_ready)));
    table.row("leases listed to all rows written, s", "1", |run| seconds(run.first_sync.list_to_rows));
    table.row("    to the last route, as the kernel says", "", |run| {
        seconds(run.first_sync.list_to_last_route)
    });
    table.row("    first route to last, as the kernel says", "", |run| {
        seconds(run.first_sync.first_to_last_route)
    });
    table.row("a new lease, ms: median (most)", "50", |run| times(&run.changes.new));
    table.row("a lease that moved", "50", |run| times(&run.changes.moved));
    table.row("a lease that ended", "50", |run| times(&run.changes.deleted));
    table.row("most memory until ready, MB", "40", |run| megabytes(run.first_sync.memory.peak));
    table.row("    with all changes and passes", "40", |run| megabytes(run.idle.memory.peak));
    table.row("    with a question for the status", "40", |run| megabytes(run.idle.memory_after_status.peak));
    table.row("resident memory while idle, MB", "40", |run| megabytes(run.idle.memory.resident));
    table.requests("asked of etcd until ready:", |run| &run.first_sync.requests);
    table.requests("asked of etcd while idle:", |run| &run.idle.requests);
    table.row("passes while idle, per minute", "", |run| format!("{:.0}", run.idle.passes_per_minute()));
    table.row("    one of them, ms", "", |run| format!("{:.1}", run.idle.pass_milliseconds()));
    table.row("CPU while idle, s in ten minutes", "0.5", |run| format!("{:.2}", run.idle.cpu_seconds()));
    table.row("    of its children", "", |run| format!("{:.2}", run.idle.children_seconds()));
    println!("\n{}", table::format(&table.rows, true));
}

struct Table<'a> {
    runs: &'a [Figures],
    rows: Vec<Vec<String>>,
}

impl<'a> Table<'a> {
    fn row(&mut self, name: &str, asked_for: &str, cell: impl Fn(&'a Figures) -> String) {
        let cells = self.runs.iter().map(cell);
        let row = std::iter::once(name.to_owned()).chain(cells).chain([asked_for.to_owned()]);
        self.rows.push(row.collect());
    }

    /// A row per method that was used in any run.
    fn requests(&mut self, name: &str, of: impl Fn(&'a Figures) -> &'a Requests) {
        let methods: BTreeSet<&str> =
            self.runs.iter().flat_map(|run| of(run).iter().map(|(method, _)| method)).collect();
        if methods.is_empty() {
            self.row(&format!("{name} nothing"), "", |_| "0".to_owned());
        }
        for method in methods {
            self.row(&format!("{name} {method}"), "", |run| of(run).count(method).to_string());
        }
    }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "?".to_owned(), |time| format!("{:.3}", time.as_secs_f64()))
}

fn times(times: &Times) -> String {
    let both = times.median_and_most();
    both.map_or_else(|| "?".to_owned(), |(median, most)| format!("{median:.1} ({most:.1})"))
}

/// Millions of bytes.
fn megabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = bytes as f64;
    format!("{:.1}", bytes / 1e6)
}
