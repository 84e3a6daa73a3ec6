//! Plain tables with columns that line up.

/// Formats `rows`; the first is the heading. The first column is flush left, the others as `numbers` says.
pub(crate) fn format(rows: &[Vec<String>], numbers: bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if numbers && column > 0 { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        format!("    {}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A whole number with spaces between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["", "kernel", "ebpf"]), row(["µs", "14.9", "8.5"])];
        assert_eq!(format(&rows, true), "         kernel   ebpf\n    µs     14.9    8.5\n");
        assert_eq!(format(&rows, false), "         kernel   ebpf\n    µs   14.9     8.5\n");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(["7", "999", "1 000", "1 234 567"], [7, 999, 1000, 1_234_567].map(grouped)[..]);
    }
}
