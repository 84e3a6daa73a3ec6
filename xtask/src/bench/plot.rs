//! Plots of how contenders compare: a bar for each, and in it a line from the lowest ratio to the highest.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{PathElement, Rectangle, Text};
use plotters::prelude::SVGBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color as _, IntoFont as _, RGBColor, WHITE};

use super::contender::{self, BASELINE};
use super::metric::{CPU_PER_GB, CPU_PER_THOUSAND, P50, RATE, RECEIVED, THROUGHPUT};
use super::results::{Row, Spread};

/// A plot: its file's name, its title, and which rows it shows.
struct Plot {
    name: &'static str,
    title: &'static str,
    shows: fn(&Row) -> bool,
}

const PLOTS: &[Plot] = &[
    Plot {
        name: "throughput",
        title: "Streams and datagrams, times kernel-vxlan (more is better)",
        shows: |row| [THROUGHPUT, RECEIVED].contains(&row.metric),
    },
    Plot {
        name: "tcp-requests",
        title: "TCP: p50 of requests, rate of connections, times kernel-vxlan (more is better)",
        shows: |row| {
            let metric = if row.workload.starts_with("tcp-crr") { RATE } else { P50 };
            row.workload.starts_with("tcp") && row.metric == metric
        },
    },
    Plot {
        name: "udp-requests",
        title: "UDP: p50 of requests, times kernel-vxlan (more is better)",
        shows: |row| row.workload.starts_with("udp") && row.metric == P50,
    },
    Plot {
        name: "cpu",
        title: "CPU per gigabyte or thousand requests, times kernel-vxlan (less is better)",
        shows: |row| [CPU_PER_GB, CPU_PER_THOUSAND].contains(&row.metric),
    },
];

/// One colour per contender, which those tell apart, too, who do not see all of them (Okabe and Ito).
const COLOURS: &[RGBColor] = &[
    RGBColor(153, 153, 153),
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
];

const HEIGHT: u32 = 440;
/// What the axis and the legend take beside the bars.
const SIDES: u32 = 220;
/// What the legend takes on the right, and each line of it.
const LEGEND: i32 = 150;
const LINE: i32 = 20;
/// What the bars of one workload take.
const GROUP: u32 = 150;

/// Draws what there are rows for; returns the names of the files without their `.svg`.
pub(super) fn draw(folder: &Path, rows: &[Row]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for plot in PLOTS {
        let groups = groups(rows, plot.shows);
        if groups.is_empty() {
            continue;
        }
        let file = folder.join(format!("{}.svg", plot.name));
        // Wide enough for the title.
        let width = SIDES + GROUP * u32::try_from(groups.len())?.max(4);
        let area = SVGBackend::new(&file, (width, HEIGHT)).into_drawing_area();
        draw_plot(plot.title, &groups, &area).with_context(|| format!("draw {}", file.display()))?;
        names.push(plot.name.to_owned());
    }
    Ok(names)
}

/// The bars of a workload: each contender's ratio, by its place in the list of contenders.
struct Group {
    name: String,
    bars: Vec<(usize, Spread)>,
}

fn groups(rows: &[Row], shows: fn(&Row) -> bool) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // The baseline's own ratio is the line at 1.
    for row in rows.iter().filter(|row| shows(row) && row.contender != BASELINE) {
        let place = contender::ALL.iter().position(|contender| contender.name == row.contender);
        let Some(bar) = place.zip(row.to_baseline) else { continue };
        match groups.iter_mut().find(|group| group.name == row.workload) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { name: row.workload.clone(), bars: vec![bar] }),
        }
    }
    for group in &mut groups {
        // Whoever was first in the first round: the order is the contenders'.
        group.bars.sort_by_key(|(place, _)| *place);
    }
    groups
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

