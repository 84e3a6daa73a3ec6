//! The report as Markdown, with plots.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::findings::Findings;
use super::tables::Table;
use super::{facts, plot};

/// How to read it.
const READING: &str = "Contenders took turns within a round; ratios are medians over rounds of ratios within a round. \
    Those of rates and times are above 1 for who is ahead of the reference, those of costs below 1 for who is cheaper. \
    `±` is half the spread; what spreads over more than 20 % says so.";

/// Writes `report.md` and its plots into a folder.
pub(super) fn write(folder: &Path, plan: &str, findings: &Findings) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let plots = plot::draw(folder, &findings.results.rows())?;
    let file = folder.join("report.md");
    let text = text(plan, findings, &plots, &facts::all(&findings.offloads));
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    println!("    {}", file.display());
    Ok(())
}

fn text(plan: &str, findings: &Findings, plots: &[String], facts: &[(String, String)]) -> String {
    let mut parts = vec!["# ovl, measured".to_owned(), format!("{plan}."), READING.to_owned()];
    parts.extend(plots.iter().map(|plot| format!("![{plot}]({plot}.svg)")));
    parts.extend(findings.tables().iter().map(section));
    let facts: Vec<_> = facts.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let lists =
        [("What does not count", &findings.failures), ("Notes", &findings.notes), ("The machine", &facts)];
    for (title, lines) in lists.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        let lines: Vec<_> = lines.iter().map(|line| format!("- {}", line.replace('\n', " "))).collect();
        parts.push(format!("## {title}\n\n{}", lines.join("\n")));
    }
    parts.join("\n\n") + "\n"
}

fn section(table: &Table) -> String {
    let mut lines: Vec<_> = table.rows.iter().map(|cells| format!("| {} |", cells.join(" | "))).collect();
    let columns = table.rows.first().map_or(0, Vec::len);
    lines.insert(1.min(lines.len()), format!("|---{}|", "|---:".repeat(columns.saturating_sub(1))));
    format!("## {}\n\n{}", table.title, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_become_markdown() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let table = Table {
            title: "medians".to_owned(),
            rows: vec![row(["", "host", "ovl-vxlan"]), row(["load", "1", "2"])],
        };
        let expected = "## medians\n\n|  | host | ovl-vxlan |\n|---|---:|---:|\n| load | 1 | 2 |";
        assert_eq!(section(&table), expected);
    }

    #[test]
    fn what_failed_is_told() {
        let findings =
            Findings { failures: vec!["udp-64, ovl-vxlan: lost".to_owned()], ..Findings::default() };
        let text = text("1 round", &findings, &["streams".to_owned()], &[("kernel".into(), "6.18".into())]);
        assert!(
            text.contains("- udp-64, ovl-vxlan: lost\n") && text.contains("![streams](streams.svg)"),
            "{text}"
        );
        assert!(text.ends_with("## The machine\n\n- kernel: 6.18\n"), "{text}");
    }
}