#[expect(clippy::cast_precision_loss, reason = "a few bars")]
fn draw_plot(title: &str, groups: &[Group], area: &Area<'_>) -> Result<()> {
    area.fill(&WHITE)?;
    let all = || groups.iter().flat_map(|group| &group.bars);
    let highest = all().map(|(_, ratio)| ratio.max).fold(1.0, f64::max);
    let end = groups.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .margin_bottom(30)
        .margin_right(LEGEND + 10)
        .y_label_area_size(40)
        .build_cartesian_2d(0.0..end, 0.0..highest * 1.05)?;
    chart.configure_mesh().disable_x_mesh().disable_x_axis().draw()?;
    let mut line = 2 * LINE;
    for (place, entry) in contender::ALL.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let places = groups.iter().enumerate().flat_map(|(number, group)| {
            // A fifth of the width is left free between workloads.
            let width = 0.8 / group.bars.len() as f64;
            let mine = group.bars.iter().enumerate().filter(move |(_, (owner, _))| *owner == place);
            mine.map(move |(turn, (_, ratio))| (number as f64 + 0.1 + turn as f64 * width, width, *ratio))
        });
        let places: Vec<_> = places.collect();
        if places.is_empty() {
            continue;
        }
        let bar = |(left, width, ratio): &(f64, f64, Spread)| {
            Rectangle::new([(*left, 0.0), (left + width * 0.9, ratio.median)], colour.filled())
        };
        chart.draw_series(places.iter().map(bar))?;
        // Beside the bars, and in their order.
        let (x, y) = (i32::try_from(area.dim_in_pixel().0)? - LEGEND, line);
        area.draw(&Rectangle::new([(x, y), (x + 10, y + 10)], colour.filled()))?;
        area.draw(&Text::new(entry.name, (x + 16, y), ("sans-serif", 13)))?;
        line += LINE;
        let whisker = |(left, width, ratio): &(f64, f64, Spread)| {
            let middle = left + width * 0.45;
            PathElement::new(vec![(middle, ratio.min), (middle, ratio.max)], BLACK.mix(0.6).stroke_width(2))
        };
        chart.draw_series(places.iter().map(whisker))?;
    }
    chart.draw_series([PathElement::new(vec![(0.0, 1.0), (end, 1.0)], BLACK.stroke_width(1))])?;
    let style = ("sans-serif", 13).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
    for (number, group) in groups.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(number as f64 + 0.5, 0.0));
        area.draw(&Text::new(group.name.clone(), (x, y + 8), style.clone()))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(workload: &str, contender: &'static str, ratio: f64) -> Row {
        let spread = Spread { median: ratio, min: ratio * 0.9, max: ratio * 1.1, count: 5 };
        Row {
            workload: workload.to_owned(),
            contender,
            metric: THROUGHPUT,
            rounds: 3,
            value: spread,
            to_baseline: Some(spread),
            to_limit: None,
            path_verified: true,
        }
    }

    #[test]
    fn bars_stand_in_the_order_of_the_contenders() {
        let rows = [
            row("tcp-stream-1", "ovl-vxlan", 1.5),
            row("tcp-stream-1", "kernel-vxlan", 1.0),
            row("tcp-stream-1", "host", 2.0),
            row("tcp-stream-8", "host", 3.0),
        ];
        let groups = groups(&rows, |_| true);
        let places: Vec<Vec<_>> =
            groups.iter().map(|group| group.bars.iter().map(|(place, _)| *place).collect()).collect();
        assert_eq!(places, [vec![0, 3], vec![0]]);
    }

    #[test]
    fn a_plot_is_an_svg_with_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [row("tcp-stream-1", "ovl-vxlan", 1.5), row("udp-64", "host", 2.0)];
        assert_eq!(draw(folder.path(), &rows).unwrap(), ["throughput"]);
        let text = std::fs::read_to_string(folder.path().join("throughput.svg")).unwrap();
        for part in ["<svg", "tcp-stream-1", "udp-64", "ovl-vxlan", "host"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
